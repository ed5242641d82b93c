"""Every kind of pixel that a file can hold becomes 8-bit RGB of the same picture, or is refused by file and mode."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dist_dash.data import ImageFolder
from dist_dash.data.decoding import decoded, readable
from dist_dash.data.source import UnreadableSample

SIXTEEN = np.linspace(0, 65535, 300).reshape(15, 20).astype(np.uint16)
EIGHT = (SIXTEEN >> 8).astype(np.uint8)
COLOUR = np.stack([EIGHT, EIGHT[::-1], 255 - EIGHT], axis=-1)


def read(path: Path, upright: bool = True) -> np.ndarray:
    image = decoded(str(path), upright)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(path: Path) -> np.ndarray:
    found = read(path)
    assert (found == found[..., :1]).all()
    return found[..., 0]


def tiff(path: Path, values: np.ndarray, **tags: int) -> Path:
    """Write an uncompressed grey TIFF whose tags say what Pillow cannot write."""
    data = values.tobytes()
    numbers = {
        256: tags.get("width", values.shape[1]),
        257: values.shape[0],
        258: tags.get("bits", 8 * values.itemsize),
        259: 1,
        262: tags.get("photometric", 1),
        273: 8,
        277: 1,
        278: values.shape[0],
        279: len(data),
        339: tags.get("sample_format", 1),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in numbers.items())
    start = 8 + len(data)
    content = struct.pack("<2sHI", b"II", 42, start) + data + struct.pack("<H", len(numbers)) + entries
    path.write_bytes(content + bytes(4))
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "pgm", "jp2"])
def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(SIXTEEN).save(path)
    np.testing.assert_array_equal(grey(path), EIGHT)


def test_big_endian_sixteen_bits(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (20, 15), SIXTEEN.astype(">u2").tobytes())
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(grey(tmp_path / "a.tif"), EIGHT)


def test_twelve_bits_and_white_that_is_0(tmp_path: Path) -> None:
    twelve = (SIXTEEN >> 4).astype(np.uint32).reshape(15, 10, 2)
    packed = np.stack([twelve[..., 0] >> 4, (twelve[..., 0] & 15) << 4 | twelve[..., 1] >> 8, twelve[..., 1] & 255], -1)
    path = tiff(tmp_path / "a.tif", packed.astype(np.uint8).reshape(15, 30), bits=12, width=20)
    np.testing.assert_array_equal(grey(path), EIGHT)
    np.testing.assert_array_equal(grey(tiff(tmp_path / "b.tif", SIXTEEN, photometric=0)), 255 - EIGHT)
    np.testing.assert_array_equal(grey(tiff(tmp_path / "c.tif", EIGHT, photometric=0)), 255 - EIGHT)


def test_floats_are_taken_from_0_to_1(tmp_path: Path) -> None:
    Image.fromarray((EIGHT / 255).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(grey(tmp_path / "a.tif"), EIGHT)


@pytest.mark.parametrize(
    ("values", "tags", "said"),
    [
        (EIGHT.astype(np.float32), {"sample_format": 3}, "TIFF of mode F with values from 0.0 to 255.0"),
        (EIGHT.astype(np.float32) - 1, {"sample_format": 3}, "from -1.0"),
        (np.full((15, 20), np.nan, np.float32), {"sample_format": 3}, "nan"),
        (SIXTEEN.astype(np.uint32), {}, "TIFF of mode I with values from 0 to 65535"),
        (SIXTEEN.astype(np.int32) - 9, {"sample_format": 2}, "from -9"),
        ((SIXTEEN >> 1).astype(np.int16), {"sample_format": 2}, "TIFF of mode I"),
        ((EIGHT >> 1).astype(np.int8), {"sample_format": 2}, "TIFF of mode L"),
    ],
    ids=["floats to 255", "negative floats", "NaN", "32 bits", "signed 32", "signed 16", "signed 8"],
)
def test_numbers_of_unknown_range_are_refused_by_file_and_mode(
    tmp_path: Path, values: np.ndarray, tags: dict[str, int], said: str
) -> None:
    path = tiff(tmp_path / "odd.tif", values, **tags)
    with pytest.raises(UnreadableSample) as caught:
        decoded(str(path), True)
    assert caught.value.name == str(path)
    assert said in caught.value.reason
    assert "8 or 16 unsigned bits per channel, or floats in 0 … 1" in caught.value.reason


@pytest.mark.parametrize(
    ("mode", "ending", "off"),
    [("1", "png", 0), ("L", "png", 0), ("P", "gif", 0), ("RGB", "png", 0), ("CMYK", "tif", 1), ("CMYK", "jpg", 12)],
)
def test_other_modes_show_the_same_picture(tmp_path: Path, mode: str, ending: str, off: int) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    image.save(tmp_path / f"a.{ending}")
    found = read(tmp_path / f"a.{ending}").astype(int)
    assert np.abs(found - np.asarray(image.convert("RGB"))).max() <= off


def test_sixteen_bit_colour_keeps_its_upper_byte(tmp_path: Path) -> None:
    """Pillow writes no such file: three planes of a TIFF."""
    wide = COLOUR.astype("<u2") << 8 | 77
    data = wide.tobytes()
    tags = [(256, 20), (257, 15), (258, 0), (259, 1), (262, 2), (273, 8), (277, 3), (278, 15), (279, len(data))]
    start = 8 + len(data)
    tags[2] = (258, start + 2 + 12 * len(tags) + 4)
    entries = b"".join(struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, n) for tag, n in tags)
    content = struct.pack("<2sHI", b"II", 42, start) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(content + struct.pack("<3H", 16, 16, 16))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), COLOUR)


SHARE = np.linspace(0, 255, 300).reshape(15, 20).astype(np.uint8)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.asarray(colour * share + 255 * (1 - share))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(tmp_path: Path, mode: str) -> None:
    colour = COLOUR if mode == "RGBA" else np.repeat(EIGHT[..., None], 3, axis=-1)
    channels = [*np.moveaxis(colour, -1, 0)] if mode == "RGBA" else [EIGHT]
    Image.merge(mode, [Image.fromarray(channel) for channel in [*channels, SHARE]]).save(tmp_path / "a.png")
    assert np.abs(read(tmp_path / "a.png") - on_white(colour, SHARE)).max() <= 1


@pytest.mark.parametrize(("mode", "ending"), [("RGB", "png"), ("L", "png"), ("P", "png"), ("P", "gif"), ("1", "png")])
def test_a_transparent_colour_shows_white(tmp_path: Path, mode: str, ending: str) -> None:
    """A file without an alpha channel may name one colour that is not there."""
    image = Image.fromarray(COLOUR).convert(mode)
    plain = np.asarray(image.convert("RGB"))
    gone = np.asarray(image)[7, 7]
    where = (np.asarray(image) == gone).reshape(15, 20, -1).all(-1)
    value: Any = tuple(map(int, gone)) if mode == "RGB" else int(gone) * (255 if mode == "1" else 1)
    image.save(tmp_path / f"a.{ending}", transparency=value)
    found = read(tmp_path / f"a.{ending}")
    assert (found[where] == 255).all()
    np.testing.assert_array_equal(found[~where], plain[~where])


def test_a_transparent_grey_of_sixteen_bits_shows_white(tmp_path: Path) -> None:
    Image.fromarray(SIXTEEN).save(tmp_path / "a.png", transparency=int(SIXTEEN[7, 7]))
    expected = EIGHT.copy()
    expected[7, 7] = 255
    np.testing.assert_array_equal(grey(tmp_path / "a.png"), expected)


def test_what_lies_behind_full_alpha_is_unchanged(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([COLOUR, np.full((15, 20), 255, np.uint8)])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), COLOUR)


# What a camera stores for an upright picture (Exif 2.32): row 0 and column 0 of the file are these sides of the scene.
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.transpose(1, 0, 2),
    6: lambda scene: scene.transpose(1, 0, 2)[::-1],
    7: lambda scene: scene.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda scene: scene.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", [*STORED, 0, 9])
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = STORED.get(orientation, STORED[1])(COLOUR)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read(path), COLOUR)
    if ending == "png":
        np.testing.assert_array_equal(read(path, upright=False), stored)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_metadata_do_not_make_a_picture_unreadable(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff not a directory")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), COLOUR)


def test_the_field_of_the_source(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(COLOUR[:, :15]).save(tmp_path / split / name / "0.png", exif=exif)
    turned, stored = (
        ImageFolder(str(tmp_path), image_size=15, resize=15, exif=upright).load().test.evaluation(0)
        for upright in (True, False)
    )
    np.testing.assert_array_equal(stored.transpose(1, 2, 0), COLOUR[:, :15])
    np.testing.assert_array_equal(turned, stored[:, ::-1, ::-1])


def test_no_other_program_is_run_for_a_file(tmp_path: Path) -> None:
    """Pillow would hand PostScript to Ghostscript, whatever the file's ending."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(UnreadableSample, match="cannot identify"):
        decoded(str(tmp_path / "a.png"), True)
    assert not {".eps", ".ps", ".h5", ".mpg"} & readable().endings
    assert {".jpg", ".jfif", ".png", ".tif", ".webp", ".jp2", ".tga", ".pbm"} <= readable().endings
