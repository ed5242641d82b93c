"""Data in memory or made up: arrays, digits, synthetic images; what is wrong with bad ones is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from complaints import source_complaint as complaint

from dist_dash.data import Arrays, Digits, Synthetic
from dist_dash.data.channel_statistics import channel_statistics
from dist_dash.data.source import ArraySplit
from dist_dash.errors import BadInput

RNG = np.random.default_rng(5)


# --- arrays


def npz(folder: Path, **changes: Any) -> str:
    arrays = {
        "x_train": RNG.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": RNG.integers(0, 256, (2, 3, 4, 5), dtype=np.uint8),
        "y_test": np.array([2, 0]),
    }
    arrays.update(changes)
    path = folder / "data.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


def test_arrays_of_images(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
    splits = Arrays(npz(tmp_path, x_train=x)).load()
    assert (splits.classes, splits.shape, splits.uint8, splits.validation) == (3, (3, 4, 5), True, None)
    np.testing.assert_array_equal(splits.train.read(4), x[4])
    assert splits.train.labels.dtype == np.int64
    assert splits.test.labels.tolist() == [2, 0]
    np.testing.assert_allclose(splits.mean, [(x[:, c] / 255).mean() for c in range(3)], rtol=1e-12)
    np.testing.assert_allclose(splits.std, [(x[:, c] / 255).std() for c in range(3)], rtol=1e-12)


def test_arrays_of_features_with_validation(tmp_path: Path) -> None:
    x = RNG.normal(5, 2, (6, 7))
    path = npz(tmp_path, x_train=x, x_test=x[:2], x_val=x[:3], y_val=np.array([1, 1, 0]))
    splits = Arrays(path).load()
    assert splits.shape == (7,)
    assert not splits.uint8
    assert splits.train.read(0).dtype == np.float32
    assert splits.validation is not None
    assert splits.validation.labels.tolist() == [1, 1, 0]
    np.testing.assert_allclose(splits.mean, [x.mean()], rtol=1e-6)
    np.testing.assert_allclose(splits.std, [x.std()], rtol=1e-6)


def test_given_statistics_win(tmp_path: Path) -> None:
    splits = Arrays(npz(tmp_path), mean=[0.1, 0.2, 0.3]).load()
    assert splits.mean == (0.1, 0.2, 0.3)
    assert splits.std != splits.mean
    assert "data.mean" in complaint(Arrays(npz(tmp_path), mean=[0.5]))
    with pytest.raises(BadInput, match=r"data\.std"):
        Arrays("x.npz", std=[0.0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"y_test": None}, "y_test"),
        ({"x_vall": np.zeros((2, 3, 4, 5), np.uint8)}, "x_vall"),
        ({"x_val": np.zeros((2, 3, 4, 5), np.uint8)}, "both or neither"),
        ({"x_train": np.zeros((6, 3, 4), np.uint8)}, "(6, 3, 4)"),
        ({"x_train": np.zeros((0, 7), np.uint8), "y_train": np.zeros(0, int)}, "(0, 7)"),
        ({"x_train": np.zeros((6, 3, 4, 5), np.int64)}, "int64"),
        ({"x_train": np.full((6, 7), np.nan)}, "NaN"),
        ({"y_train": np.zeros((6, 1), int)}, "(6, 1)"),
        ({"y_train": np.zeros(5, int)}, "6 integers"),
        ({"y_train": np.zeros(6)}, "float64"),
        ({"y_train": np.zeros(6, int)}, "at least 2"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 10**9])}, "1000000000"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, "label -1 in the train split"),
        ({"y_test": np.array([3, 0])}, "label 3 in the test split"),
        ({"x_test": np.zeros((2, 3, 4, 4), np.uint8)}, "(3, 4, 4)"),
        ({"x_test": np.zeros((2, 3, 4, 5), np.float32)}, "float32"),
        ({"y_train": np.array([{}] * 6, dtype=object)}, "cannot be read"),
    ],
)
def test_bad_arrays(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    text = complaint(Arrays(npz(tmp_path, **changes)))
    assert said in text
    assert text.startswith("data")


def test_no_arrays(tmp_path: Path) -> None:
    assert "data.path" in complaint(Arrays(str(tmp_path / "none.npz")))
    path = tmp_path / "cut.npz"
    path.write_bytes(Path(npz(tmp_path)).read_bytes()[:200])
    assert "cut.npz" in complaint(Arrays(str(path)))
    path.write_bytes(b"")
    assert "cut.npz" in complaint(Arrays(str(path)))
    np.save(tmp_path / "bare.npy", np.zeros(3))
    assert "bare array" in complaint(Arrays(str(tmp_path / "bare.npy")))


def test_statistics_far_from_zero_and_without_spread() -> None:
    far = RNG.normal(1e6, 1e-1, (3000, 40)).astype(np.float64)
    assert channel_statistics(far)[1][0] == pytest.approx(far.std(), rel=1e-6)
    assert channel_statistics(np.full((3, 2, 2, 2), 7, np.uint8))[1] == (1e-4, 1e-4)


# --- digits and synthetic


def test_digits() -> None:
    splits = Digits().load()
    assert (splits.classes, splits.shape, splits.uint8) == (10, (1, 8, 8), True)
    assert len(splits.train) + len(splits.test) == 1797
    assert len(splits.test) == round(1797 / 4)
    share = np.bincount(splits.test.labels) / np.bincount(np.r_[splits.test.labels, splits.train.labels])
    assert np.abs(share - 0.25).max() < 0.01
    pixels = np.stack([splits.train.read(i) for i in range(50)])
    assert (pixels.min(), pixels.max()) == (0, 255)
    again = Digits(seed=0).load()
    np.testing.assert_array_equal(again.test.labels, splits.test.labels)
    other = Digits(seed=1).load()
    assert any((other.test.read(i) != splits.test.read(i)).any() for i in range(20))


def test_synthetic_is_a_function_of_seed_and_index() -> None:
    splits = Synthetic(classes=4, size=12, channels=2, train=40, test=20).load()
    again = Synthetic(classes=4, size=12, channels=2, train=4000, test=20).load()
    other = Synthetic(classes=4, size=12, channels=2, train=40, test=20, seed=1).load()
    assert splits.train.read(3).shape == splits.shape == (2, 12, 12)
    assert splits.train.read(3).dtype == np.uint8
    np.testing.assert_array_equal(splits.train.read(7), again.train.read(7))
    assert (splits.train.read(7) != other.train.read(7)).any()
    assert (splits.train.read(7) != splits.test.read(7)).any()
    assert (splits.train.read(7) != splits.train.read(11)).any()
    assert np.bincount(splits.train.labels).tolist() == [10] * 4


def test_synthetic_can_be_learnt_but_not_fully() -> None:
    """The nearest class mean stands far above chance and below certainty."""
    splits = Synthetic(size=16, train=1500, test=400).load()
    x = np.stack([splits.train.read(i) for i in range(1500)]).reshape(1500, -1).astype(float)
    means = np.stack([x[splits.train.labels == c].mean(axis=0) for c in range(10)])
    test = np.stack([splits.test.read(i) for i in range(400)]).reshape(400, -1).astype(float)
    found = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert 0.4 < (found == splits.test.labels).mean() < 0.98


@pytest.mark.parametrize("arguments", [{"classes": 1}, {"size": 0}, {"train": 0}, {"difficulty": 1.0}])
def test_bad_synthetic(arguments: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"data.{next(iter(arguments))}"):
        Synthetic(**arguments)


def test_array_split_reads_what_is_stored() -> None:
    split = ArraySplit(np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 1, 0], np.uint8))
    assert split.read(1).tolist() == split.evaluation(1).tolist() == [2.0, 3.0]
    assert split.name(2) == "sample 2"
