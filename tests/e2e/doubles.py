"""Parts of a recipe that are slow at a chosen place, so that a test can strike there; named by class path."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dist_dash.data import Digits
from dist_dash.data.source import Splits, SubsetSplit
from dist_dash.member.engine import Torch


class SlowSplit(SubsetSplit):
    """A split whose samples take 10 ms each; leaves a file when the first one is read."""

    sign = Path()

    def evaluation(self, index: int) -> np.ndarray:
        self.sign.touch()
        time.sleep(0.01)
        return super().evaluation(index)


class SlowEvaluation(Digits):
    """Digits whose evaluation takes a second.

    Args:
        sign: file that appears when an evaluation has begun.
    """

    def __init__(self, sign: str) -> None:
        super().__init__()
        self.sign = sign

    def load(self) -> Splits:
        splits = super().load()
        slow = SlowSplit(splits.test, np.arange(100))
        slow.sign = Path(self.sign)
        splits.test = slow
        return splits


class SlowSave(Torch):
    """An engine whose second rank takes long to hand its state to a checkpoint, from the third one on.

    Args:
        sign: file that appears when that has begun.
    """

    def __init__(self, sign: str) -> None:
        super().__init__()
        self.sign, self.saves = sign, 0

    def state(self) -> dict[str, Any]:
        self.saves += 1
        if os.environ["RANK"] == "1" and self.saves >= 3 and not Path(self.sign).exists():
            Path(self.sign).touch()
            time.sleep(60)
        return super().state()


class SickInEvaluation(nn.Module):
    """A healthy network in training whose predictions are NaN in evaluation."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits if self.training else logits * torch.nan


def non_finite_in_evaluation(shape: tuple[int, ...], classes: int) -> nn.Module:
    """For `Custom`."""
    return SickInEvaluation(int(np.prod(shape)), classes)


class SlowLoading(Digits):
    """Digits that the first life of a Slurm job takes long to load.

    Args:
        sign: file; as long as it is there.
    """

    def __init__(self, sign: str) -> None:
        super().__init__()
        self.sign = sign

    def load(self) -> Splits:
        while os.environ.get("SLURM_RESTART_COUNT") == "0" and Path(self.sign).exists():
            time.sleep(0.05)
        return super().load()
