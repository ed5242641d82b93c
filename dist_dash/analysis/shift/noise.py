"""Corruptions of each value on its own, for images and vectors."""

from __future__ import annotations

import numpy as np

from dist_dash.analysis.shift.image import Image, Levels, level

_GAUSSIAN: Levels[float] = {
    32: (0.04, 0.06, 0.08, 0.09, 0.10),
    64: (0.04, 0.08, 0.12, 0.15, 0.18),
    224: (0.08, 0.12, 0.18, 0.26, 0.38),
}
_EVENTS: Levels[float] = {
    32: (500, 250, 100, 75, 50),
    64: (250, 100, 50, 30, 15),
    224: (60, 25, 12, 5, 3),
}
_IMPULSES: Levels[float] = {
    32: (0.01, 0.02, 0.03, 0.05, 0.07),
    64: (0.01, 0.02, 0.05, 0.08, 0.14),
    224: (0.03, 0.06, 0.09, 0.17, 0.27),
}
_SPECKLE: Levels[float] = {
    32: (0.06, 0.10, 0.12, 0.16, 0.20),
    64: (0.15, 0.20, 0.25, 0.30, 0.35),
    224: (0.15, 0.20, 0.35, 0.45, 0.60),
}


def gaussian_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Sensor noise in low light: `x + σ·n`, n standard normal."""
    return image + level(_GAUSSIAN, image, severity) * rng.standard_normal(image.shape)


def shot_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The discreteness of light: `Poisson(λ·x) / λ`."""
    events = level(_EVENTS, image, severity)
    return rng.poisson(np.clip(image, 0, 1) * events) / events


def impulse_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Salt and pepper, as from bit errors; both equally often."""
    share, draw = level(_IMPULSES, image, severity), rng.random(image.shape)
    return np.where(draw < share / 2, 0.0, np.where(draw >= 1 - share / 2, 1.0, image))


def speckle_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Noise in proportion to the value: `x + σ·x·n`, n standard normal."""
    return image * (1 + level(_SPECKLE, image, severity) * rng.standard_normal(image.shape))
