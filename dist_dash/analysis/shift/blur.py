"""Corruptions that mix each pixel with its neighbours."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

from dist_dash.analysis.shift.filters import magnified, smeared, smoothed
from dist_dash.analysis.shift.image import Image, Levels, level, whole

# Radius of the disc and how much its border is softened, σ.
_DEFOCUS: Levels[tuple[float, float]] = {
    32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}
_GAUSSIAN: Levels[float] = {
    32: (0.4, 0.6, 0.7, 0.8, 1),
    64: (0.5, 0.75, 1, 1.25, 1.5),
    224: (1, 2, 3, 4, 6),
}
# σ of the smoothing before and after; how far a pixel may come from; how often.
_GLASS: Levels[tuple[float, int, int]] = {
    32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}
# Half the number of points on the line, σ of their weights.
_MOTION: Levels[tuple[int, float]] = {
    32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}
# The end of the range of magnifications, and its step; rounding decides whether the end is among them.
_SMALL_ZOOM = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
_ZOOM: Levels[tuple[float, float]] = {
    32: _SMALL_ZOOM,
    64: _SMALL_ZOOM,
    224: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
}
_FEW = 64
"""Up to so many weights, a filter is a sum of shifted images; with more, Fourier transforms are faster."""


def defocus_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The mean over a disc with a soft border."""
    kernel = _disc(*level(_DEFOCUS, image, severity))
    reach, (height, width) = len(kernel) // 2, image.shape[1:]
    padded = np.pad(image, [(0, 0), (reach, reach), (reach, reach)], mode="reflect")
    places = np.argwhere(kernel)
    if len(places) > _FEW:
        size = [fft.next_fast_len(side, real=True) for side in padded.shape[1:]]
        product = fft.rfft2(padded, size) * fft.rfft2(kernel, size)
        return fft.irfft2(product, size)[:, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
    total = np.zeros_like(image)
    for row, column in places:
        total += kernel[row, column] * padded[:, row : row + height, column : column + width]
    return total


def gaussian_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A Gaussian filter over both axes of the image."""
    return smoothed(image, level(_GAUSSIAN, image, severity))


def glass_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Pixels are taken from near by, between two slight Gaussian filters."""
    sigma, reach, times = level(_GLASS, image, severity)
    found = whole(smoothed(image, sigma))
    for _ in range(times):
        found = _displaced(found, reach, rng)
    return smoothed(found, sigma)


def motion_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """What lies along a line from the pixel, the less the further; the line is flat, up to 45° either way."""
    return smeared(image, *level(_MOTION, image, severity), degrees=rng.uniform(-45, 45))


def zoom_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The mean of the image and its magnifications about the middle."""
    factors = np.arange(1, *level(_ZOOM, image, severity))
    total = image.copy()
    for factor in factors.tolist():
        total += magnified(image, factor)
    return total / (len(factors) + 1)


@lru_cache(maxsize=16)
def _disc(radius: float, softness: float) -> Image:
    """A disc of weights that add up to 1, smoothed by 3 × 3 (5 × 5, where it is large) weights of a Gaussian."""
    reach, near = (8, 1) if radius <= 8 else (int(radius), 2)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (rows**2 + columns**2 <= radius**2).astype(np.float64)
    weights = np.exp(-(np.arange(-near, near + 1) ** 2) / (2 * softness**2))
    for axis in (0, 1):
        disc = ndimage.correlate1d(disc, weights / weights.sum(), axis, mode="mirror")
    disc = np.where(disc > 1e-9, disc / (rows**2 + columns**2 <= radius**2).sum(), 0)
    empty = int(disc.any(0).argmax())
    return disc[empty : len(disc) - empty, empty : len(disc) - empty]


def _displaced(image: Image, reach: int, rng: np.random.Generator) -> Image:
    """Each pixel, from the last to the first, replaced by what is now at a random place near by.

    Offsets are from −reach to reach − 1 in both directions; a border of `reach` pixels stays. "Now": a place that has
    had its turn holds what it was given, so that places point to each other; pointers are followed all at once.
    """
    _, height, width = image.shape
    rows, columns = (np.arange(reach + 1, side - reach + 1) for side in (height, width))
    if not (len(rows) and len(columns)):
        return image
    offsets = rng.integers(-reach, reach, (2, len(rows), len(columns)))
    place = np.arange(height * width)
    own = (rows[:, None] * width + columns).ravel()
    given = ((rows[:, None] + offsets[0]) * width + columns + offsets[1]).ravel()
    turned = np.zeros(height * width, bool)
    turned[own] = True
    # Pointers to what a place holds at the end, or (from height · width on) to what it held at the start.
    pointer = np.concatenate([place + height * width] * 2)
    pointer[own] = np.where((given > own) & turned[given], given, given + height * width)
    while True:
        further = pointer[pointer]
        if np.array_equal(further, pointer):
            return image.reshape(len(image), -1)[:, pointer[place] - height * width].reshape(image.shape)
        pointer = further
