"""Labels that do not number the classes from 0 are refused with what helps, and no class is ever invented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from complaints import source_complaint as complaint

from dist_dash.data import IDX, Arrays, Augment
from dist_dash.data.dataset import DataSet
from dist_dash.data.labels import check_every_class, class_numbers
from dist_dash.data.source import ArraySplit, Source, Splits
from dist_dash.errors import BadInput


def npz(folder: Path, train: list[int], test: list[int], **fields: Any) -> Source:
    def x(n: int) -> np.ndarray:
        return np.zeros((n, 1, 4, 4), np.uint8)

    arrays = {"x_train": x(len(train)), "y_train": np.array(train), "x_test": x(len(test)), "y_test": np.array(test)}
    np.savez(folder / "data.npz", **arrays)
    return Arrays(str(folder / "data.npz"), **fields)


def idx(folder: Path, train: list[int], test: list[int], **fields: Any) -> Source:
    for part, labels in (("train", train), ("t10k", test)):
        n = len(labels)
        header = bytes([0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 4, 0, 0, 0, 4])
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(16 * n))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, n, *labels]))
    return IDX(str(folder), **fields)


BOTH = pytest.mark.parametrize("make", [npz, idx])
LETTERS = [*range(1, 27), 3, 3]


@BOTH
def test_labels_from_1_name_the_field_that_helps(tmp_path: Path, make: Any) -> None:
    said = complaint(make(tmp_path, LETTERS, [1, 26]))
    assert said == "data: labels in the train split run from 1 to 26; give --data.first_label 1"
    splits = make(tmp_path, LETTERS, [1, 26], first_label=1).load()
    assert splits.classes == 26
    assert splits.train.labels.tolist() == [label - 1 for label in LETTERS]
    assert splits.test.labels.tolist() == [0, 25]
    assert splits.class_names == [str(label) for label in range(1, 27)]


@BOTH
def test_gaps_name_the_field_that_helps(tmp_path: Path, make: Any) -> None:
    said = complaint(make(tmp_path, [0, 2, 4, 6, 2], [6]))
    assert "labels there are 0, 2, 4, 6 and must follow each other from 0" in said
    assert "--data.compact_labels true" in said
    splits = make(tmp_path, [0, 2, 4, 6, 2], [6], compact_labels=True).load()
    assert splits.train.labels.tolist() == [0, 1, 2, 3, 1]
    assert splits.test.labels.tolist() == [3]
    assert splits.class_names == ["0", "2", "4", "6"]


@BOTH
@pytest.mark.parametrize("fields", [{}, {"compact_labels": True}])
def test_a_class_of_the_test_split_alone_is_refused(tmp_path: Path, make: Any, fields: dict[str, Any]) -> None:
    said = complaint(make(tmp_path, [0, 1, 2], [2, 3], **fields))
    assert "label 3 in the test split has no sample in the train split, whose labels run from 0 to 2" in said


@BOTH
def test_labels_that_number_the_classes_stay_as_they_are(tmp_path: Path, make: Any) -> None:
    for fields in ({}, {"compact_labels": True}, {"first_label": 0}):
        splits = make(tmp_path, [2, 0, 1], [1], **fields).load()
        assert splits.train.labels.tolist() == [2, 0, 1]
        assert splits.train.labels.dtype == np.int64
        assert splits.class_names is None
    assert "give --data.first_label 0" in complaint(make(tmp_path, [2, 0, 1], [1], first_label=1))


def test_minus_one_is_no_class_unless_asked_for() -> None:
    """It usually says that a sample has no label."""
    with pytest.raises(BadInput, match=r"label -1 in the train split.*compact_labels") as caught:
        class_numbers({"train": np.array([-1, 0, 1])}, 0, False)
    assert "first_label" not in str(caught.value)
    assert class_numbers({"train": np.array([-1, 1, 1])}, 0, True).labels["train"].tolist() == [0, 1, 1]


def test_noise_never_invents_a_class() -> None:
    x = np.zeros((9, 4), np.uint8)
    split = ArraySplit(x, np.array([0, 2, 4] * 3))
    splits = Splits(split, split, 5, (0.0,), (1.0,), class_names=list("abcde"))
    with pytest.raises(BadInput, match=r"^data: 2 of 5 classes have no training sample, the first of them 1 \(b\)"):
        DataSet(splits, Augment(), seed=0, label_noise=0.4)
    check_every_class(np.array([2, 0, 1]), 3, None)
