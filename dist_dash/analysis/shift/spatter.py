"""Drops of water, or of mud, on the lens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dist_dash.analysis.shift.filters import smoothed
from dist_dash.analysis.shift.image import Image, Levels, coloured, level

# Mean and deviation of the liquid's noise, σ of its smoothing, threshold; then how bright water is, or σ of the mud's
# smoothing; whether it is mud.
_Spatter = tuple[float, float, float, float, float, bool]
_SPATTER: Levels[_Spatter] = {
    32: (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    64: (
        (0.62, 0.1, 0.7, 0.7, 0.6, False),
        (0.65, 0.1, 0.8, 0.7, 0.6, False),
        (0.65, 0.3, 1, 0.69, 0.6, False),
        (0.65, 0.1, 0.7, 0.68, 0.6, True),
        (0.65, 0.1, 0.5, 0.67, 0.6, True),
    ),
    224: (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    ),
}
_WATER, _MUD = (175, 238, 238), (63, 42, 20)
_WEAK, _STRONG = 50, 150  # slopes at which an edge may go on, and at which it begins
_FARTHEST = 20  # pixels from the nearest edge; beyond, all is alike
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float64)


def spatter(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Drops that shine (severities 1 to 3) or cover (4 and 5) what is behind them."""
    mean, deviation, sigma, threshold, extent, mud = level(_SPATTER, image, severity)
    liquid = smoothed(mean + deviation * rng.standard_normal(image.shape[1:]), sigma)
    if mud:
        cover = smoothed((liquid > threshold).astype(np.float64), extent)
        cover = np.where(cover < 0.8, 0, cover)
        return image * (1 - cover) + coloured(*_MUD, len(image)) * cover
    drops = np.floor(np.clip(np.where(liquid < threshold, 0, liquid), 0, 1) * 255)
    shine = drops * _relief(drops)
    brightest = shine.max()
    return image + shine * (extent / brightest if brightest else 0) * coloured(*_WATER, len(image))


def _relief(drops: Image) -> Image:
    """Light that falls on the drops from one side; as bytes, 0 to 255."""
    near = np.floor(_mean_of_9(_distances(_edges(drops))) + 1e-6).astype(np.intp)  # 1e-6: rounding
    lit = np.rint(np.clip(ndimage.correlate(_equalised(near), _RELIEF, mode="mirror"), 0, 255))
    return np.rint(_mean_of_9(lit))


def _distances(edges: NDArray[np.bool_]) -> Image:
    """Pixels to the nearest edge, at most 20: by moves of 1, 1.4 aslant and 2.1969 for a knight's (Borgefors 1986)."""
    if not edges.any():
        return np.full(edges.shape, _FARTHEST, np.float64)
    nearest = ndimage.distance_transform_edt(~edges, return_distances=False, return_indices=True)
    short, long = np.sort(np.abs(nearest - np.indices(edges.shape)), axis=0)
    flat = 2.1969 * short + (long - 2 * short)
    return np.minimum(np.where(2 * short <= long, flat, 2.1969 * (long - short) + 1.4 * (2 * short - long)), _FARTHEST)


def _mean_of_9(image: Image) -> Image:
    return ndimage.uniform_filter(image, 3, mode="mirror")


def _equalised(image: NDArray[np.intp]) -> Image:
    """Bytes spread so that all grey levels are about equally frequent: the lowest becomes 0, the highest 255."""
    counts = np.bincount(image.ravel())
    counts[image.min()] = 0
    total = counts.sum()
    spread = np.rint(counts.cumsum() * (255 / total)) if total else np.arange(len(counts), dtype=np.float64)
    return spread[image]


def _edges(image: Image) -> NDArray[np.bool_]:
    """Where a byte image changes steeply (Canny 1986): ridges of the slope, as far as a strong one leads."""
    down, right = (ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1))
    slope = np.abs(down) + np.abs(right)
    around = np.pad(slope, 1)
    height, width = slope.shape

    def neighbour(row: int, column: int) -> Image:
        return around[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    steep, flat = np.tan(np.radians([67.5, 22.5]))
    horizontal, vertical = np.abs(down) < flat * np.abs(right), np.abs(down) > steep * np.abs(right)
    falling = down * right >= 0
    ridge = np.select(
        [horizontal, vertical, falling],
        [
            (slope > neighbour(0, -1)) & (slope >= neighbour(0, 1)),
            (slope > neighbour(-1, 0)) & (slope >= neighbour(1, 0)),
            (slope > neighbour(-1, -1)) & (slope > neighbour(1, 1)),
        ],
        (slope > neighbour(-1, 1)) & (slope > neighbour(1, -1)),
    )
    candidates = ridge & (slope > _WEAK)
    return ndimage.binary_propagation(candidates & (slope > _STRONG), np.ones((3, 3)), candidates)
