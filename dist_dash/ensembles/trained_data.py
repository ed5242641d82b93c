"""Data that are read again for a finished run must be the data that it was trained on."""

from __future__ import annotations

from collections.abc import Callable

from dist_dash.data.data_facts import Outline
from dist_dash.data.same_data import some_classes, what_differs
from dist_dash.data.source import Splits
from dist_dash.ensembles.ensemble import StoredEnsemble
from dist_dash.errors import BadInput

Tell = Callable[[str], None]
"""Takes a line for the user."""


NOT_COMPARED = "ensemble.json has no digest of the data: whether they are those that were trained on cannot be checked"


def as_trained(splits: Splits, stored: StoredEnsemble, tell: Tell | None = None) -> Splits:
    """The data of a run, once it is certain that they are: without classes that are new, where all else is as it was.

    Args:
        splits: the data as they are now.
        stored: the run's members, which know what they were trained on.
        tell: takes what cannot be checked, and what is left out.

    Raises:
        BadInput: they are other data.
    """
    own, names, now, part = stored.outline, stored.class_names, splits.class_names, splits
    if names and now and names != now and set(names) <= set(now) and len(splits.heads) == 1:
        part = splits.with_classes(names)
    then = stored.data or {"class_names": names}
    if _unlike(part, own) or what_differs(then, part.facts.as_json()):
        what = "; ".join(filter(None, [*_unlike(splits, own), what_differs(then, splits.facts.as_json())]))
        run = stored.folder.parent
        others = f"`dist-dash evaluate {run} --data …` evaluates others"
        raise BadInput(f"data: these are not the data that {run} was trained on ({what}); bring those back; {others}")
    if tell and stored.data is None:
        tell(NOT_COMPARED)
    if tell and (new := [name for name in now or [] if names and name not in names]):
        tell(f"data: {some_classes(new)} new since {stored.folder.parent} was trained; their samples are left out")
    return part


def _unlike(splits: Splits, own: Outline) -> list[str]:
    """What of the samples themselves is another than the run's, in words."""
    now = {"shape": splits.shape, "uint8": splits.uint8, "classes": splits.classes}
    then = {"shape": own.shape, "uint8": own.uint8, "classes": own.classes}
    return [f"{name} {now[name]} instead of {then[name]}" for name in now if now[name] != then[name]]
