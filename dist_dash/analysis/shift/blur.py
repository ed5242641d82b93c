"""Corruptions that mix each pixel with its neighbours."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dist_dash.analysis.shift.image import Image, Levels, pixels

# In pixels, for a side of 32.
_RADIUS: Levels = (1.2, 1.7, 2.3, 3.0, 4.0)
_SIGMA: Levels = (0.8, 1.1, 1.4, 1.8, 2.4)
_LENGTH: Levels = (3.0, 4.2, 5.6, 7.5, 10.0)

_ZOOM: Levels = (1.10, 1.17, 1.25, 1.36, 1.50)
_ZOOM_STEPS = 9


def defocus_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The mean over a disc with a border one pixel wide."""
    radius = pixels(image, _RADIUS[severity - 1])
    reach = math.ceil(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _mixed(image, np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1))


def gaussian_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A Gaussian filter over both axes of the image."""
    sigma = pixels(image, _SIGMA[severity - 1])
    return ndimage.gaussian_filter(image, (0, sigma, sigma), mode="reflect")


def motion_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The mean along a line through the pixel; the direction is the sample's own."""
    length, angle = pixels(image, _LENGTH[severity - 1]), math.pi * rng.random()
    reach = math.ceil(length / 2)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for place in np.linspace(-length / 2, length / 2, 8 * reach + 1):
        row, column = reach + place * math.sin(angle), reach + place * math.cos(angle)
        # Each point of the line is shared out among the four pixels around it.
        top, left = min(int(row), 2 * reach - 1), min(int(column), 2 * reach - 1)
        kernel[top : top + 2, left : left + 2] += np.outer(
            [top + 1 - row, row - top], [left + 1 - column, column - left]
        )
    return _mixed(image, kernel)


def zoom_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The mean of nine magnifications about the centre, from 1 on."""
    centre = (np.array(image.shape) - 1) / 2
    total = np.zeros_like(image)
    for factor in np.linspace(1, _ZOOM[severity - 1], _ZOOM_STEPS):
        shrink = np.array([1, 1 / factor, 1 / factor])
        total += ndimage.affine_transform(image, shrink, centre * (1 - shrink), order=1, mode="nearest")
    return total / _ZOOM_STEPS


def _mixed(image: Image, kernel: NDArray[np.float64]) -> Image:
    """Each channel filtered by the kernel, whose weights are made to add up to 1."""
    return ndimage.correlate(image, (kernel / kernel.sum())[None], mode="reflect")
