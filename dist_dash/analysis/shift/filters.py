"""Linear filters that several corruptions are made of."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dist_dash.analysis.shift.image import Image


def smoothed(image: Image, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Image:
    """A Gaussian filter over the last two axes; `mode` continues the image beyond its border, as in scipy."""
    if sigma == 0:
        return image
    rows, columns = (_smoothing(side, sigma, mode, truncate) for side in image.shape[-2:])
    return rows @ image @ columns.T


@lru_cache(maxsize=64)
def _smoothing(side: int, sigma: float, mode: str, truncate: float) -> Image:
    """The matrix `[side, side]` that filters a line: faster than the filter, above all for a wide one."""
    return ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode=mode, truncate=truncate)


def smeared(image: Image, radius: int, sigma: float, degrees: float) -> Image:
    """Each pixel from those on a line that begins at it, weighted by half a Gaussian; edges are continued.

    The 2 · radius + 1 points of the line are the pixels that ImageMagick's motion blur takes.
    """
    along = np.arange(2 * radius + 1)
    weights = np.exp(-(along**2) / (2 * sigma**2))
    along, weights = along[weights > 1e-6], weights[weights > 1e-6]
    weights /= weights.sum()
    direction = math.radians(degrees)
    rows = np.ceil(along * math.sin(direction) - 0.5).astype(int)
    columns = np.ceil(along * math.cos(direction) - 0.5).astype(int)
    before = -rows.min(), -columns.min()
    around = (before[0], rows.max()), (before[1], columns.max())
    padded = np.pad(image, [(0, 0)] * (image.ndim - 2) + list(around), mode="edge")
    height, width = image.shape[-2:]
    total = np.zeros_like(image)
    for row, column, weight in zip(rows + before[0], columns + before[1], weights, strict=True):
        total += weight * padded[..., row : row + height, column : column + width]
    return total


def magnified(image: Image, factor: float) -> Image:
    """The middle of the last two axes, magnified by linear interpolation; of the same size."""
    for axis in (-2, -1):
        first, second, share = _magnification(image.shape[axis], factor)
        share = share if axis == -1 else share[:, None]
        image = image.take(first, axis) * (1 - share) + image.take(second, axis) * share
    return image


@lru_cache(maxsize=256)
def _magnification(side: int, factor: float) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Per pixel of a line: the two that it is made of, and the share of the second.

    The middle ⌈side / factor⌉ pixels become so many times `factor`, first pixel on first and last on last; what exceeds
    the side is cut off at both ends.
    """
    taken = math.ceil(side / factor)
    made = max(side, round(taken * factor))
    where = (np.arange(side) + (made - side) // 2) * ((taken - 1) / max(made - 1, 1))
    first = np.minimum(np.floor(where).astype(np.intp), max(taken - 2, 0))
    start = (side - taken) // 2
    share: NDArray[np.float64] = where - first
    return first + start, np.minimum(first + 1, taken - 1) + start, share
