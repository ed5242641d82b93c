"""From an image file to 8-bit RGB: every kind of pixel is scaled rightly, or refused by name."""

from __future__ import annotations

import struct
import warnings
import zlib
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from dist_dash.data.source import UnreadableSample

BACKGROUND = "white"
"""What shows through transparent pixels, as in a browser."""

# What Pillow recognises but reads by another program or by nothing (PostScript would be run).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Formats and modes of grey images that Pillow hands on from 0 to 65535; in others numbers may have any range.
_SIXTEEN_BITS = {("JPEG2000", "I;16"), ("PNG", "I"), ("PNG", "I;16"), ("PPM", "I"), ("TIFF", "I;16")}
_SIGNED, _WHITE_IS_0 = 2, 0  # values of TIFF tags
# What Pillow's decoders raise on damaged files, beside OSError.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# The values of the orientation tag and what undoes them (Exif 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Remarks on odd metadata, one per file and worker, would bury what matters; an image that cannot be read is an error.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Readable(NamedTuple):
    """What Pillow decodes here.

    Args:
        formats: by Pillow's names, in the order in which it tries them.
        endings: of their files, with the dot, in small letters.
    """

    formats: tuple[str, ...]
    endings: frozenset[str]


@cache
def readable() -> Readable:
    """The formats that `decoded` reads."""
    Image.init()
    formats = tuple(name for name in Image.ID if name not in _NOT_DECODED)
    return Readable(formats, frozenset(end for end, name in Image.registered_extensions().items() if name in formats))


def decoded(path: str, upright: bool) -> Image.Image:
    """An image file as 8-bit RGB; of several frames the first.

    16 bits become 8 by their upper byte, floats are taken from 0 … 1; transparency shows `BACKGROUND`; palettes, CMYK
    and the like are converted.

    Args:
        path: of the file.
        upright: turn and mirror it as its Exif orientation says; Pillow always does so for TIFF.

    Raises:
        UnreadableSample: the file is damaged, or its pixels have no known range.
    """
    try:
        with Image.open(path, formats=readable().formats) as image:
            image.load()
            rgb = _rgb(image)
            turn = _UPRIGHT.get(_orientation(image)) if upright else None
    except _DAMAGE as error:
        raise UnreadableSample(path, " ".join(str(error).split())) from error
    return rgb if turn is None else rgb.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF" or _of_tiff(image, ExifTags.Base.SampleFormat, 1) == _SIGNED:
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, BACKGROUND), rgba).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of other numbers, which `convert` would clip, as grey of 8 bits; with alpha where it has any."""
    values = np.asarray(image)
    if (image.format, image.mode[:4]) in _SIXTEEN_BITS and _of_tiff(image, ExifTags.Base.SampleFormat, 1) != _SIGNED:
        grey = values >> (_of_tiff(image, ExifTags.Base.BitsPerSample, 16) - 8)  # some TIFF files have 12
    elif image.mode == "F" and values.min() >= 0 and values.max() <= 1:  # false for NaN
        grey = np.rint(values * 255)
    else:
        what = f"{image.format} of mode {image.mode} with values from {values.min()} to {values.max()}"
        raise ValueError(f"{what}; it must have 8 or 16 unsigned bits per channel, or floats in 0 … 1")
    grey = grey.astype(np.uint8)
    if _of_tiff(image, ExifTags.Base.PhotometricInterpretation, 1) == _WHITE_IS_0:  # Pillow inverts 8 bits itself
        grey = 255 - grey
    see_through = image.info.get("transparency")
    if see_through is None:
        return Image.fromarray(grey)
    alpha = np.where(values == see_through, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _of_tiff(image: Image.Image, tag: int, usual: int) -> int:
    """The (first) number of a tag, where the file is a TIFF."""
    found = image.tag_v2.get(tag, usual) if isinstance(image, TiffImageFile) else usual
    return int(found[0] if isinstance(found, tuple) else found)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (*_DAMAGE, TypeError):  # metadata are often damaged where pixels are not
        return 1
