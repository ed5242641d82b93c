"""What a corruption is given, and how its lengths follow from the image's size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]
"""`[C, H, W]`, or `[F]` for noise; 0 is the smallest value that occurs, 1 the largest."""
Levels = tuple[float, float, float, float, float]
"""One number per severity."""
_SIDE = 32


def pixels(image: Image, at_32: float) -> float:
    """A length for this image, in pixels, from that for images with a shorter side of 32 pixels.

    It grows with the square root of the side: a small image shows its object by fewer, coarser pixels, and lengths in
    proportion to the side would leave images of 8 pixels as they are where they destroy those of 224.
    """
    return at_32 * math.sqrt(min(image.shape[1:]) / _SIDE)
