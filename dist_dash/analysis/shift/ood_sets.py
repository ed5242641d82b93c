"""Sets of out-of-distribution samples: made of the data itself, or another data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_dash.analysis.shift.samples import ChangedSplit, made_to_fit, subset
from dist_dash.analysis.shift.values import Values
from dist_dash.data.dataset import DataSet
from dist_dash.data.fitting import fitting_split
from dist_dash.data.rng import sample_rng
from dist_dash.data.source import ArraySplit, Split, SubsetSplit
from dist_dash.errors import BadInput
from dist_dash.metrics.predictions import load_arrays
from dist_dash.recipe.data_argument import loaded
from dist_dash.seeds import derived_seed


@dataclass(frozen=True)
class OodSet:
    """A name, what it holds in one line, and samples of the shape and dtype of the run's."""

    name: str
    text: str
    split: Split


# -- made of the data --------------------------------------------------------------------------------------------------


def built_in(base: SubsetSplit, values: Values, seed: int) -> list[OodSet]:
    """Sets that any data allow: one sample of each for one sample of `base`."""
    places = int(np.prod(base.shape[-2:])) if len(base.shape) == 3 else base.shape[0]
    what = "pixels" if len(base.shape) == 3 else "features"
    sets = [
        ("uniform noise", "every value drawn evenly from the range", partial(_noise, values=values, seed=seed)),
        ("inverted", "the data's own samples, low values for high ones", partial(_inverted, values=values)),
    ]
    if places > 1:  # of one place there is no other order
        change = partial(_permuted, values=values, order=_other_order(places, seed))
        sets.insert(1, (f"permuted {what}", f"the data's own samples, their {what} in one other, fixed order", change))
    return [OodSet(name, text, ChangedSplit(base, change)) for name, text, change in sets]


def _noise(sample: NDArray, index: int, values: Values, seed: int) -> NDArray:
    return values.stored(sample_rng(seed, 0, index, derived_seed("shift noise")).random(sample.shape))


def _permuted(sample: NDArray, index: int, values: Values, order: NDArray[np.intp]) -> NDArray:
    # In 0 … 1: features of vectors have ranges of their own.
    unit = values.unit(sample)
    return values.stored(unit.reshape(-1, len(order))[:, order].reshape(unit.shape))


def _inverted(sample: NDArray, index: int, values: Values) -> NDArray:
    return values.stored(1 - values.unit(sample))


def _other_order(places: int, seed: int) -> NDArray[np.intp]:
    order = sample_rng(seed, 0, 0, derived_seed("shift order")).permutation(places)
    return np.roll(order, 1) if np.array_equal(order, np.arange(places)) else order


# -- another data set --------------------------------------------------------------------------------------------------


def other(given: str, fields: Sequence[str], data: DataSet, resize: bool, samples: int | None, seed: int) -> OodSet:
    """Another data set, as `--ood` names it.

    Args:
        given: an .npz file with `x`, or a source of recipes.
        fields: `--ood.field value …` of a source.
        data: the run's, whose shape and dtype are needed.
        resize: whether images of another shape are made to fit.
        samples: so many of them, chosen by the seed; None for all.
        seed: see there.

    Raises:
        BadInput: it cannot be read, or its samples do not fit the run's.
    """
    if given.endswith(".npz"):
        if fields:
            raise BadInput(f"{fields[0].lstrip('-').partition('=')[0]}: no such field; an .npz file has none")
        name = Path(given).name
        split: Split = _from_file(given)
    else:
        name = given.rpartition(".")[2]
        split = _from_source(given, fields)
    chosen = subset(fitting_split(split, data.outline, f"ood: {name}"), samples, seed)
    text = f"{len(chosen)} samples of {name}"
    fitted = made_to_fit(chosen, data.shape, resize, f"ood: samples of {name}")
    return OodSet(name, text if fitted is chosen else f"{text}, resized from {split.shape}", fitted)


def _from_source(given: str, fields: Sequence[str]) -> Split:
    """The test split of the source that a recipe's `data` would be with the same words."""
    try:
        return loaded([f"--data={given}", *(re.sub(r"^--ood\.", "--data.", field) for field in fields)]).test
    except BadInput as error:
        raise BadInput(re.sub(r"\bdata(?=[.:])", "ood", str(error))) from error


def _from_file(given: str) -> ArraySplit:
    arrays = load_arrays(Path(given), "ood")
    if "x" not in arrays:
        raise BadInput(
            f"ood: {given} holds {sorted(arrays)}; it must hold x, the samples [N, …] "
            "(of x_test use --ood Arrays --ood.path FILE)"
        )
    x = arrays["x"]
    if x.ndim not in (2, 4) or 0 in x.shape:
        raise BadInput(f"ood: x holds {x.dtype} {x.shape}; it must be [N, C, H, W] or [N, F], none of them 0")
    return ArraySplit(x, np.zeros(len(x), np.int64))
