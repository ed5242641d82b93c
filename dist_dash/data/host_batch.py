"""What a rank gets for one update, and for one step of evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor


@dataclass
class _Pinnable:
    def pin_memory(self) -> _Pinnable:
        """Move every tensor into page-locked memory, in place; the `DataLoader` calls this where pinning is on."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Tensor):
                setattr(self, one.name, value.pin_memory())
        return self


@dataclass
class HostBatch(_Pinnable):
    """One update of one rank: A micro-batches of n samples.

    `epoch`, `step`: the step counts within the epoch. `ids` int64 `[A, n]`: the training samples really used. `x` `[A,
    n, *shape]`, uint8 or float32 as stored, not mixed. `target` float32 `[A, n, C]`: class probabilities, one-hot or
    mixed, before smoothing. `labels` int64 `[A, n]`: the training labels of `ids`, with noise. `mix` float32 `[A, n]`
    or `None`: mixup's share λ of the sample itself; the rest is its neighbour's (2k ↔ 2k+1). `bad`: the names of
    unreadable samples that others stand in for.
    """

    epoch: int
    step: int
    ids: Tensor
    x: Tensor
    target: Tensor
    labels: Tensor
    mix: Tensor | None = None
    bad: list[str] = field(default_factory=list)


@dataclass
class EvalBatch(_Pinnable):
    """n samples of a split, in its order.

    `ids` int64 `[n]`: positions in the split. `x` `[n, *shape]`, uint8 or float32 as stored. `labels` int64 `[n]`.
    `valid` bool `[n]`: False for padding (where all else is 0) and for unreadable samples, whose names are in `bad`.
    """

    ids: Tensor
    x: Tensor
    labels: Tensor
    valid: Tensor
    bad: list[str] = field(default_factory=list)


def sample_hash(ids: Tensor) -> int:
    """A hash of the ids and their order, in 0 … 2^63-1: it fits a signed 64-bit tensor. `ids`: int64 of any shape."""
    data = ids.detach().to("cpu", torch.int64).contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1
