"""The corruptions by name, and a sample under one of them.

Kinds and severities are those of Hendrycks & Dietterich (ICLR 2019), see `image.py`; the code is this project's own,
for any size and any number of channels.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_dash.analysis.shift import blur, colour, digital, noise, spatter, weather
from dist_dash.analysis.shift.corruption_texts import COMMON, TEXTS
from dist_dash.analysis.shift.image import Image
from dist_dash.analysis.shift.values import Values
from dist_dash.data.rng import sample_rng
from dist_dash.errors import BadInput
from dist_dash.seeds import derived_seed

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Args:
        function: image, severity 1 … 5, generator → image of the same shape, whose values may leave 0 … 1.
        vectors: whether it makes sense for samples that are no images.
        colours: whether it needs three channels.
    """

    function: Callable[[Image, int, np.random.Generator], Image]
    vectors: bool = False
    colours: bool = False

    @property
    def name(self) -> str:
        """As on the command line."""
        return self.function.__name__

    @property
    def text(self) -> str:
        """What it does, in one line."""
        return TEXTS[self.name]


_COMMON = (
    Corruption(noise.gaussian_noise, vectors=True),
    Corruption(noise.shot_noise, vectors=True),
    Corruption(noise.impulse_noise, vectors=True),
    Corruption(blur.defocus_blur),
    Corruption(blur.glass_blur),
    Corruption(blur.motion_blur),
    Corruption(blur.zoom_blur),
    Corruption(weather.snow),
    Corruption(weather.frost),
    Corruption(weather.fog),
    Corruption(colour.brightness),
    Corruption(colour.contrast),
    Corruption(digital.elastic_transform),
    Corruption(digital.pixelate),
    Corruption(digital.jpeg_compression),
)
_EXTRA = (
    Corruption(noise.speckle_noise, vectors=True),
    Corruption(blur.gaussian_blur),
    Corruption(spatter.spatter),
    Corruption(colour.saturate, colours=True),
)
CORRUPTIONS = {corruption.name: corruption for corruption in (*_COMMON, *_EXTRA)}
"""All of them, in the order of tables and pictures."""


def chosen(names: str) -> list[Corruption]:
    """The corruptions of a list `name,name`, the 15 that are `common`, or `all`.

    Raises:
        BadInput: there is none of that name.
    """
    sets = {"common": COMMON, "all": tuple(CORRUPTIONS)}
    given = sets.get(names, [name.strip() for name in names.split(",")])
    for name in given:
        if name not in CORRUPTIONS:
            close = difflib.get_close_matches(name, CORRUPTIONS, n=2)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"it must be common, all, or of {', '.join(CORRUPTIONS)}"
            )
            raise BadInput(f"corruptions: {name!r} is not allowed; {hint}")
    return [CORRUPTIONS[name] for name in dict.fromkeys(given)]


def applicable(corruptions: Sequence[Corruption], shape: tuple[int, ...]) -> list[Corruption]:
    """Those that make sense for samples of a shape: vectors `(F,)` have no neighbours that could be blurred."""
    images, colours = len(shape) == 3, len(shape) == 3 and shape[0] == 3
    return [one for one in corruptions if (colours if one.colours else one.vectors or images)]


def counted(names: Sequence[str]) -> list[str]:
    """Those that means are taken over: of the 15 common ones where there are any, else all."""
    return [name for name in names if name in COMMON] or list(names)


def corrupted(
    sample: NDArray, values: Values, corruption: Corruption, severity: int, seed: int, sample_id: int
) -> NDArray:
    """A stored sample under a corruption: a pure function of its arguments.

    The random numbers are those of (seed, corruption, sample id): severities differ in strength alone.

    Args:
        sample: uint8 or float32, `[C, H, W]` or `[F]`.
        values: what its values mean.
        corruption: one that is applicable.
        severity: 0 (the sample as it is) … 5.
        seed: of all corruptions.
        sample_id: position in the split.

    Returns:
        The same shape and dtype, within the range of `values`.
    """
    if severity == 0:
        return sample.copy()
    rng = sample_rng(seed, 0, sample_id, derived_seed(f"corruption {corruption.name}"))
    return values.stored(corruption.function(values.unit(sample), severity, rng), down=True)
