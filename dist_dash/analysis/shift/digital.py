"""Corruptions that storing and sending an image brings about."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from dist_dash.analysis.shift.image import Image, Levels

_RESOLUTION: Levels = (0.80, 0.65, 0.50, 0.40, 0.30)
_QUALITY: Levels = (60, 35, 20, 12, 7)


def pixelate(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The mean of each block of a coarser grid; blocks differ by a pixel where they do not fit the side."""
    rows, columns = (_in_blocks(side, max(1, round(_RESOLUTION[severity - 1] * side))) for side in image.shape[1:])
    return rows @ image @ columns.T


def jpeg(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """What Pillow's JPEG makes of it: three channels as colours, every other number of them as grey images."""
    stored = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    quality = int(_QUALITY[severity - 1])
    if len(stored) == 3:
        return _through_jpeg(stored.transpose(1, 2, 0), quality).transpose(2, 0, 1) / 255
    return np.stack([_through_jpeg(channel, quality) for channel in stored]) / 255


@lru_cache(maxsize=64)
def _in_blocks(side: int, blocks: int) -> Image:
    """The matrix that replaces each pixel of a line by the mean of its block, `[side, side]`."""
    block_of = np.arange(side) * blocks // side
    together = block_of[:, None] == block_of
    return together / together.sum(1, keepdims=True)


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    with Pillow.open(file) as image:
        return np.asarray(image)
