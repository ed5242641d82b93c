"""Data that do not come: a deadline that names who owes them, and a stop that works meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_dash.data import Augment
from dist_dash.data.dataset import DataSet
from dist_dash.data.loader import EvalLoader, TrainLoader
from dist_dash.data.source import ArraySplit, Splits
from dist_dash.data.time_limit import POLL, Interrupted, TimeLimit
from dist_dash.errors import RunFailed

LATE = 300.0


class FromPipe(ArraySplit):
    """Sample 5 lies in a file system that does not answer while nobody writes into `pipe`."""

    pipe: Path

    def read(self, index: int) -> np.ndarray:
        if index == 5:
            self.pipe.read_bytes()
        return super().read(index)


@pytest.fixture
def stuck(tmp_path: Path) -> DataSet:
    part = FromPipe(np.arange(16 * 12, dtype=np.uint8).reshape(16, 3, 2, 2), np.arange(16) % 2)
    part.pipe = tmp_path / "pipe"
    os.mkfifo(part.pipe)
    return DataSet(Splits(part, part, 2, (0.5,) * 3, (0.5,) * 3), Augment(), seed=0)


def batches(kind: str, data: DataSet, workers: int, limit: TimeLimit) -> Generator[Any, None, None]:
    if kind == "train":
        return TrainLoader(data, batch_size=4, workers=workers)(limit=limit)
    return iter(EvalLoader(data.test, batch_size=4, workers=workers, limit=limit))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["train", "evaluation"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_deadline_names_who_delivers_nothing(kind: str, workers: int, stuck: DataSet) -> None:
    with closing(batches(kind, stuck, workers, TimeLimit(3 * POLL))) as found, pytest.raises(RunFailed) as caught:
        list(islice(found, 16))
    who = r"loader\.workers: worker [01] \(process \d+\) has delivered nothing"
    assert re.fullmatch(rf"{who if workers else 'loader: the data have not answered'} for 0\.6 s .*", str(caught.value))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("kind", ["train", "evaluation"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_works_while_nothing_comes(kind: str, workers: int, stuck: DataSet) -> None:
    with closing(batches(kind, stuck, workers, TimeLimit(LATE, lambda: True))) as found, pytest.raises(Interrupted):
        list(islice(found, 16))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_what_comes_late_is_what_would_have_come(workers: int, stuck: DataSet) -> None:
    with closing(batches("evaluation", stuck, workers, TimeLimit(LATE))) as found:
        threading.Timer(3 * POLL, lambda: stuck.test.pipe.write_bytes(b"")).start()  # type: ignore[attr-defined]
        seen = list(found)
    assert [batch.ids.tolist() for batch in seen] == [[*range(i, i + 4)] for i in (0, 4, 8, 12)]
    for batch in seen:
        np.testing.assert_array_equal(batch.x, stuck.test.samples[batch.ids])  # type: ignore[attr-defined]


def test_a_stopped_worker_is_named_and_ended() -> None:
    part = ArraySplit(np.zeros((16, 3, 2, 2), np.uint8), np.arange(16) % 2)
    data = DataSet(Splits(part, part, 2, (0.5,) * 3, (0.5,) * 3), Augment(), seed=0)
    with closing(TrainLoader(data, batch_size=4, workers=1)(limit=TimeLimit(3 * POLL))) as found:
        next(found)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(RunFailed, match=rf"worker 0 \(process {worker.pid}\) has delivered nothing for 0.6 s"):
            list(islice(found, 16))
    assert multiprocessing.active_children() == []
