"""Corruptions of light, air and shape: what the camera sees is another scene."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pillow
from scipy import ndimage

from dist_dash.analysis.shift.image import Image, Levels

_THICKNESS: Levels = (0.20, 0.35, 0.50, 0.65, 0.80)
_BRIGHTER: Levels = (0.10, 0.20, 0.30, 0.40, 0.50)
_CONTRAST: Levels = (0.70, 0.50, 0.35, 0.22, 0.12)
_DISPLACEMENT: Levels = (0.025, 0.04, 0.055, 0.075, 0.10)

_THINNEST = 0.3
_WAVES = 8  # bends of an elastic transform across the image, about


def fog(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Light of the scene and of white air: `(1 − t)·x + t` (Koschmieder's law); t varies over the image."""
    _, height, width = image.shape
    thickness = _THICKNESS[severity - 1] * (_THINNEST + (1 - _THINNEST) * _clouds(height, width, rng))
    return image + thickness * (1 - image)


def brightness(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """More light everywhere; what becomes too bright is cut."""
    return image + _BRIGHTER[severity - 1]


def contrast(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """`mean + c·(x − mean)`."""
    mean = image.mean((1, 2), keepdims=True)
    return mean + _CONTRAST[severity - 1] * (image - mean)


def elastic_transform(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Each pixel is read elsewhere; the distances have a root mean square of 2.5 to 10 % of the shorter side."""
    size = image.shape[1:]
    sigma = min(size) / _WAVES
    field = ndimage.gaussian_filter(rng.uniform(-1, 1, (2, *size)), (0, sigma, sigma), mode="reflect")
    field *= _DISPLACEMENT[severity - 1] * min(size) / np.sqrt((field**2).sum(0).mean())
    where = np.indices(size) + field
    return np.stack([ndimage.map_coordinates(channel, where, order=1, mode="nearest") for channel in image])


def _clouds(height: int, width: int, rng: np.random.Generator) -> Image:
    """A random field `[H, W]` from 0 to 1: octaves of smooth noise, each half as large and half as strong."""
    total, cells, strength = np.zeros((height, width)), 2, 1.0
    while True:
        coarse = Pillow.fromarray(rng.random((cells + 1, cells + 1), dtype=np.float32))
        total += strength * np.asarray(coarse.resize((width, height), Pillow.Resampling.BICUBIC))
        cells, strength = 2 * cells, strength / 2
        if cells > min(height, width) / 2:
            break
    low, high = total.min(), total.max()
    return (total - low) / (high - low) if high > low else np.ones((height, width))
