"""Unreadable images end the run in one line, or are passed over in the same way by every rank."""

from __future__ import annotations

import multiprocessing
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_dash.data import Augment, ImageFolder
from dist_dash.data.dataset import DataSet
from dist_dash.data.host_batch import HostBatch
from dist_dash.data.loader import EvalLoader, TrainLoader
from dist_dash.data.rng import order
from dist_dash.errors import BadInput


def take(loader: TrainLoader, count: int) -> list[HostBatch]:
    with closing(loader()) as batches:
        return list(islice(batches, count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def folder_data(folder: Path) -> DataSet:
    return DataSet(ImageFolder(str(folder), image_size=6, resize=8).load(), Augment(flip=True), seed=0)


def damage(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return [str(folder / name) for name in names]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_sample_is_an_error_in_one_line(folder: Path, workers: int) -> None:
    (path,) = damage(folder, "train/a/2.png")
    damage(folder, "val/b/1.png")
    data = folder_data(folder)
    with pytest.raises(BadInput) as caught:
        take(TrainLoader(data, batch_size=4, workers=workers), 2)
    assert path in str(caught.value)
    assert "loader.on_bad_sample: skip" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []
    with pytest.raises(BadInput, match=r"val/b/1\.png"):
        list(EvalLoader(data.test, batch_size=4, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_puts_the_next_readable_sample_in_its_place(folder: Path, workers: int) -> None:
    bad = damage(folder, "train/a/2.png", "train/a/3.png", "train/b/3.png")
    stand_in = {2: 4, 3: 4, 7: 0}
    data = folder_data(folder)
    named = []
    for batch in take(TrainLoader(data, batch_size=4, workers=workers, on_bad_sample="skip", mixup=0.5), 2):
        planned = order(0, 0, 8)[batch.step * 4 : batch.step * 4 + 4]
        assert batch.ids[0].tolist() == [stand_in.get(i, i) for i in planned.tolist()]
        np.testing.assert_array_equal(batch.labels[0], data.labels[batch.ids[0]])
        for row in range(4):
            pixels = np.empty((3, 6, 6), np.uint8)
            data.read_train(0, int(batch.ids[0, row]), pixels)
            np.testing.assert_array_equal(batch.x[0, row], pixels)
        named += batch.bad
    # Sample 3 is met in its own place and again as the stand-in of 2.
    assert sorted(named) == sorted([*bad, bad[1]])


def test_skipping_in_evaluation_marks_the_sample(folder: Path) -> None:
    bad = damage(folder, "val/b/1.png")
    batches = list(EvalLoader(folder_data(folder).test, batch_size=8, on_bad_sample="skip"))
    assert batches[0].valid.tolist() == [i != 5 for i in range(8)]
    assert batches[0].bad == bad
    assert batches[0].ids.tolist() == list(range(8))


def test_nothing_readable_ends_in_one_line(folder: Path) -> None:
    damage(folder, *(f"train/{name}/{i}.png" for name in "ab" for i in range(4)))
    with pytest.raises(BadInput, match="no sample can be read"):
        take(TrainLoader(folder_data(folder), batch_size=4, on_bad_sample="skip"), 1)
