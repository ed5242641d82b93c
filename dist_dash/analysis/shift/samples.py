"""Which samples are used, and how they are changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from dist_dash.data.dataset import DataSet
from dist_dash.data.rng import sample_rng
from dist_dash.data.source import Split, SubsetSplit
from dist_dash.errors import BadInput
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


class ResizedSplit(Split):
    """Images of another size and number of channels: bilinear; grey from the mean of channels, channels from grey.

    Raises:
        BadInput: one of both shapes is no image's, or the channels cannot be made to fit.
    """

    def __init__(self, base: Split, shape: tuple[int, ...]) -> None:
        fits = len(base.shape) == len(shape) == 3 and (base.shape[0] == shape[0] or 1 in (base.shape[0], shape[0]))
        if not fits:
            raise BadInput(
                f"resize: samples {base.shape} cannot become {shape}; both must be images, of 1 or as many channels"
            )
        self.base = base
        self.shape = shape
        self.dtype = base.dtype
        self.labels = base.labels

    def read(self, index: int) -> NDArray:
        image = self.base.evaluation(index).astype(np.float32)
        channels, height, width = self.shape
        if channels == 1 and len(image) > 1:
            image = image.mean(0, keepdims=True)
        bilinear = Pillow.Resampling.BILINEAR
        resized = np.stack([np.asarray(Pillow.fromarray(one).resize((width, height), bilinear)) for one in image])
        found = np.broadcast_to(resized, self.shape)
        return (np.rint(found) if self.dtype == np.uint8 else found).astype(self.dtype)

    def name(self, index: int) -> str:
        return self.base.name(index)


def made_to_fit(split: Split, shape: tuple[int, ...], resize: bool, what: str) -> Split:
    """The split, resized where its samples have another shape.

    Args:
        split: some samples.
        shape: the run's.
        resize: whether that is allowed.
        what: the samples, as an error begins.

    Raises:
        BadInput: it is not allowed, or not possible.
    """
    if split.shape == shape:
        return split
    if not resize:
        hint = ", or give --resize" if len(split.shape) == len(shape) == 3 else ""
        raise BadInput(f"{what} have shape {split.shape}; it must be the run's, {shape}{hint}")
    return ResizedSplit(split, shape)


def subset(split: Split, samples: int | None, seed: int) -> SubsetSplit:
    """`samples` of a split that the seed chooses, in their order; all of them for None, or where there are fewer."""
    order = sample_rng(seed, 0, 0, derived_seed("shift samples")).permutation(len(split))
    return SubsetSplit(split, np.sort(order[:samples]))


def divided(data: DataSet, samples: int | None, seed: int, paired: bool = True) -> tuple[SubsetSplit, SubsetSplit, str]:
    """Samples that temperatures are fitted on, and samples that figures are reported on: never the same.

    The former are from the validation split where there is one, else a half of the chosen test samples; at most
    `samples` of each split are used. Not `paired`: it is unknown which test samples were corrupted, so that none may be
    fitted on.

    Returns:
        The two, and in words where the former are from.
    """
    test = subset(data.test, samples, seed)
    if data.validation is not None:
        fitting = subset(data.validation, samples, seed)
        return fitting, test, "clean validation samples"
    if not paired:
        return SubsetSplit(data.test, test.indices[:0]), test, ""
    order = sample_rng(seed, 0, 0, derived_seed("shift halves")).permutation(len(test))
    halves = order[: len(test) // 2], order[len(test) // 2 :]
    fitting, reported = (SubsetSplit(data.test, np.sort(test.indices[half])) for half in halves)
    return fitting, reported, "clean test samples, a half; scores are of the other half"
