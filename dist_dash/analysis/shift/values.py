"""What stored values mean: from bytes or floats to 0 … 1 and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_dash.analysis.shift.image import Image, whole
from dist_dash.data.dataset import DataSet
from dist_dash.data.rng import sample_rng
from dist_dash.seeds import derived_seed

_PROBE = 1024
"""The range of float data is taken over so many training samples."""


@dataclass(frozen=True)
class Values:
    """The range that stored values are corrupted in.

    Args:
        low: the smallest value: 0 for bytes, else one per channel `[C, 1, 1]` or per feature `[F]`.
        high: the largest value, likewise.
        dtype: of stored samples, uint8 or float32.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    dtype: np.dtype

    def unit(self, sample: NDArray) -> Image:
        """Stored → 0 … 1, float64; values beyond the range are cut. 0 where the range is a single value."""
        width = self.high - self.low
        return np.clip((sample - self.low) / np.where(width > 0, width, 1), 0, 1)

    def stored(self, image: Image, down: bool = False) -> NDArray:
        """0 … 1 → stored, of the dtype; values beyond are cut, bytes rounded: `down`, as published corruptions are."""
        if self.dtype == np.uint8:
            return np.rint((whole(image) if down else np.clip(image, 0, 1)) * 255).astype(np.uint8)
        return (self.low + np.clip(image, 0, 1) * (self.high - self.low)).astype(self.dtype)

    def as_json(self) -> dict[str, Any]:
        """For `shift.json`."""
        return {"low": np.ravel(self.low).tolist(), "high": np.ravel(self.high).tolist(), "dtype": str(self.dtype)}


def values_of(data: DataSet, seed: int) -> Values:
    """The range of a data set: of bytes all they can hold; of floats the smallest and the largest training value.

    The latter per channel or feature, over up to 1024 training samples that the seed chooses.
    """
    if data.uint8:
        return Values(np.array(0.0), np.array(255.0), np.dtype(np.uint8))
    order = sample_rng(seed, 0, 0, derived_seed("shift range")).permutation(len(data.train))
    samples = np.stack([data.train.evaluation(int(index)) for index in order[:_PROBE]]).astype(np.float64)
    axes = (0, 2, 3) if samples.ndim == 4 else (0,)
    shape = (-1, 1, 1) if samples.ndim == 4 else (-1,)
    return Values(samples.min(axes).reshape(shape), samples.max(axes).reshape(shape), np.dtype(np.float32))
