"""Samples for a trained network: whoever brings them, another unit than that of training is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dist_dash.data.data_facts import Outline
from dist_dash.data.fitting import fitting_labels, fitting_samples, fitting_split, fitting_values
from dist_dash.data.image_folder import FolderSplit
from dist_dash.data.source import ArraySplit
from dist_dash.errors import BadInput

BYTES = Outline((1, 4, 4), 3, True)
FLOATS = Outline((1, 4, 4), 3, False)
X = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4), dtype=np.uint8)
X.flat[:2] = 0, 255


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "u8", "f2", "f4", "f8"])
def test_whole_numbers_are_bytes_whatever_their_type(dtype: str) -> None:
    found = fitting_samples(X.astype(dtype), BYTES, "x")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, X)


def test_fractions_between_0_and_255_are_in_the_same_unit() -> None:
    found = fitting_samples(X / 2, BYTES, "x")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, X / 2)


@pytest.mark.parametrize(
    ("x", "came"),
    [
        (X / 255, "float32 from 0 to 1"),
        (X.astype(np.float32) / 255 * 2 - 1, "float32 from -1 to 1"),
        ((X / 255 - 0.45) / 0.22, "float32 from -2.04545"),
        (np.zeros(X.shape), "float32 from 0 to 0"),
        (X.astype(np.int64) - 5, "int64 from -5"),
        (X.astype(np.uint16) * 257, "uint16 from 0 to 65535"),
        (X.astype(np.float32) * 257, "float32 from 0 to 65535"),
        (np.where(X.max() == X, np.nan, X), "NaN or infinite values"),
        (np.where(X.max() == X, np.inf, X), "NaN or infinite values"),
        (X.astype(np.float64) * 1e300, "NaN or infinite values"),
        (X > 9, "bool, which are no numbers"),
        (X.astype(complex), "complex128, which are no numbers"),
        (X.astype(str), "<U3, which are no numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_bytes_is_refused(x: np.ndarray, came: str) -> None:
    for check in (fitting_samples, fitting_values):
        with pytest.raises(BadInput) as caught:
            check(x, BYTES, "x")
        assert str(caught.value).startswith(f"x holds {came}")
        assert "the network was trained on bytes (uint8, 0 … 255) and normalises them itself" in str(caught.value)
    with pytest.raises(BadInput, match="x holds"):
        fitting_split(ArraySplit(x, np.zeros(5, int)), BYTES, "x")


def test_floats_stay_floats() -> None:
    found = fitting_samples(X / 255, FLOATS, "x")
    np.testing.assert_array_equal(found, (X / 255).astype(np.float32))
    for x in (X, X.astype(np.int64), X > 9):
        with pytest.raises(BadInput, match=r"^x holds .*; the network was trained on floating-point numbers"):
            fitting_samples(x, FLOATS, "x")
    with pytest.raises(BadInput, match="x holds NaN or infinite values"):
        fitting_samples(np.where(X > 9, np.nan, X), FLOATS, "x")


UNIT, NORMALISED, RAW = (0.0, 1.0), (-2.1, 2.6), (0.0, 255.0)  # ranges of the training data


@pytest.mark.parametrize(
    ("values", "x", "fits"),
    [
        (UNIT, X * 1.0, False),
        (UNIT, X / 2 + 5, False),  # no dark pixel, no bright one
        (UNIT, (X / 255 - 0.45) / 0.22, True),
        (UNIT, X / 255, True),
        (UNIT, X * 0.0, True),
        (NORMALISED, X * 1.0, False),
        (NORMALISED, -X * 1.0, False),
        (NORMALISED, X / 255, True),
        (RAW, X / 255, False),
        (RAW, X / 255 * 2 - 1, False),
        (RAW, X / 255 * 0, True),
        (RAW, X / 255 + 254, True),  # a bright wall
        (RAW, X * 2.0, True),
        (None, X * 1e9, True),
    ],
)
def test_floats_of_another_unit_are_refused(values: tuple[float, float] | None, x: np.ndarray, fits: bool) -> None:
    trained_on = FLOATS._replace(values=values)
    if fits:
        np.testing.assert_array_equal(fitting_samples(x, trained_on, "x"), x.astype(np.float32))
    else:
        unit = f"floating-point numbers from {values[0]:g} to {values[1]:g}" if values else ""
        with pytest.raises(BadInput, match=rf"^x holds float32 from .*; the network was trained on {unit} and"):
            fitting_split(ArraySplit(x.astype(np.float32), np.zeros(5, int)), trained_on, "x")
    features = trained_on._replace(shape=(16,))  # have no common unit
    assert fitting_samples(x.reshape(5, 16), features, "x").shape == (5, 16)


@pytest.mark.parametrize("shape", [(), (4, 4), (0, 1, 4, 4), (5, 4, 4, 1), (5, 16)])
def test_shapes_are_those_of_training(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput) as caught:
        fitting_samples(np.zeros(shape, np.uint8), BYTES, "x")
    assert str(caught.value) == f"x: shape {shape} is not allowed; it must be [N, 1, 4, 4] with N ≥ 1"


def test_of_files_the_kind_of_numbers_is_known(tmp_path: Path) -> None:
    split = FolderSplit(str(tmp_path), [b"a.png"], np.zeros(1, int), 4, 4, exif=True)
    assert fitting_split(split, BYTES, "data") is split
    with pytest.raises(BadInput, match=r"^data holds uint8; the network was trained on floating-point numbers"):
        fitting_split(split, FLOATS, "data")


def test_labels() -> None:
    assert fitting_labels(np.array([0, 2], np.uint8), 2, BYTES, "y").tolist() == [0, 2]
    for y, said in (
        (np.array([0, 3]), "y: label 3 is not allowed; labels must lie in 0 … 2"),
        (np.array([0, -1]), "y: label -1 is not allowed; labels must lie in 0 … 2"),
        (np.array([0.0, 1.0]), r"y holds float64 \(2,\); it must hold 2 whole numbers"),
        (np.array([[0, 1]]), r"y holds int64 \(1, 2\); it must hold 2 whole numbers"),
        (np.array(["a", "b"]), "y holds <U1"),
    ):
        with pytest.raises(BadInput, match=said):
            fitting_labels(y, 2, BYTES, "y")
