"""Corruptions that storing, sending and bending an image brings about."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from dist_dash.analysis.shift.filters import smoothed
from dist_dash.analysis.shift.image import Image, Levels, level

_RESOLUTION: Levels[float] = {
    32: (0.95, 0.9, 0.85, 0.75, 0.65),
    64: (0.9, 0.8, 0.7, 0.6, 0.5),
    224: (0.6, 0.5, 0.4, 0.3, 0.25),
}
_QUALITY: Levels[int] = {32: (80, 65, 58, 50, 40), 64: (65, 58, 50, 40, 25), 224: (25, 18, 15, 10, 7)}
# As shares of the shorter side: strength and σ of the random field, and how far corners are moved.
_ELASTIC: Levels[tuple[float, float, float]] = {
    32: ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    64: ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    224: ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
}


def pixelate(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Fewer, larger pixels: Pillow's box filter to a smaller size and back."""
    rows, columns = (_in_blocks(side, level(_RESOLUTION, image, severity)) for side in image.shape[1:])
    return np.rint(rows @ image @ columns.T * 255) / 255


def jpeg_compression(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """What Pillow's JPEG makes of it: three channels as colours, every other number of them as grey images."""
    stored = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    quality = level(_QUALITY, image, severity)
    if len(stored) == 3:
        return _through_jpeg(stored.transpose(1, 2, 0), quality).transpose(2, 0, 1) / 255
    return np.stack([_through_jpeg(channel, quality) for channel in stored]) / 255


def elastic_transform(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Bent as a whole, by moving three corners of a triangle, and then locally, by a smooth random field."""
    size = image.shape[1:]
    strength, sigma, corner = (share * min(size) for share in level(_ELASTIC, image, severity))
    moved, field = corner * rng.uniform(-1, 1, (3, 2)), rng.uniform(-1, 1, (2, *size))
    places = np.indices(size, np.float64)
    middle, reach = np.array(size) // 2, min(size) // 3
    if reach:
        before = middle + reach * np.array([[1, 1], [-1, 1], [-1, -1]])
        back = np.linalg.solve(np.column_stack([before + moved, np.ones(3)]), before)
        image = _read_at(image, np.tensordot(back[:2].T, places, 1) + back[2][:, None, None], "mirror")
    return _read_at(image, places + strength * smoothed(field, sigma, "reflect", 3.0), "reflect")


def _read_at(image: Image, places: Image, mode: str) -> Image:
    """Each channel at places `[2, H, W]` between its pixels, by linear interpolation."""
    return np.stack([ndimage.map_coordinates(channel, places, order=1, mode=mode) for channel in image])


@lru_cache(maxsize=64)
def _in_blocks(side: int, share: float) -> Image:
    """The matrix that shows a line of pixels by so large a share of them, `[side, side]`."""
    fewer = max(1, int(side * share))
    line = Pillow.fromarray(np.eye(side, dtype=np.float32))
    small = line.resize((side, fewer), Pillow.Resampling.BOX)
    return np.asarray(small.resize((side, side), Pillow.Resampling.BOX)).astype(np.float64)


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    with Pillow.open(file) as image:
        return np.asarray(image)
