"""Every rank's batches, compared with a loop over the definition: whatever the replicas, the workers and the start."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from dist_dash.data import Augment
from dist_dash.data.dataset import DataSet, Sharding
from dist_dash.data.host_batch import HostBatch, sample_hash
from dist_dash.data.loader import EvalLoader, TrainLoader
from dist_dash.data.rng import MIXUP, order, sample_rng
from dist_dash.data.source import ArraySplit, Split, Splits
from dist_dash.errors import BadInput, RunFailed

CLASSES = 4


def data_set(n: int = 50, shape: tuple[int, ...] = (3, 6, 6), seed: int = 1, **arguments: Any) -> DataSet:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    part = ArraySplit(samples, np.arange(n) % CLASSES)
    channels = shape[0] if len(shape) == 3 else 1
    augment = Augment(pad_crop=2, flip=True) if len(shape) == 3 else Augment()
    whole = Splits(part, part, CLASSES, (0.5,) * channels, (0.2,) * channels)
    return DataSet(whole, augment, seed=seed, **arguments)


def take(loader: TrainLoader, count: int, epoch: int = 0, step: int = 0) -> list[HostBatch]:
    with closing(loader(epoch, step)) as batches:
        return list(islice(batches, count))


def assert_equal(one: HostBatch, two: HostBatch) -> None:
    assert (one.epoch, one.step, one.bad) == (two.epoch, two.step, two.bad)
    for name in ("ids", "x", "target", "labels", "mix"):
        first, second = getattr(one, name), getattr(two, name)
        assert (first is None) == (second is None)
        if first is not None:
            assert first.dtype == second.dtype
            assert torch.equal(first, second)


# --- what a batch holds


def test_a_batch_is_what_its_definition_says() -> None:
    data = data_set(label_noise=0.3)
    for batch in take(TrainLoader(data, batch_size=4, accumulation=3), 9):
        start = 12 * batch.step
        ids = order(1, batch.epoch, 50)[start : start + 12].reshape(3, 4)
        np.testing.assert_array_equal(batch.ids, ids)
        assert (batch.x.shape, batch.x.dtype, batch.mix, batch.bad) == ((3, 4, 3, 6, 6), torch.uint8, None, [])
        for a in range(3):
            for i in range(4):
                pixels = np.empty((3, 6, 6), np.uint8)
                data.read_train(batch.epoch, int(ids[a, i]), pixels)
                np.testing.assert_array_equal(batch.x[a, i], pixels)
                label = data.labels[ids[a, i]]
                assert batch.labels[a, i] == label
                assert batch.target[a, i].tolist() == [float(c == label) for c in range(CLASSES)]
    assert (batch.epoch, batch.step) == (2, 0)


def test_features_and_floats() -> None:
    samples = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
    part = ArraySplit(samples, np.arange(10) % 2)
    data = DataSet(Splits(part, part, 2, (0.0,), (1.0,)), Augment(), seed=0)
    batch = take(TrainLoader(data, batch_size=5), 1)[0]
    assert (batch.x.shape, batch.x.dtype) == ((1, 5, 7), torch.float32)
    np.testing.assert_array_equal(batch.x[0], samples[batch.ids[0]])


def test_mixup_is_what_its_definition_says() -> None:
    data = data_set()
    shares = []
    for batch in take(TrainLoader(data, batch_size=6, accumulation=2, mixup=0.4), 8):
        assert batch.mix is not None
        for a in range(2):
            for i in range(6):
                first = int(batch.ids[a, i - i % 2])
                share = sample_rng(1, batch.epoch, first, MIXUP).beta(0.4, 0.4)
                assert batch.mix[a, i] == pytest.approx(share, rel=1e-6)
                expected = np.zeros(CLASSES)
                expected[batch.labels[a, i]] += share
                expected[batch.labels[a, i ^ 1]] += 1 - share
                np.testing.assert_allclose(batch.target[a, i], expected, atol=1e-6)
                shares.append(share)
    assert len(set(shares)) == len(shares) // 2


# --- the same samples, however they are spread


@pytest.mark.parametrize(("replicas", "accumulation", "batch_size"), [(2, 1, 8), (2, 2, 4), (4, 2, 2), (8, 1, 2)])
def test_replicas_share_what_one_would_hold(replicas: int, accumulation: int, batch_size: int) -> None:
    data = data_set(n=70)
    alone = take(TrainLoader(data, batch_size=replicas * batch_size, accumulation=accumulation, mixup=0.5), 6)
    ranks = [
        take(
            TrainLoader(
                data,
                batch_size=batch_size,
                accumulation=accumulation,
                sharding=Sharding(replicas, replica),
                mixup=0.5,
            ),
            6,
        )
        for replica in range(replicas)
    ]
    for batch, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        for name in ("ids", "x", "target", "labels", "mix"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(part, name) for part in parts], dim=1))


def test_accumulation_holds_what_one_large_batch_would() -> None:
    data = data_set()
    large = take(TrainLoader(data, batch_size=12, mixup=0.5), 6)
    small = take(TrainLoader(data, batch_size=4, accumulation=3, mixup=0.5), 6)
    for one, two in zip(large, small, strict=True):
        for name in ("ids", "x", "target", "labels", "mix"):
            assert torch.equal(getattr(one, name)[0], getattr(two, name).flatten(0, 1))


def test_no_sample_comes_twice_in_an_epoch() -> None:
    loaders = [TrainLoader(data_set(), batch_size=3, accumulation=2, sharding=Sharding(2, r)) for r in range(2)]
    ids = torch.cat([b.ids.flatten() for loader in loaders for b in take(loader, loader.steps_per_epoch)])
    assert len(ids) == len(set(ids.tolist())) == 48


def test_workers_change_nothing() -> None:
    arguments: dict[str, Any] = {"batch_size": 4, "accumulation": 2, "mixup": 0.3}
    here = take(TrainLoader(data_set(), **arguments), 9, step=2)
    there = take(TrainLoader(data_set(), workers=2, **arguments), 9, step=2)
    for one, two in zip(here, there, strict=True):
        assert_equal(one, two)


def test_starting_in_the_middle_gives_the_tail() -> None:
    loader = TrainLoader(data_set(), batch_size=5, mixup=0.0)
    assert loader.steps_per_epoch == 10
    whole = take(loader, 25)
    for one, two in zip(whole[7:], take(loader, 18, step=7), strict=True):
        assert_equal(one, two)
    for one, two in zip(whole[13:], take(loader, 12, epoch=1, step=3), strict=True):
        assert_equal(one, two)
    assert_equal(whole[10], take(loader, 1, epoch=0, step=10)[0])
    assert not torch.equal(whole[0].ids, whole[10].ids)


# --- processes and global state


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_state_is_untouched(workers: int) -> None:
    torch.manual_seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    take(TrainLoader(data_set(), batch_size=4, workers=workers), 12)
    list(EvalLoader(data_set().test, batch_size=4, workers=workers))
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_no_worker_stays_behind() -> None:
    loader = TrainLoader(data_set(), batch_size=4, workers=2)
    for _ in loader():
        assert len(multiprocessing.active_children()) == 2
        break
    assert multiprocessing.active_children() == []
    batches = loader()
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []
    list(EvalLoader(data_set().test, batch_size=4, workers=2))
    assert multiprocessing.active_children() == []


def test_workers_ignore_the_stop_signals() -> None:
    loader = TrainLoader(data_set(), batch_size=4, workers=2)
    with closing(loader()) as batches:
        for _ in range(3):  # a batch from each worker: both have started
            next(batches)
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            for stop in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(worker.pid, stop)
        assert [batch.step for batch in islice(batches, 20)][-1] == (3 + 19) % 12


class Deadly(ArraySplit):
    def read(self, index: int) -> np.ndarray:
        os._exit(3)


def test_a_dead_worker_is_told_in_one_line() -> None:
    part = Deadly(np.zeros((8, 3, 2, 2), np.uint8), np.arange(8) % 2)
    data = DataSet(Splits(part, part, 2, (0.5,) * 3, (0.5,) * 3), Augment(), seed=0)
    with pytest.raises(RunFailed) as caught:
        take(TrainLoader(data, batch_size=4, workers=1), 1)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_every_tensor_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: (pinned.append(self), self)[1])
    batch = take(TrainLoader(data_set(), batch_size=4, mixup=0.2), 1)[0]
    assert pin_memory(batch) is batch
    assert {id(one) for one in pinned} == {id(getattr(batch, n)) for n in ("ids", "x", "target", "labels", "mix")}


# --- evaluation


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_covers_the_split_once_in_equal_shapes(workers: int) -> None:
    split: Split = data_set(n=21).test
    seen = []
    for replica in range(4):  # 6 batches for 4 ranks: the last two ranks end with nothing but padding
        loader = EvalLoader(split, batch_size=4, sharding=Sharding(4, replica), workers=workers)
        batches = list(loader)
        assert len(batches) == len(loader) == 2
        for number, batch in enumerate(batches):
            assert batch.x.shape == (4, 3, 6, 6)
            start = (number * 4 + replica) * 4
            real = max(0, min(4, 21 - start))
            assert batch.valid.tolist() == [True] * real + [False] * (4 - real)
            assert batch.ids.tolist() == [*range(start, start + real), *[0] * (4 - real)]
            for row in range(real):
                np.testing.assert_array_equal(batch.x[row], split.evaluation(start + row))
                assert batch.labels[row] == split.labels[start + row]
            seen += batch.ids[batch.valid].tolist()
    assert sorted(seen) == list(range(21))


# --- what is refused, and the hash


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, "loader.batch_size: 0"),
        (
            {"batch_size": 51},
            "loader.batch_size: 51 × accumulation 1 × replicas 1 = 51 is larger than the training split of 50",
        ),
        ({"batch_size": 9, "accumulation": 3, "sharding": Sharding(2, 0)}, "= 54"),
        ({"batch_size": 4, "accumulation": 0}, "loader.accumulation: 0"),
        ({"batch_size": 4, "workers": -1}, "loader.workers: -1"),
        ({"batch_size": 4, "on_bad_sample": "ignore"}, "loader.on_bad_sample: 'ignore'"),
        ({"batch_size": 4, "mixup": -0.1}, "labels.mixup: -0.1"),
        ({"batch_size": 4, "mixup": float("nan")}, "labels.mixup: nan"),
        ({"batch_size": 5, "mixup": 0.1}, "loader.batch_size: 5"),
    ],
)
def test_bad_loaders(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        TrainLoader(data_set(), **arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hash_sees_ids_and_order() -> None:
    ids = torch.arange(64).reshape(2, 32)
    found = sample_hash(ids)
    assert all(0 <= sample_hash(torch.tensor([i])) < 2**63 for i in range(100))
    assert found == sample_hash(ids.clone()) == sample_hash(ids.t().contiguous().t())
    assert int(torch.tensor(found)) == found
    assert len({sample_hash(torch.randperm(10)) for _ in range(500)}) > 490
    swapped = ids.clone()
    swapped[0, 0], swapped[0, 1] = 1, 0
    assert sample_hash(swapped) != found
