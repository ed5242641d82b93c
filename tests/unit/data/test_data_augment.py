"""Augmentation: a pure function of (seed, epoch, sample id), compared with its definition."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dist_dash.data import Augment, ImageFolder
from dist_dash.data.augment import _rectangle
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import ArraySplit, Splits
from dist_dash.errors import BadInput

RNG = np.random.default_rng(3)


def splits(samples: np.ndarray, classes: int = 3, validation: int = 0) -> Splits:
    labels = RNG.integers(0, classes, len(samples))
    part = ArraySplit(samples, labels)
    channels = samples.shape[1] if samples.ndim == 4 else 1
    held_out = ArraySplit(samples[:validation], labels[:validation]) if validation else None
    return Splits(part, part, classes, (0.5,) * channels, (0.25,) * channels, validation=held_out)


def images(n: int = 20, channels: int = 3, height: int = 6, width: int = 7) -> np.ndarray:
    return RNG.integers(1, 256, (n, channels, height, width), dtype=np.uint8)


def variants(data: DataSet, sample_id: int, epochs: int) -> list[np.ndarray]:
    outs = [np.empty(data.shape, np.uint8 if data.uint8 else np.float32) for _ in range(epochs)]
    for epoch, out in enumerate(outs):
        data.read_train(epoch, sample_id, out)
    return outs


def test_without_augmentation_the_sample_is_what_is_stored() -> None:
    x = images()
    data = DataSet(splits(x), Augment(), seed=0)
    for out in variants(data, 5, 3):
        np.testing.assert_array_equal(out, x[5])


def test_augmentation_is_a_function_of_seed_epoch_and_id() -> None:
    whole = splits(images(height=16, width=16))
    everything = Augment(random_resized_crop=True, pad_crop=2, flip=True, cutout=4)
    first = variants(DataSet(whole, everything, seed=1), 3, 5)
    variants(DataSet(whole, everything, seed=1), 4, 2)
    for one, two in zip(first, variants(DataSet(whole, everything, seed=1), 3, 5), strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first[0] != first[1]).any()
    assert (first[0] != variants(DataSet(whole, everything, seed=2), 3, 1)[0]).any()
    same = splits(np.repeat(images(1, height=16, width=16), 2, axis=0))
    data = DataSet(same, everything, seed=1)
    assert (variants(data, 0, 1)[0] != variants(data, 1, 1)[0]).any()


@pytest.mark.parametrize("stored", [np.uint8, np.float32])
def test_pad_crop_shows_every_window_of_the_padded_image_equally_often(stored: type) -> None:
    x = images().astype(stored)
    padded = np.pad(x[2], ((0, 0), (2, 2), (2, 2)))
    windows = {padded[:, i : i + 6, j : j + 7].tobytes(): 5 * i + j for i in range(5) for j in range(5)}
    seen = [windows[out.tobytes()] for out in variants(DataSet(splits(x), Augment(pad_crop=2), seed=0), 2, 2000)]
    counts = np.bincount(seen, minlength=25)
    # Binomial(2000, 1/25): five standard deviations are 44.
    assert (np.abs(counts - 80) < 44).all()


def test_flip_mirrors_left_and_right_half_the_time() -> None:
    x = images()
    outs = variants(DataSet(splits(x), Augment(flip=True), seed=0), 2, 1000)
    mirrored = sum(out.tobytes() == x[2, :, :, ::-1].tobytes() for out in outs)
    plain = sum(out.tobytes() == x[2].tobytes() for out in outs)
    assert mirrored + plain == 1000
    assert 420 < mirrored < 580


def test_cutout_fills_one_square_with_the_mean() -> None:
    x = images(height=8, width=9)
    whole = splits(x)
    whole.mean = (0.1, 0.5, 0.9)
    centres = set()
    for out in variants(DataSet(whole, Augment(cutout=3), seed=0), 0, 600):
        rows = np.flatnonzero((out != x[0]).any(axis=(0, 2)))
        columns = np.flatnonzero((out != x[0]).any(axis=(0, 1)))
        box = out[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.testing.assert_array_equal(box, np.broadcast_to([[[26]], [[128]], [[230]]], box.shape))
        assert 2 <= box.shape[1] <= 3
        assert 2 <= box.shape[2] <= 3
        centres.add((rows.mean(), columns.mean()))
    assert len(centres) == 8 * 9


def test_random_resized_crop_cuts_a_rectangle_of_the_asked_area() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(500):
        left, top, right, bottom = _rectangle((200, 150), rng, 0.25)
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 150
        assert 0.73 < (right - left) / (bottom - top) < 1.37
        shares.append((right - left) * (bottom - top) / (200 * 150))
    assert 0.24 < min(shares) < 0.3
    assert max(shares) > 0.9
    boxes = [_rectangle((12, 10), rng, 0.25) for _ in range(500)]
    assert min(boxes)[0] == min(box[1] for box in boxes) == 0
    cut = [(left, top, right, bottom) for left, top, right, bottom in boxes if right - left < 10 and bottom - top < 8]
    assert max(box[2] for box in cut) == 12
    assert max(box[3] for box in cut) == 10
    left, top, right, bottom = _rectangle((1000, 10), rng, 0.9)
    assert (right - left, bottom - top, left) == (13, 10, 493)


def test_random_resized_crop_magnifies() -> None:
    """On a ramp from left to right, the spread of the values tells the width that was cut out."""
    ramp = np.broadcast_to(np.arange(0, 250, 5, dtype=np.uint8), (2, 3, 50, 50)).copy()
    data = DataSet(splits(ramp), Augment(random_resized_crop=True, scale_min=0.3), seed=0)
    spreads = [float(out[0, 20, -1]) - float(out[0, 20, 0]) for out in variants(data, 0, 200)]
    assert min(spreads) > 0.3**0.5 * 0.85 * 245 * 0.9
    assert min(spreads) < 160
    assert max(spreads) > 230
    grey = DataSet(splits(ramp[:, :1]), Augment(random_resized_crop=True), seed=0)
    assert variants(grey, 0, 1)[0].shape == (1, 50, 50)


def test_random_resized_crop_of_image_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("images")
    pixels = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            Image.fromarray(pixels).save(root / split / name / "0.png")
    whole = ImageFolder(str(root), image_size=8, resize=10).load()
    plain, cropped = (
        variants(DataSet(whole, Augment(random_resized_crop=on, flip=True), seed=0), 0, 9) for on in (False, True)
    )
    assert all(out.shape == (3, 8, 8) and out.dtype == np.uint8 for out in plain + cropped)
    assert len({out.tobytes() for out in plain}) == 2
    assert len({out.tobytes() for out in cropped}) == 9


@pytest.mark.parametrize(
    ("samples", "augment", "field"),
    [
        (np.zeros((4, 7), np.float32), Augment(flip=True), "augment.flip"),
        (np.zeros((4, 7), np.uint8), Augment(pad_crop=1), "augment.pad_crop"),
        (np.zeros((4, 7), np.uint8), Augment(cutout=1), "augment.cutout"),
        (np.zeros((4, 7), np.uint8), Augment(random_resized_crop=True), "augment.random_resized_crop"),
        (np.zeros((4, 3, 6, 7), np.float32), Augment(random_resized_crop=True), "augment.random_resized_crop"),
        (np.zeros((4, 2, 6, 7), np.uint8), Augment(random_resized_crop=True), "augment.random_resized_crop"),
        (np.zeros((4, 3, 6, 7), np.uint8), Augment(pad_crop=6), "augment.pad_crop"),
        (np.zeros((4, 3, 6, 7), np.uint8), Augment(cutout=7), "augment.cutout"),
    ],
)
def test_augmentation_that_does_not_fit(samples: np.ndarray, augment: Augment, field: str) -> None:
    with pytest.raises(BadInput) as caught:
        DataSet(splits(samples), augment, seed=0)
    assert str(caught.value).startswith(f"{field}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale_min", 0.0), ("scale_min", 1.5), ("pad_crop", -1), ("cutout", -1), ("scale_min", np.nan)],
)
def test_bad_augmentation(field: str, value: float) -> None:
    with pytest.raises(BadInput, match=rf"^augment\.{field}: "):
        Augment(**{field: value})  # type: ignore[arg-type]
