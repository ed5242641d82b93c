"""The one check of what a trained network is given: kind of numbers, range, shape, finite, labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dist_dash.data.data_facts import Outline
from dist_dash.data.source import ArraySplit, Split
from dist_dash.errors import BadInput


def fitting_samples(x: NDArray, trained_on: Outline, name: str) -> NDArray:
    """Samples of the shape and in the unit that a network was trained on: uint8 or float32 `[N, *shape]`.

    Args:
        x: whatever came.
        trained_on: the network's training data.
        name: of the samples in messages.

    Raises:
        BadInput: see `fitting_values`; or they have another shape.
    """
    if x.shape[1:] != trained_on.shape or not len(x):
        expected = ", ".join(map(str, trained_on.shape))
        raise BadInput(f"{name}: shape {x.shape} is not allowed; it must be [N, {expected}] with N ≥ 1")
    return fitting_values(x, trained_on, name)


def fitting_values(x: NDArray, trained_on: Outline, name: str) -> NDArray:
    """The same of samples of any shape. Whole numbers in 0 … 255 are bytes, whatever their type.

    Raises:
        BadInput: they are no numbers, not finite, or in another unit than the training data.
    """
    if x.dtype.kind not in "uif":
        raise _refusal(trained_on, name, f"{x.dtype}, which are no numbers")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise _refusal(trained_on, name, "NaN or infinite values")
    low, high = x.min(), x.max()
    came = f"{x.dtype} from {low:g} to {high:g}"
    if not trained_on.uint8:
        if x.dtype.kind != "f" or not _in_unit(low, high, trained_on):
            raise _refusal(trained_on, name, came)
        return x
    if low < 0 or high > 255:
        raise _refusal(trained_on, name, came)
    if x.dtype.kind == "f" and high <= 1:
        raise _refusal(trained_on, name, came, "; multiply by 255")
    whole = x.dtype.kind != "f" or not (x % 1).any()
    return x.astype(np.uint8, copy=False) if whole else x


def fitting_split(split: Split, trained_on: Outline, name: str) -> Split:
    """A split whose samples are in the unit trained on, of any shape; no file is decoded for it. Raises `BadInput`."""
    if isinstance(split, ArraySplit):
        return ArraySplit(fitting_values(split.samples, trained_on, name), split.labels)
    if (split.dtype == np.uint8) != trained_on.uint8:
        raise _refusal(trained_on, name, str(split.dtype))
    return split


def fitting_labels(y: NDArray, samples: int, trained_on: Outline, name: str) -> NDArray[np.int64]:
    """Labels, one for each of so many samples. Raises `BadInput`."""
    if y.dtype.kind not in "ui" or y.shape != (samples,):
        raise BadInput(f"{name} holds {y.dtype} {y.shape}; it must hold {samples} whole numbers, one per sample")
    wrong = y[(y < 0) | (y >= trained_on.classes)]
    if len(wrong):
        raise BadInput(f"{name}: label {wrong[0]} is not allowed; labels must lie in 0 … {trained_on.classes - 1}")
    return y.astype(np.int64)


def _in_unit(low: float, high: float, trained_on: Outline) -> bool:
    """Whether pixels can be in the unit of the training data's; features of other data have none in common.

    They are not where they reach ten times the training data's range beyond it (bytes for 0 … 1, also normalised), or
    are all nearer to 0 than a 200th of that range (0 … 1 for 0 … 255), unless all are equal: a picture may be black.
    """
    if trained_on.values is None or len(trained_on.shape) != 3:
        return True
    least, greatest = trained_on.values
    span = greatest - least
    beyond = low < least - 10 * span or high > greatest + 10 * span
    return not beyond and (low == high or 200 * max(-low, high) > span)


def _refusal(trained_on: Outline, name: str, came: str, hint: str = "") -> BadInput:
    unit = "bytes (uint8, 0 … 255)" if trained_on.uint8 else "floating-point numbers"
    if trained_on.values is not None:
        unit += f" from {trained_on.values[0]:g} to {trained_on.values[1]:g}"
    return BadInput(f"{name} holds {came}; the network was trained on {unit} and normalises them itself{hint}")
