"""What a corruption is given, and which of the published constants apply to it.

The constants are those by which Hendrycks & Dietterich ("Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", ICLR 2019) made their data sets; in `ImageNet-C/create_c` of github.com/hendrycks/robustness, for
images of 32 pixels `make_cifar_c.py`, of 64 `make_tinyimagenet_c.py`, of 224 `make_imagenet_c.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]
"""`[C, H, W]`, or `[F]` for noise; 0 is the smallest value that occurs, 1 the largest."""

PUBLISHED = {32: "CIFAR-10-C", 64: "Tiny-ImageNet-C", 224: "ImageNet-C"}
"""Where the constants for images of a side are from."""

_Level = TypeVar("_Level")
Levels = Mapping[int, tuple[_Level, _Level, _Level, _Level, _Level]]
"""The constants of severities 1 to 5, for each published side."""

_LUMINANCE = (0.299, 0.587, 0.114)


def published_side(shape: tuple[int, ...]) -> int:
    """The published side that is nearest in ratio to the image's shorter one; 32 for vectors."""
    if len(shape) != 3:
        return 32
    return min(PUBLISHED, key=lambda side: abs(math.log(min(shape[1:]) / side)))


def level(levels: Levels[_Level], image: Image, severity: int) -> _Level:
    """The constants for an image and a severity; lengths in pixels are not scaled between the published sides."""
    return levels[published_side(image.shape)][severity - 1]


def grey(image: Image) -> Image:
    """The luminance `[H, W]` of three channels (ITU-R BT.601); the mean of every other number of them."""
    return np.tensordot(_LUMINANCE, image, 1) if len(image) == 3 else image.mean(0)


def coloured(red: float, green: float, blue: float, channels: int) -> Image:
    """A colour as bytes say it, for images of so many channels: its luminance unless there are three. `[C, 1, 1]`."""
    colour = np.array([red, green, blue]) / 255
    return (colour if channels == 3 else np.full(channels, colour @ _LUMINANCE))[:, None, None]


def whole(image: Image) -> Image:
    """Values as bytes can hold them, rounded down: what the published programs keep between two steps."""
    return np.floor(np.clip(image, 0, 1) * 255 + 1e-4) / 255  # 1e-4: what rounding of floats may have taken away
