"""What a network was trained on, and the one check of what else it is given: kind of numbers, range, shape, finite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_dash.data.source import ArraySplit, Split
from dist_dash.errors import BadInput


@dataclass(frozen=True)
class TrainedOn:
    """The samples and labels that a network knows.

    Args:
        shape: of a sample, `(C, H, W)` or `(F,)`.
        classes: how many.
        uint8: whether samples were bytes, 0 … 255; otherwise they were floating-point numbers.
    """

    shape: tuple[int, ...]
    classes: int
    uint8: bool

    def samples(self, x: NDArray, name: str) -> NDArray:
        """Samples of the shape trained on, as `values` returns them; in messages they are called `name`."""
        if x.shape[1:] != self.shape or not len(x):
            expected = ", ".join(map(str, self.shape))
            raise BadInput(f"{name}: shape {x.shape} is not allowed; it must be [N, {expected}] with N ≥ 1")
        return self.values(x, name)

    def values(self, x: NDArray, name: str) -> NDArray:
        """Samples in the unit trained on, of any shape: uint8 or float32.

        Whole numbers in 0 … 255 are bytes, whatever their type.

        Raises:
            BadInput: they are no such numbers, or not finite.
        """
        if x.dtype.kind not in "uif":
            raise self._refusal(name, f"{x.dtype}, which are no numbers")
        if x.dtype.kind == "f":
            with np.errstate(over="ignore"):
                x = x.astype(np.float32, copy=False)
            if not np.isfinite(x).all():
                raise self._refusal(name, "NaN or infinite values")
        low, high = x.min(), x.max()
        came = f"{x.dtype} from {low:g} to {high:g}"
        if not self.uint8:
            if x.dtype.kind != "f":
                raise self._refusal(name, came)
            return x
        if low < 0 or high > 255:
            raise self._refusal(name, came)
        if x.dtype.kind == "f" and high <= 1:
            raise self._refusal(name, came, "; multiply by 255")
        whole = x.dtype.kind != "f" or not (x % 1).any()
        return x.astype(np.uint8, copy=False) if whole else x

    def labels(self, y: NDArray, samples: int, name: str) -> NDArray[np.int64]:
        """Labels, one for each of so many samples. Raises `BadInput`."""
        if y.dtype.kind not in "ui" or y.shape != (samples,):
            raise BadInput(f"{name} holds {y.dtype} {y.shape}; it must hold {samples} whole numbers, one per sample")
        wrong = y[(y < 0) | (y >= self.classes)]
        if len(wrong):
            raise BadInput(f"{name}: label {wrong[0]} is not allowed; labels must lie in 0 … {self.classes - 1}")
        return y.astype(np.int64)

    def split(self, split: Split, name: str) -> Split:
        """A split whose samples are in the unit trained on; no file is decoded for it. Raises `BadInput`."""
        if isinstance(split, ArraySplit):
            return ArraySplit(self.values(split.samples, name), split.labels)
        if (split.dtype == np.uint8) != self.uint8:
            raise self._refusal(name, str(split.dtype))
        return split

    def _refusal(self, name: str, came: str, hint: str = "") -> BadInput:
        unit = "bytes (uint8, 0 … 255)" if self.uint8 else "floating-point numbers"
        return BadInput(f"{name} holds {came}; the network was trained on {unit} and normalises them itself{hint}")
