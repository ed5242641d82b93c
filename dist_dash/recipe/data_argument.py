"""`--data` of commands that look at other data than a run's own: a source as in recipes, or an `.npz` file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dist_dash.data import Source
from dist_dash.data.data_facts import Outline
from dist_dash.data.dataset import DataSet
from dist_dash.data.fitting import fitting_labels, fitting_samples, fitting_split
from dist_dash.data.source import ArraySplit, Split, Splits
from dist_dash.errors import BadInput, require
from dist_dash.metrics.predictions import load_arrays
from dist_dash.ranks.launched import Launcher
from dist_dash.recipe.parsing import explained, new_parser, spelled_words
from dist_dash.recipe.problems import Fields, given_by
from dist_dash.runs.choices import spelled
from dist_dash.runs.record import say


def other_split(given: str, fields: Sequence[str], name: str | None, own: DataSet) -> Split:
    """Samples of other data that suit a run.

    Args:
        given: a source, by the name that recipes have for it, or an `.npz` file with x and y.
        fields: of the source, `--data.field=value`.
        name: of its split; None: `test`.
        own: the run's data.

    Raises:
        BadInput: they cannot be read, or have another shape, type or number of classes than the run's data.
    """
    if given.endswith(".npz"):
        if fields:
            raise BadInput(f"{fields[0].lstrip('-').partition('=')[0]}: no such field; an .npz file has none")
        require(name is None, "split", name, "left out with an .npz file, which has no splits")
        return _of_file(given, own.outline)
    splits = loaded([f"--data={given}", *fields])
    require(splits.classes == own.classes, "data: classes", splits.classes, f"{own.classes}, as in the run's data")
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    split = named[name or "test"]
    if split is None:
        raise BadInput(f"split: {name!r} does not exist in {given}; it must be train or test")
    if split.shape != own.shape:
        raise BadInput(f"data: {given} holds samples of shape {split.shape}; it must be the run's, {own.shape}")
    return fitting_split(split, own.outline, f"data: {given}")


def source_of(given: Sequence[str] | dict[str, Any]) -> Source:
    """A data source from arguments, `--data=…` and its fields, or from what a recipe has under `data`.

    Raises:
        BadInput: there is no such source, or it does not take these fields.
    """
    parser = new_parser("evaluate")
    parser.add_subclass_arguments(Source, "data", required=True)

    def parse() -> Source:
        if isinstance(given, dict):
            parsed = parser.parse_object({"data": spelled(given)})
        else:
            parsed = parser.parse_args(spelled_words(given))
        source: Source = parser.instantiate(parsed).data
        return source

    def there() -> dict[str, Any]:
        return {"data": given} if isinstance(given, dict) else given_by(given, {}, [])

    return explained(parse, there, Fields({"data": Source}, frozenset({"data"})))


def loaded(given: Sequence[str]) -> Splits:
    """The data of `source_of(given)`; the first rank says what is to be said of them. Raises `BadInput`."""
    splits = source_of(given).load()
    if Launcher().rank == 0:
        for remark in splits.remarks:
            say(remark)
    return splits


def _of_file(given: str, trained_on: Outline) -> ArraySplit:
    arrays = load_arrays(Path(given), "data")
    if not {"x", "y"} <= set(arrays):
        raise BadInput(f"data: {given} holds {sorted(arrays)}; it must hold x, samples [N, …], and y, labels [N]")
    x = fitting_samples(arrays["x"], trained_on, f"data: x of {given}")
    return ArraySplit(x, fitting_labels(arrays["y"], len(x), trained_on, f"data: y of {given}"))
