"""Corruptions by what is in the air and on the lens."""

from __future__ import annotations

import numpy as np

from dist_dash.analysis.shift.filters import magnified, smeared
from dist_dash.analysis.shift.image import Image, Levels, grey, level, whole

# Mean and deviation of the flakes' noise, magnification, threshold, half the points and σ of their smear, and how much
# of the image is not whitened.
_Snow = tuple[float, float, float, float, int, float, float]
_SNOW: Levels[_Snow] = {
    32: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    64: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    224: (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
}
# What is kept of the image, and how much of the frost is added.
_FROST: Levels[tuple[float, float]] = {
    32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
}
# How much fog, and by how much finer clouds are fainter.
_FOG: Levels[tuple[float, float]] = {
    32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}
# Mean colour and deviation of the five photographs of frost that the published programs cut pieces from.
_PHOTOGRAPHS = (
    ((78, 148, 165), 42),
    ((198, 202, 211), 20),
    ((198, 202, 211), 20),
    ((144, 158, 171), 28),
    ((101, 112, 124), 36),
)
_FROST_DECAY = 1.5


def snow(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Falling flakes, drawn out, above a scene that is whitened."""
    mean, deviation, zoom, threshold, radius, sigma, kept = level(_SNOW, image, severity)
    noise = magnified(mean + deviation * rng.standard_normal(image.shape[1:]), zoom)
    flakes = smeared(whole(np.where(noise < threshold, 0, noise)), radius, sigma, rng.uniform(-135, -45))
    whitened = kept * image + (1 - kept) * np.maximum(image, 1.5 * grey(image) + 0.5)
    return whitened + flakes + flakes[::-1, ::-1]


def frost(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Ice on the lens: made by chance, as bright and as uneven as the photographs that others add."""
    kept, added = level(_FROST, image, severity)
    colour, deviation = _PHOTOGRAPHS[rng.integers(len(_PHOTOGRAPHS))]
    clouds = _clouds(image.shape[1:], _FROST_DECAY, rng)
    ice = (clouds - clouds.mean()) * (deviation / 255 / max(clouds.std(), 1e-9))
    mean = np.array(colour) / 255
    mean = mean if len(image) == 3 else grey(mean[:, None, None]).ravel().repeat(len(image))
    return kept * image + added * np.clip(mean[:, None, None] + ice, 0, 1)


def fog(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A bright layer of uneven thickness, after which the image is as bright as it was."""
    thickness, decay = level(_FOG, image, severity)
    brightest = image.max()
    return (image + thickness * _clouds(image.shape[1:], decay, rng)) * (brightest / (brightest + thickness))


def _clouds(size: tuple[int, ...], decay: float, rng: np.random.Generator) -> Image:
    """A random field `[H, W]` from 0 to 1, a part of one whose side is a power of 2 and which continues into itself.

    By midpoint displacement (Fournier, Fussell & Carpenter 1982): the middles of squares, then those of their edges,
    are the mean of four neighbours and an even random number, whose range falls by decay² from grid to finer grid.
    """
    side = max(2, 1 << (max(size) - 1).bit_length())
    heights = np.zeros((side, side))
    step, spread = side, 1.0
    while step > 1:
        corners, middles = heights[::step, ::step], heights[step // 2 :: step, step // 2 :: step]
        above, beside = heights[::step, step // 2 :: step], heights[step // 2 :: step, ::step]
        across = corners + np.roll(corners, -1, 1)
        random = spread * rng.uniform(-1, 1, (3, *corners.shape))
        middles[:] = (across + np.roll(across, -1, 0)) / 4 + random[0]
        above[:] = (middles + np.roll(middles, 1, 0) + across) / 4 + random[1]
        beside[:] = (middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)) / 4 + random[2]
        step, spread = step // 2, spread / decay**2
    heights -= heights.min()
    return heights[: size[0], : size[1]] / heights.max()
