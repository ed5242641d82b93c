"""What a source says of its data before they are read: enough to estimate memory on a login node."""

from pathlib import Path

import numpy as np
import pytest

from dist_dash.data import CIFAR10, CIFAR100, IDX, Arrays, Digits, ImageFolder, Synthetic
from dist_dash.data import source as source_module

SAMPLE = Path(__file__).parents[1] / "sample.yaml"


@pytest.mark.parametrize(
    "source",
    [Digits(), Synthetic(), Synthetic(classes=3, channels=1, size=20, train=9, test=6)],
    ids=["digits", "default", "own"],
)
def test_outlines_are_what_loading_finds(source):
    splits = source.load()
    assert source.outline()[:3] == (splits.shape, splits.classes, splits.uint8)


def test_outlines_of_cifar_need_no_files():
    assert CIFAR10("nowhere").outline()[:3] == ((3, 32, 32), 10, True)
    assert CIFAR100("nowhere").outline()[:3] == ((3, 32, 32), 100, True)


def test_outlines_of_an_image_folder_are_counted_from_its_classes(tmp_path):
    for name in ("cat", "dog", "owl", ".cache"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train/notes.txt").touch()
    source = ImageFolder(str(tmp_path), image_size=96, resize=100)
    assert source.outline()[:3] == ((3, 96, 96), 3, True)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_outlines_of_small_files_are_read(tmp_path, monkeypatch, dtype):
    x, y = np.arange(6 * 12).reshape(6, 3, 2, 2).astype(dtype), np.arange(6) % 3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    found = Arrays(str(tmp_path / "a.npz"))
    assert found.outline()[:3] == ((3, 2, 2), 3, dtype == np.uint8)
    monkeypatch.setattr(source_module, "SMALL", 1000)
    assert found.outline() is None


def test_outlines_of_idx_files(tmp_path):
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 4, *range(40)])
        )
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1]))
    assert IDX(str(tmp_path)).outline()[:3] == ((1, 5, 4), 2, True)


class Own(Digits):
    def load(self):
        raise AssertionError("not known to be cheap")


@pytest.mark.parametrize(
    "source",
    [ImageFolder("nowhere"), IDX("nowhere"), Arrays("nowhere.npz"), Arrays(str(SAMPLE)), Own()],
    ids=["folder", "idx", "arrays", "damaged", "own"],
)
def test_outlines_that_cannot_be_had_here_are_none(source):
    assert source.outline() is None
