"""Corruptions of a pixel's light and colour."""

from __future__ import annotations

import numpy as np

from dist_dash.analysis.shift.image import Image, Levels, level

_STRONG = (0.1, 0.2, 0.3, 0.4, 0.5)
_BRIGHTER: Levels[float] = {32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: _STRONG, 224: _STRONG}
_FAINT = (0.4, 0.3, 0.2, 0.1, 0.05)
_CONTRAST: Levels[float] = {32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: _FAINT, 224: _FAINT}
# What the saturation is multiplied by, and what is added to it.
_SATURATION: Levels[tuple[float, float]] = {
    32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}


def brightness(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """More light: a pixel's largest value grows, at most to 1, and the others in proportion (V of HSV)."""
    largest = image.max(0)
    brighter = np.minimum(largest + level(_BRIGHTER, image, severity), 1)
    dark = largest == 0
    return np.where(dark, brighter, image * (brighter / np.where(dark, 1, largest)))


def contrast(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """`mean + c·(x − mean)`, with the mean of each channel."""
    mean = image.mean((1, 2), keepdims=True)
    return mean + level(_CONTRAST, image, severity) * (image - mean)


def saturate(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Less or more colour (S of HSV); what is grey, and has no hue, becomes red."""
    times, more = level(_SATURATION, image, severity)
    largest = image.max(0)
    below = largest - image  # per channel: saturation · largest · a share that only the hue decides
    saturation = below.max(0) / np.where(largest == 0, 1, largest)
    is_grey = saturation == 0
    wanted = np.clip(saturation * times + more, 0, 1)
    red = largest * wanted * np.array([0, 1, 1])[:, None, None]
    return largest - np.where(is_grey, red, below * (wanted / np.where(is_grey, 1, saturation)))
