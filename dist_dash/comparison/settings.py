"""The choices of a run as texts that can be compared, and names made of what differs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dist_dash.errors import BadInput
from dist_dash.runs.choices import WITHOUT_EFFECT, bare, differing, flat, under

Settings = Mapping[str, str]
CLASS = ".class_path"


def settings_of(recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> tuple[str, Settings, Settings, Settings]:
    """The name of the method's class; settings, labels and data by field.

    The settings are all choices that may make a difference: neither the seed, nor what a resumed run may change, nor
    the data and the labels, which make a comparison and its sections. A choice that no recipe holds is among them: the
    replicas of a member, which widen its batch, and how a run was extended.

    Args:
        recipe: a run's `recipe.yaml`.
        environment: its `environment.json`.

    Raises:
        BadInput: the recipe names no method.
    """
    method = recipe.get("method")
    if not isinstance(method, Mapping) or not isinstance(method.get("class_path"), str):
        raise BadInput(f"run: method: {method!r} is not allowed in a recipe; it must have a class_path")
    known = texts(recipe)
    layout = environment.get("layout")
    if isinstance(layout, Mapping):
        known["replicas"] = text(layout.get("replicas"))
    if environment.get("extended"):  # other learning rates than those of a run that was this long from the start
        known["extended"] = text(environment["extended"])
    left = {name: value for name, value in known.items() if name != "seed" and not under(name, WITHOUT_EFFECT)}
    labels = {name: value for name, value in left.items() if under(name, ("labels",))}
    data = {name: value for name, value in left.items() if under(name, ("data",))}
    settings = {name: value for name, value in left.items() if name not in labels and name not in data}
    return bare(method["class_path"]).rpartition(".")[2], settings, labels, data


def texts(nested: Mapping[str, Any]) -> dict[str, str]:
    """Nested choices by field, as texts."""
    return {field: text(value) for field, value in flat(nested).items()}


def text(value: Any) -> str:
    """A choice as text: equal numbers alike, whether they were written 1 or 1.0."""
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {text(inner)}' for name, inner in value.items())}}}"
    return str(value)


def names(groups: Sequence[tuple[str, Settings]]) -> list[str]:
    """A readable name for each group: its method, and what tells it from others, `DASH rho_loss=0.1 rho_div=0.3`.

    A choice within a component (`method.rho`, `optimizer.lr`) is named where two groups with the same component differ
    in it; what only one of the components knows says nothing.

    Args:
        groups: name of the method's class, and settings; no two have the same settings.
    """
    settings = [own for _, own in groups]
    paths = {own["method" + CLASS] for own in settings}
    short = {path.rpartition(".")[2] for path in paths}
    found = []
    for method, own in groups:
        name = [method if len(short) == len(paths) else own["method" + CLASS]]
        for field, value in sorted(own.items(), key=lambda item: not under(item[0], ("method",))):
            component = field.partition(".")[0] + CLASS
            if field == "method" + CLASS:
                continue
            alike = settings if field == component else [o for o in settings if o.get(component) == own.get(component)]
            if len({other.get(field) for other in alike}) > 1:
                name.append(_told(field, value, {other[field] for other in alike if field in other}))
        found.append(" ".join(name))
    return found


def section_names(labels: Sequence[Settings]) -> list[str]:
    """A readable name for each condition: its label noise, and what else differs."""
    fields = [name for name in differing(labels) if name != "labels.noise"]
    found = []
    for own in labels:
        parts = [_noise(own["labels.noise"])] if "labels.noise" in own else []
        found.append(", ".join([*parts, *(f"{name}={own[name]}" for name in fields if name in own)]))
    return found


def _noise(share: str) -> str:
    try:
        return f"{text(round(100 * float(share), 10))} % label noise" if float(share) else "no label noise"
    except ValueError:
        return f"labels.noise={share}"


def _told(field: str, value: str, values: Iterable[str]) -> str:
    """A choice in a name: `rho=0.1` of the method, `optimizer.lr=0.1` of others, `model=SmallCNN` for a class."""
    if field.endswith(CLASS):
        paths = set(values)
        short = {path.rpartition(".")[2] for path in paths}
        return f"{field.removesuffix(CLASS)}={value.rpartition('.')[2] if len(short) == len(paths) else value}"
    return f"{field.removeprefix('method.')}={value}"


def slug(name: str) -> str:
    """Lower-case letters, digits and hyphens of a name, for a file or a folder; may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
