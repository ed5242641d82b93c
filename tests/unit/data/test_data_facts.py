"""What data say about themselves: a digest that changes with what was trained on and with nothing else."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_dash.data import CIFAR10, Arrays, Augment, Digits, ImageFolder, Synthetic
from dist_dash.data.data_facts import DataFacts, Outline
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import ArraySplit, Source, Splits
from dist_dash.errors import BadInput


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, in `train` and in `val`."""
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                image = Image.fromarray(np.full((4, 4, 3), number, np.uint8))
                image.save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def folder(root: Path) -> DataFacts:
    return ImageFolder(str(root), image_size=4, resize=4).load().facts


class Backwards(contextlib.nullcontext):
    """`os.scandir` that lists in another order than the file system."""

    scan = staticmethod(os.scandir)

    def __init__(self, path: Path) -> None:
        super().__init__(self)
        self.left = sorted(self.scan(path), key=lambda entry: entry.name)

    def __iter__(self) -> Backwards:
        return self

    def __next__(self) -> os.DirEntry[str]:
        if not self.left:
            raise StopIteration
        return self.left.pop()


def renamed_class(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "bee").rename(root / split / "wasp")


def another_file(root: Path) -> None:
    (root / "train/ant/3.png").write_bytes((root / "train/ant/0.png").read_bytes())


def moved_file(root: Path) -> None:
    (root / "train/ant/0.png").rename(root / "train/bee/3.png")


@pytest.mark.parametrize("change", [renamed_class, another_file, moved_file])
def test_the_digest_of_image_files_changes_with_names(change, root: Path) -> None:
    before = folder(root)
    change(root)
    assert folder(root).digest != before.digest


def test_the_digest_of_image_files_is_that_of_their_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder(root)
    monkeypatch.setattr(os, "scandir", Backwards)
    assert folder(root) == before
    monkeypatch.undo()
    (root / "train/ant/0.png").write_bytes(b"another image, which nobody opens")
    assert folder(root) == before
    elsewhere = root.with_name("elsewhere")
    root.rename(elsewhere)
    assert folder(elsewhere) == before
    assert (before.counts, before.bytes, before.class_names) == ({"train": 6, "test": 6}, None, ["ant", "bee"])
    assert len(bytes.fromhex(before.digest)) == 16


def in_memory(samples: np.ndarray, labels: list[int], names: list[str] | None = None) -> DataFacts:
    train, test = ArraySplit(samples, np.array(labels)), ArraySplit(samples[:2], np.array([0, 1]))
    return Splits(train, test, 2, (0.5,), (0.5,), class_names=names).facts


def test_the_digest_of_arrays_changes_with_values_labels_and_names() -> None:
    samples = np.random.default_rng(0).integers(0, 256, (4, 1, 2, 2), dtype=np.uint8)
    plain = in_memory(samples, [0, 1, 0, 1])
    assert plain == in_memory(samples.copy(order="F"), [0, 1, 0, 1])
    other = samples.copy()
    other[3, 0, 1, 1] ^= 1
    found = [
        plain,
        in_memory(samples, [1, 0, 0, 1]),
        in_memory(other, [0, 1, 0, 1]),
        in_memory(samples, [0, 1, 0, 1], ["a", "b"]),
        in_memory(samples, [0, 1, 0, 1], ["b", "a"]),
        in_memory(samples[:3], [0, 1, 0]),
    ]
    assert len({facts.digest for facts in found}) == len(found)
    assert plain.bytes == samples.nbytes + samples[:2].nbytes
    assert (plain.shape, plain.classes, plain.uint8) == ((1, 2, 2), 2, True)


def test_what_a_run_makes_of_the_data_is_not_part_of_it() -> None:
    splits = Digits().load()
    whole = DataSet(splits, Augment(), seed=0).facts
    assert DataSet(splits, Augment(), seed=1, label_noise=0.4, validation=0.2).facts == whole == splits.facts
    assert Digits(seed=1).load().facts.digest != whole.digest
    assert Synthetic(seed=1).load().facts.digest != Synthetic().load().facts.digest
    assert Synthetic(train=4999).load().facts.digest != Synthetic().load().facts.digest
    assert Synthetic(mean=[0.1] * 3).load().facts == Synthetic().load().facts


def test_the_outline_is_known_without_reading(root: Path, tmp_path: Path) -> None:
    assert CIFAR10("nowhere").outline() == Outline((3, 32, 32), 10, True)
    assert ImageFolder(str(root), image_size=8, resize=9).outline() == Outline((3, 8, 8), 2, True)
    assert ImageFolder("nowhere").outline() is Arrays("nowhere.npz").outline() is None
    arrays = {f"x_{part}": np.zeros((4, 5), np.float32) for part in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, y_train=[0, 1, 2, 0], y_test=[0, 1, 2, 0])
    assert Arrays(str(tmp_path / "d.npz")).outline() == Outline((5,), 3, False)
    for source in (Digits(), Synthetic(size=8, channels=1, classes=3)):
        splits = source.load()
        assert source.outline() == Outline(splits.shape, splits.classes, splits.uint8)


def test_a_source_that_loads_something_else_has_no_outline_of_its_base() -> None:
    class Halved(Digits):
        def load(self) -> Splits:
            return super().load()

    class Named(Digits):
        """Loads what its base does."""

    source: Source = Halved()
    assert source.outline() is None
    assert Named().outline() == Outline((1, 8, 8), 10, True)


@pytest.mark.parametrize(("given", "heads"), [((), (10,)), ((10,), (10,)), ((4, 6), (4, 6))])
def test_classes_may_belong_to_several_heads(given: tuple[int, ...], heads: tuple[int, ...]) -> None:
    splits = Digits().load()
    again = Splits(splits.train, splits.test, 10, splits.mean, splits.std, heads=given)
    assert again.heads == DataSet(again, Augment(), seed=0).heads == heads


@pytest.mark.parametrize("heads", [(4, 5), (9, 1), (12, -2)])
def test_heads_that_do_not_fit_the_classes(heads: tuple[int, ...]) -> None:
    splits = Digits().load()
    with pytest.raises(BadInput, match=r"^data\.heads: \(.*must be numbers ≥ 2 that add up to the 10 classes$"):
        Splits(splits.train, splits.test, 10, splits.mean, splits.std, heads=heads)
