"""Engines and data that fail at a chosen rank and step. Named by class path in a recipe."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dist_dash.data import Digits
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import ArraySplit, Splits
from dist_dash.member.batch import Batch
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import Precision, Torch
from dist_dash.member.loss_scale import LossScaling
from dist_dash.member.member import Member
from dist_dash.methods import DASH, Measured
from dist_dash.ranks.exchange import Exchange


def rank() -> int:
    return int(os.environ["RANK"])


class Struck(Torch):
    """An engine whose process is struck by a signal right after an update.

    Args:
        orders: file that says `RANK STEP SIGNAL`; it disappears when that has happened.
    """

    def __init__(self, orders: str) -> None:
        super().__init__()
        self.orders = orders

    def step(self) -> None:
        super().step()
        file = Path(self.orders)
        try:
            whom, step, number = map(int, file.read_text().split())
        except FileNotFoundError:  # asked in one go: the rank that is struck takes the file away while others look
            return
        if (whom, step) == (rank(), self.exchange.step):
            file.unlink()
            os.kill(os.getpid(), number)


class StruckDASH(DASH):
    """DASH, whose process is struck by a signal in an update.

    Args:
        orders: file that says `RANK STEP SIGNAL`; it disappears when that has happened.
    """

    def __init__(self, orders: str) -> None:
        super().__init__()
        self.orders = orders

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        measured, file = super().update(member, batch, exchange), Path(self.orders)
        words = file.read_text().split() if file.exists() else ["-1"] * 3
        if [*map(int, words[:2])] == [rank(), batch.progress.step]:
            file.unlink()
            os.kill(os.getpid(), int(words[2]))
        return measured


class Held(Torch):
    """An engine that takes its time while it is asked to.

    Args:
        sign: file; while it is there, an update takes 50 ms more. `SECONDS STEP` in it: so many seconds, from that many
            steps on, so that a test can strike at a step however busy the machine is.
    """

    def __init__(self, sign: str) -> None:
        super().__init__()
        self.sign = sign

    def step(self) -> None:
        super().step()
        hold(self.sign, self.exchange.step)


class HeldDeepSpeed(DeepSpeed):
    """The same with DeepSpeed.

    Args:
        sign: see `Held`.
        zero: ZeRO stage.
        precision: of the kernels.
        scaling: how the loss scale of fp16 is found.
    """

    def __init__(
        self,
        sign: str,
        zero: Literal[0, 1, 2] = 0,
        precision: Precision = "fp32",
        scaling: LossScaling = LossScaling(),  # noqa: B008  # it is frozen
    ) -> None:
        super().__init__(precision, zero=zero, scaling=scaling)
        self.sign = sign

    def step(self) -> None:
        super().step()
        hold(self.sign, self.exchange.step)


def hold(sign: str, step: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        seconds, _, first = Path(sign).read_text().partition(" ")
        if step >= int(first or 0):
            time.sleep(float(seconds or 0.05))


class Sick(Torch):
    """An engine whose member 1 predicts nothing finite for a while.

    Args:
        first: the first such step.
        steps: how many.
        late: whether the device decides, as on a GPU, that an update is skipped.
    """

    def __init__(self, first: int, steps: int, late: bool = False) -> None:
        super().__init__()
        self.first, self.steps, self.late = first, steps, late

    def attach(self, *parts: Any) -> None:
        super().attach(*parts)
        self.decides_on_device = self.late

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        sick = self.exchange.layout.member == 1 and 0 <= self.exchange.step - self.first < self.steps
        return logits * torch.nan if sick and torch.is_grad_enabled() else logits


class FullDisk(Torch):
    """An engine whose second rank has no space for its third checkpoint while a sign is there.

    Args:
        sign: file; without it there is space.
        limit: bytes that fit into a file before the kernel says no; 0: the system says that the disk is full.
    """

    def __init__(self, sign: str, limit: int = 0) -> None:
        super().__init__()
        self.sign, self.limit, self.saves = sign, limit, 0

    def state(self) -> dict[str, Any]:
        self.saves += 1
        if rank() == 1 and self.saves == 3 and Path(self.sign).exists():
            torch.save = partial(save_with_limit, torch.save, self.limit)
        return super().state()


def save_with_limit(save: Callable[..., None], limit: int, *arguments: Any) -> None:
    if not limit:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class OtherOrder(Digits):
    """Digits that rank 1 reads in another order: two samples of the third batch of 32 change places."""

    def load(self) -> Splits:
        if rank() == 1:
            shared = DataSet.order

            def own(data: DataSet, epoch: int) -> np.ndarray:
                ids = shared(data, epoch).copy()
                ids[[70, 71]] = ids[[71, 70]]
                return ids

            DataSet.order = own  # type: ignore[method-assign]
        return super().load()


class Unanswered(ArraySplit):
    """Samples of a file system that does not answer while a sign says so."""

    sign: Path

    def read(self, index: int) -> np.ndarray:
        while self.sign.exists() and str(rank()) in self.sign.read_text():
            time.sleep(0.02)
        return super().read(index)


class OnDisk(Digits):
    """Digits on such a file system.

    Args:
        sign: file with the ranks that get no answer.
        split: of which samples; or before any are known.
    """

    def __init__(self, sign: str, split: Literal["train", "test", "before"] = "train") -> None:
        super().__init__()
        self.sign, self.split = sign, split

    def load(self) -> Splits:
        splits = super().load()
        if self.split == "before":
            while Path(self.sign).exists() and str(rank()) in Path(self.sign).read_text():
                time.sleep(0.02)
            return splits
        part = getattr(splits, self.split)
        stalled = Unanswered(part.samples, part.labels)
        stalled.sign = Path(self.sign)
        setattr(splits, self.split, stalled)
        return splits
