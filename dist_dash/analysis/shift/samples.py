"""Which samples are used, and how they are changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dist_dash.data.dataset import DataSet
from dist_dash.data.rng import sample_rng
from dist_dash.data.source import Split, SubsetSplit
from dist_dash.seeds import derived_seed

Change = Callable[[NDArray, int], NDArray]
"""A stored sample and its position in the split → the sample that takes its place, of the same shape and dtype."""


class ChangedSplit(Split):
    """A split whose samples are changed as they are read: by the processes that read, where there are any.

    Args:
        base: the samples as they are.
        change: may depend on the sample's position in `base.base`, the split that it was chosen from.
    """

    def __init__(self, base: SubsetSplit, change: Change) -> None:
        self.base = base
        self.change = change
        self.labels = base.labels
        self.shape = base.shape
        self.dtype = base.dtype

    def read(self, index: int) -> NDArray:
        return self.change(self.base.evaluation(index), int(self.base.indices[index]))

    def name(self, index: int) -> str:
        return self.base.name(index)


def subset(split: Split, samples: int | None, seed: int) -> SubsetSplit:
    """`samples` of a split that the seed chooses, in their order; all of them for None, or where there are fewer."""
    order = sample_rng(seed, 0, 0, derived_seed("shift samples")).permutation(len(split))
    return SubsetSplit(split, np.sort(order[:samples]))


def divided(data: DataSet, samples: int | None, seed: int) -> tuple[SubsetSplit, SubsetSplit, str]:
    """Samples that temperatures are fitted on, and samples that figures are reported on: never the same.

    The former are from the validation split where there is one, else a half of the chosen test samples; at most
    `samples` of each split are used.

    Returns:
        The two, and in words where the former are from.
    """
    test = subset(data.test, samples, seed)
    if data.validation is not None:
        fitting = subset(data.validation, samples, seed)
        return fitting, test, "clean validation samples"
    order = sample_rng(seed, 0, 0, derived_seed("shift halves")).permutation(len(test))
    halves = order[: len(test) // 2], order[len(test) // 2 :]
    fitting, reported = (SubsetSplit(data.test, np.sort(test.indices[half])) for half in halves)
    return fitting, reported, "clean test samples, a half; scores are of the other half"
