"""`--data` of commands that look at other data than a run's own: a source as in recipes, or an `.npz` file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dist_dash.data import Source
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import ArraySplit, Split
from dist_dash.errors import BadInput, require
from dist_dash.metrics.predictions import load_arrays
from dist_dash.recipe.parsing import explained, new_parser, spelled_words
from dist_dash.recipe.problems import Fields, given_by


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
        return _fitting(_of_file(given, own), own, given)
    splits = source_of([f"--data={given}", *fields]).load()
    require(splits.classes == own.classes, "data: classes", splits.classes, f"{own.classes}, as in the run's data")
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    split = named[name or "test"]
    if split is None:
        raise BadInput(f"split: {name!r} does not exist in {given}; it must be train or test")
    return _fitting(split, own, given)


def _fitting(split: Split, own: DataSet, given: str) -> Split:
    if split.shape != own.shape:
        raise BadInput(f"data: {given} holds samples of shape {split.shape}; it must be the run's, {own.shape}")
    if (split.dtype == np.uint8) != own.uint8:
        ours = "uint8" if own.uint8 else "floating-point numbers"
        raise BadInput(f"data: {given} holds {split.dtype}; it must hold {ours}, as the run's data do")
    return split


def source_of(given: Sequence[str]) -> Source:
    """A data source from arguments: `--data=…` and its fields.

    Raises:
        BadInput: there is no such source, or it does not take these fields.
    """
    parser = new_parser("evaluate")
    parser.add_subclass_arguments(Source, "data", required=True)

    def parse() -> Source:
        source: Source = parser.instantiate(parser.parse_args(spelled_words(given))).data
        return source

    return explained(parse, lambda: given_by(given, {}), Fields({"data": Source}, frozenset({"data"})))


def _of_file(given: str, own: DataSet) -> ArraySplit:
    arrays = load_arrays(Path(given), "data")
    if not {"x", "y"} <= set(arrays):
        raise BadInput(f"data: {given} holds {sorted(arrays)}; it must hold x, samples [N, …], and y, labels [N]")
    x, y = arrays["x"], arrays["y"]
    if x.dtype.kind not in "uif" or x.ndim < 2 or 0 in x.shape:
        raise BadInput(f"data: x of {given} holds {x.dtype} {x.shape}; it must hold numbers [N, …], none of them 0")
    if y.dtype.kind not in "ui" or y.shape != x.shape[:1]:
        raise BadInput(f"data: y of {given} holds {y.dtype} {y.shape}; it must hold {len(x)} whole numbers")
    wrong = y[(y < 0) | (y >= own.classes)]
    if len(wrong):
        raise BadInput(f"data: label {wrong[0]} in y of {given}; labels must lie in 0 … {own.classes - 1}")
    if x.dtype.kind == "f":
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise BadInput(f"data: x of {given} holds NaN or infinite values; all must be finite")
    elif own.uint8 and x.min() >= 0 and x.max() <= 255:
        x = x.astype(np.uint8)
    return ArraySplit(x, y)
