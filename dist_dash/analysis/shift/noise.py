"""Corruptions of each value on its own, for images and vectors."""

from __future__ import annotations

import numpy as np

from dist_dash.analysis.shift.image import Image, Levels

_GAUSSIAN: Levels = (0.04, 0.08, 0.12, 0.18, 0.26)
_EVENTS: Levels = (200, 80, 35, 16, 7)
_IMPULSES: Levels = (0.02, 0.05, 0.10, 0.17, 0.27)
_SPECKLE: Levels = (0.10, 0.18, 0.28, 0.42, 0.60)


def gaussian_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Sensor noise in low light: `x + σ·n`, n standard normal."""
    return image + _GAUSSIAN[severity - 1] * rng.standard_normal(image.shape)


def shot_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The discreteness of light: `Poisson(λ·x) / λ`."""
    events = _EVENTS[severity - 1]
    return rng.poisson(np.clip(image, 0, 1) * events) / events


def impulse_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Salt and pepper, as from bit errors; both equally often."""
    share, draw = _IMPULSES[severity - 1], rng.random(image.shape)
    return np.where(draw < share / 2, 0.0, np.where(draw >= 1 - share / 2, 1.0, image))


def speckle_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Noise in proportion to the value: `x + σ·x·n`, n standard normal."""
    return image * (1 + _SPECKLE[severity - 1] * rng.standard_normal(image.shape))
