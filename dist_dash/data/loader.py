"""A rank's share of the shared order, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Literal

import numpy as np
import torch

from dist_dash.data.dataset import ALONE, DataSet, Sharding
from dist_dash.data.host_batch import EvalBatch, HostBatch
from dist_dash.data.rng import MIXUP, sample_rng
from dist_dash.data.source import Split, UnreadableSample
from dist_dash.data.time_limit import TimeLimit
from dist_dash.data.workers import stream
from dist_dash.errors import BadInput, require, require_count, require_non_negative

OnBadSample = Literal["error", "skip"]

# So many unreadable samples in a row mean that the folder is gone, not that files are damaged.
_MOST_BAD_IN_A_ROW = 100


def _check(batch_size: int, workers: int, on_bad_sample: str) -> None:
    require_count("loader.batch_size", batch_size)
    require_count("loader.workers", workers, 0)
    require(on_bad_sample in ("error", "skip"), "loader.on_bad_sample", on_bad_sample, "error or skip")


def _unreadable(error: UnreadableSample) -> BadInput:
    return BadInput(
        f"data: {error.name!r} cannot be read ({error.reason}); repair or remove it, "
        "or let loader.on_bad_sample: skip pass over it"
    )


class TrainLoader:
    """Training batches of one rank, without end, from any step on.

    An epoch's order is cut into updates of `accumulation` × `replicas` × `batch_size` samples, in this nesting: the
    replicas together hold, micro-batch by micro-batch, what one replica with a batch `replicas` times as large would.
    Workers never change what is drawn.
    """

    def __init__(
        self,
        data: DataSet,
        *,
        batch_size: int,
        accumulation: int = 1,
        sharding: Sharding = ALONE,
        workers: int = 0,
        mixup: float = 0.0,
        pin_memory: bool = False,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        """`batch_size`: samples in a micro-batch of one rank; `mixup`: Beta's α, 0 is off. Raises `BadInput`."""
        _check(batch_size, workers, on_bad_sample)
        require_count("loader.accumulation", accumulation)
        require_non_negative("labels.mixup", mixup)
        require(len(data.heads) == 1, "data.heads", data.heads, "one head: labels of several cannot be read yet")
        if mixup > 0:
            require(
                batch_size % 2 == 0,
                "loader.batch_size",
                batch_size,
                "even, because labels.mixup mixes pairs of samples",
            )
        self.data = data
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.sharding = sharding
        self.workers = workers
        self.mixup = mixup
        self.pin_memory = pin_memory
        self.on_bad_sample = on_bad_sample
        self.steps_per_epoch = data.steps_per_epoch(batch_size, accumulation, sharding.replicas)

    def __call__(
        self, epoch: int = 0, step: int = 0, limit: TimeLimit | None = None
    ) -> Generator[HostBatch, None, None]:
        """Batches from this step on, across epochs, without end; close the generator to end its workers."""
        first = epoch * self.steps_per_epoch + step
        return stream(self.assemble, _Updates(first, self.steps_per_epoch), self.workers, self.pin_memory, limit)

    def assemble(self, update: tuple[int, int]) -> HostBatch:
        """The batch of (epoch, step), a pure function while files do not change. Raises `BadInput`."""
        epoch, step = update
        ids = self._share(epoch, step)
        x = torch.empty((ids.size, *self.data.shape), dtype=torch.uint8 if self.data.uint8 else torch.float32)
        bad: list[str] = []
        for row, sample_id, out in zip(range(ids.size), ids.flat, x.numpy(), strict=True):
            ids.flat[row] = self._read(epoch, int(sample_id), out, bad)
        labels = self.data.labels[ids]
        target = np.zeros((*ids.shape, self.data.classes), dtype=np.float32)
        np.put_along_axis(target, labels[..., None], 1, axis=-1)
        mix = None
        if self.mixup > 0:
            mix = self._shares(epoch, ids)
            pairs = target.reshape(self.accumulation, -1, 2, self.data.classes)
            share = mix.reshape(self.accumulation, -1, 2, 1)
            target = (share * pairs + (1 - share) * pairs[:, :, ::-1]).reshape(target.shape)
        return HostBatch(
            epoch=epoch,
            step=step,
            ids=torch.from_numpy(ids),
            x=x.reshape(self.accumulation, self.batch_size, *self.data.shape),
            target=torch.from_numpy(target),
            labels=torch.from_numpy(labels),
            mix=None if mix is None else torch.from_numpy(mix),
            bad=bad,
        )

    def _share(self, epoch: int, step: int) -> np.ndarray:
        """This rank's ids of one update: int64 `[A, n]`."""
        nesting = (self.accumulation, self.sharding.replicas, self.batch_size)
        size = int(np.prod(nesting))
        update = self.data.order(epoch)[step * size : (step + 1) * size]
        return update.reshape(nesting)[:, self.sharding.replica].copy()

    def _read(self, epoch: int, sample_id: int, out: np.ndarray, bad: list[str]) -> int:
        """Write the sample, or the next readable one, into `out`. Returns the id of what was written."""
        for _ in range(min(_MOST_BAD_IN_A_ROW, len(self.data.train))):
            try:
                self.data.read_train(epoch, sample_id, out)
                return sample_id
            except UnreadableSample as error:
                if self.on_bad_sample == "error":
                    raise _unreadable(error) from error
                bad.append(error.name)
                sample_id = (sample_id + 1) % len(self.data.train)
        raise BadInput(
            f"data: no sample can be read, {bad[-1]!r} and those before it; check that the data are still there"
        )

    def _shares(self, epoch: int, ids: np.ndarray) -> np.ndarray:
        """λ for each sample, equal within a pair: float32 `[A, n]`. It depends on the pair's first id."""
        firsts = ids[:, ::2]
        shares = [sample_rng(self.data.seed, epoch, int(i), MIXUP).beta(self.mixup, self.mixup) for i in firsts.flat]
        return np.repeat(np.array(shares, dtype=np.float32).reshape(firsts.shape), 2, axis=1)


class _Updates:
    """(epoch, step) of update `first` and all that follow."""

    def __init__(self, first: int, steps_per_epoch: int) -> None:
        self.first = first
        self.steps_per_epoch = steps_per_epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        update = self.first
        while True:
            yield divmod(update, self.steps_per_epoch)
            update += 1


class EvalLoader:
    """One pass over a split, in order: replica r takes batches r, r + R, …; every rank gets as many, of one shape."""

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        sharding: Sharding = ALONE,
        workers: int = 0,
        pin_memory: bool = False,
        on_bad_sample: OnBadSample = "error",
        limit: TimeLimit | None = None,
    ) -> None:
        """`batch_size`: samples in a batch of one rank. Raises `BadInput`."""
        _check(batch_size, workers, on_bad_sample)
        self.split = split
        self.batch_size = batch_size
        self.sharding = sharding
        self.workers = workers
        self.pin_memory = pin_memory
        self.on_bad_sample = on_bad_sample
        self.limit = limit

    def __len__(self) -> int:
        """Batches on every rank."""
        return -(-len(self.split) // (self.batch_size * self.sharding.replicas))

    def __iter__(self) -> Generator[EvalBatch, None, None]:
        """The batches of this rank; a new pass each time."""
        replicas = self.sharding.replicas
        numbers = range(self.sharding.replica, len(self) * replicas, replicas)
        return stream(self.assemble, numbers, self.workers, self.pin_memory, self.limit)

    def assemble(self, number: int) -> EvalBatch:
        """Batch `number` of the split, counted over all ranks; beyond the end it is all padding."""
        n = self.batch_size
        x = torch.zeros((n, *self.split.shape), dtype=torch.uint8 if self.split.dtype == np.uint8 else torch.float32)
        ids, labels = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
        valid = torch.zeros(n, dtype=torch.bool)
        bad: list[str] = []
        pixels = x.numpy()
        for row, index in enumerate(range(number * n, min((number + 1) * n, len(self.split)))):
            ids[row] = index
            labels[row] = int(self.split.labels[index])
            try:
                pixels[row] = self.split.evaluation(index)
                valid[row] = True
            except UnreadableSample as error:
                if self.on_bad_sample == "error":
                    raise _unreadable(error) from error
                bad.append(error.name)
        return EvalBatch(ids, x, labels, valid, bad)
