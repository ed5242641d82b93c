"""In what data differ from those of a run: which split, how many samples, which classes; or that they are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dist_dash.data import ImageFolder
from dist_dash.data.same_data import OTHERWISE, what_differs
from dist_dash.data.source import ArraySplit, Splits


def tree(root: Path, classes: str = "abc") -> Path:
    """Empty files: nobody opens them."""
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                (root / split / name / f"{number}.png").touch()
    return root


def facts(root: Path) -> dict:
    return json.loads(json.dumps(ImageFolder(str(root)).load().facts.as_json()))


def renamed_class(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "a").rename(root / split / "z")


def removed_class(root: Path) -> None:
    for split in ("train", "val"):
        for file in (root / split / "b").iterdir():
            file.unlink()
        (root / split / "b").rmdir()


def added(root: Path) -> None:
    (root / "train/a/new.png").touch()


def renamed_file(root: Path) -> None:
    (root / "val/c/1.png").rename(root / "val/c/other.png")


def moved_file(root: Path) -> None:
    (root / "train/a/1.png").rename(root / "train/c/9.png")


CHANGES = {
    renamed_class: "class 'a' is missing; class 'z' is added",
    removed_class: (
        "class 'b' is missing; train: 6 samples instead of 9; test: 6 samples instead of 9"  # those of 'b'
    ),
    added: "train: 10 samples instead of 9 (class 'a': 4 instead of 3)",
    renamed_file: "test: class 'c': samples of other names",
    moved_file: "train: class 'a': 2 instead of 3; class 'c': 4 instead of 3",
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_a_folder_are_named(change, tmp_path: Path) -> None:
    before = facts(tree(tmp_path / "data"))
    change(tmp_path / "data")
    assert what_differs(before, facts(tmp_path / "data")) == CHANGES[change]


def test_a_moved_folder_holds_the_same_data(tmp_path: Path) -> None:
    before = facts(tree(tmp_path / "data"))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert what_differs(before, facts(tmp_path / "elsewhere")) == ""


def test_the_classes_of_a_run_are_found_among_more(tmp_path: Path) -> None:
    """A new class moves the numbers of the others; by their names they are the same data."""
    before = facts(tree(tmp_path / "data", "bcd"))
    tree(tmp_path / "data", "aez")
    (tmp_path / "data/train/a/a_name_that_is_longer_than_all_the_others.png").touch()
    now = ImageFolder(str(tmp_path / "data")).load()
    assert what_differs(before, now.facts.as_json()).startswith("classes 'a', 'e', 'z' are added; train: 19 samples in")
    mapped = now.with_classes(["b", "c", "d"])
    assert mapped.facts.as_json() == before
    assert mapped.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [Path(mapped.train.name(i)).parent.name for i in range(9)] == list("bbbcccddd")


def arrays(labels: list[int], names: list[str] | None = None, value: int = 0) -> Splits:
    samples = np.arange(len(labels), dtype=np.uint8)[:, None] + np.uint8(value)
    split = ArraySplit(samples, np.array(labels))
    return Splits(split, ArraySplit(samples[:2], np.array([0, 1])), 2, (0.5,), (0.5,), class_names=names)


def test_changes_of_arrays_are_named() -> None:
    before = arrays([0, 1, 0, 1]).facts.as_json()
    permuted, other = arrays([1, 0, 0, 1]).facts.as_json(), arrays([0, 1, 0, 1], value=1).facts.as_json()
    assert what_differs(before, permuted) == f"train: {OTHERWISE}"
    assert what_differs(before, other) == f"train: {OTHERWISE}; test: {OTHERWISE}"
    assert what_differs(before, arrays([0, 1, 1, 1]).facts.as_json()) == (
        "train: class '0': 1 instead of 2; class '1': 3 instead of 2".replace("'", "")
    )


def test_the_order_of_classes_counts_and_can_be_undone() -> None:
    then, now = arrays([0, 1, 0, 1], ["b", "a"]), arrays([1, 0, 1, 0], ["a", "b"])
    text = what_differs(then.facts.as_json(), now.facts.as_json())
    assert text == "classes in another order: number 0 is 'a' instead of 'b'"
    again = now.with_classes(["b", "a"])
    assert again.train.labels.tolist() == [0, 1, 0, 1]
    assert again.facts.splits["train"].digest == then.facts.splits["train"].digest


def test_names_count_only_where_both_have_them() -> None:
    named, plain = arrays([0, 1], ["a", "b"]).facts.as_json(), arrays([0, 1]).facts.as_json()
    assert named["digest"] != plain["digest"]
    assert what_differs(named, plain) == what_differs(plain, named) == ""


def test_what_earlier_versions_kept_is_compared_as_far_as_it_goes() -> None:
    now = arrays([0, 1], ["a", "b"]).facts.as_json()
    assert what_differs({"class_names": ["a", "b"]}, now) == what_differs({"class_names": None}, now) == ""
    assert what_differs({"class_names": ["a", "c"]}, now) == "class 'c' is missing; class 'b' is added"
    without = {name: value for name, value in now.items() if name != "splits"}
    assert what_differs(without, now) == ""
    assert what_differs({**without, "digest": "0"}, now) == OTHERWISE


@pytest.mark.parametrize("odd", [None, 3, "x", [], [1], {"train": 3}, {"train": {"per_class": 4, "names": [[]]}}])
@pytest.mark.parametrize("field", ["digest", "counts", "class_names", "splits"])
def test_odd_content_of_files_is_no_data_of_the_run(field: str, odd: object) -> None:
    now = arrays([0, 1], ["a", "b"]).facts.as_json()
    assert isinstance(what_differs({**now, "digest": "0", field: odd}, now), str)
