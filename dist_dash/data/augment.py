"""Random variation of training samples, each a pure function of (seed, epoch, sample id)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dist_dash.data.source import Splits
from dist_dash.errors import BadInput, require, require_count

_ASPECT = math.log(4 / 3)
_TRIES = 10


@dataclass
class Augment:
    """How training images are varied; evaluation never is. Applied in the order of the arguments, cutout last.

    Args:
        random_resized_crop: Cut a random rectangle (aspect ratio 3:4 to 4:3) out and resize it to the net's input.
        scale_min: Smallest share of the area that the rectangle covers, in (0, 1].
        pad_crop: Pad each side by so many black pixels and cut a random window of the old size out; 0 is off.
        flip: Mirror left and right with probability 1/2.
        cutout: Side of a square at a random place that is filled with the mean, in pixels; 0 is off.
    """

    random_resized_crop: bool = False
    scale_min: float = 0.08
    pad_crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        require(0 < self.scale_min <= 1, "augment.scale_min", self.scale_min, "a number in (0, 1]")
        require_count("augment.pad_crop", self.pad_crop, 0)
        require_count("augment.cutout", self.cutout, 0)

    @property
    def active(self) -> bool:
        """Whether anything varies at all."""
        return bool(self.random_resized_crop or self.pad_crop or self.flip or self.cutout)

    def check(self, splits: Splits) -> None:
        """Raise `BadInput` if these samples cannot be varied like this."""
        shape = splits.shape
        for field in ("random_resized_crop", "pad_crop", "flip", "cutout"):
            value = getattr(self, field)
            if value and len(shape) != 3:
                raise BadInput(
                    f"augment.{field}: {value!r} needs images [C, H, W]; samples of shape {shape} allow only 0"
                )
        if self.random_resized_crop and not (splits.uint8 and shape[0] in (1, 3)):
            raise BadInput(
                f"augment.random_resized_crop: True needs uint8 images of 1 or 3 channels; "
                f"samples of shape {shape} and type {splits.train.dtype} allow only False"
            )
        if len(shape) == 3:
            side = min(shape[1:])
            require(self.pad_crop < side, "augment.pad_crop", self.pad_crop, f"less than the image's side ({side})")
            require(self.cutout <= side, "augment.cutout", self.cutout, f"at most the image's side ({side})")

    def apply(
        self, sample: np.ndarray | Image.Image, rng: np.random.Generator, fill: np.ndarray, out: np.ndarray
    ) -> None:
        """Write a random variant of `sample` into `out` (`[C, H, W]`, stored type).

        `sample` may have another size than `out` only if `random_resized_crop` is on. `fill`: `[C, 1, 1]`, the mean in
        stored units. `rng`: from `sample_rng`.
        """
        if self.random_resized_crop:
            sample = _resized_crop(sample, rng, self.scale_min, out.shape[1:])
        image = np.asarray(sample)
        if self.pad_crop:
            _shifted(image, rng, self.pad_crop, out)
        else:
            out[...] = image
        if self.flip and rng.random() < 0.5:
            out[...] = out[:, :, ::-1].copy()
        if self.cutout:
            _cut_out(out, rng, self.cutout, fill)


def _resized_crop(
    sample: np.ndarray | Image.Image, rng: np.random.Generator, scale_min: float, size: tuple[int, ...]
) -> np.ndarray:
    """A random rectangle of `sample`, resized (bilinear) to `size` (height, width): uint8 `[C, height, width]`."""
    image = sample if isinstance(sample, Image.Image) else _to_image(sample)
    box = _rectangle(image.size, rng, scale_min)
    pixels = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _to_image(sample: np.ndarray) -> Image.Image:
    return Image.fromarray(sample[0] if len(sample) == 1 else np.ascontiguousarray(sample.transpose(1, 2, 0)))


def _rectangle(size: tuple[int, int], rng: np.random.Generator, scale_min: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a rectangle of random area, aspect ratio and place inside (width, height) `size`."""
    width, height = size
    for _ in range(_TRIES):
        area = width * height * (scale_min + (1 - scale_min) * rng.random())
        aspect = math.exp(_ASPECT * (2 * rng.random() - 1))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
            return left, top, left + w, top + h
    # A very long image: the largest central rectangle of an allowed aspect ratio.
    w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _shifted(image: np.ndarray, rng: np.random.Generator, pad: int, out: np.ndarray) -> None:
    """Write `image` into `out`, moved by up to `pad` pixels in each direction; what comes into view is 0."""
    _, height, width = image.shape
    down, right = (int(rng.random() * (2 * pad + 1)) - pad for _ in "yx")
    out.fill(0)
    out[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = image[
        :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]


def _cut_out(out: np.ndarray, rng: np.random.Generator, side: int, fill: np.ndarray) -> None:
    """Fill a square around a uniformly random pixel; it may reach over the border."""
    _, height, width = out.shape
    top, left = int(rng.random() * height) - side // 2, int(rng.random() * width) - side // 2
    out[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = fill
