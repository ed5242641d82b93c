"""A user's own model, method and data set with a fault in them, at a chosen place and on a chosen rank."""

from __future__ import annotations

import os

import numpy as np
from torch import Tensor, nn

from dist_dash.data import Source
from dist_dash.data.digits import Digits
from dist_dash.data.source import Split, Splits, SubsetSplit
from dist_dash.member.batch import Batch
from dist_dash.member.member import Member
from dist_dash.methods import SAM
from dist_dash.methods.method import Measured
from dist_dash.ranks.exchange import Exchange


def here(rank: int) -> bool:
    """Whether this process is a rank that has the fault; -1: all have it."""
    return rank in (-1, int(os.environ["RANK"]))


class Net(nn.Module):
    def __init__(self, shape: tuple[int, ...], classes: int, fault: str, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"out": nn.Linear(int(np.prod(shape)), classes)})
        self.fault, self.rank, self.calls = fault, rank, 0
        if fault == "constructor" and here(rank):
            raise RuntimeError("FAULT")

    def forward(self, x: Tensor) -> Tensor:
        if self.training and here(self.rank):
            self.calls += 1
            if self.fault == "training":
                raise RuntimeError("FAULT")
            if self.fault == "key":
                return self.layers["FAULT"](x)  # type: ignore[no-any-return]
            if self.fault == "later" and self.calls > 5:
                raise ZeroDivisionError("FAULT")
        return self.layers["out"](x.flatten(1))  # type: ignore[no-any-return]


class Rule(SAM):
    def __init__(self, rank: int = -1, rho: float = 0.05) -> None:
        super().__init__(rho)
        self.rank = rank

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        if batch.progress.step == 2 and here(self.rank):
            raise KeyError("FAULT")
        return super().update(member, batch, exchange)


class Torn(SubsetSplit):
    def __init__(self, base: Split, fault: str, rank: int) -> None:
        super().__init__(base, np.arange(len(base)))
        self.fault, self.rank = fault, rank

    def evaluation(self, index: int) -> np.ndarray:
        if self.fault == "read" and here(self.rank) and index > 100:
            raise FileNotFoundError(2, "FAULT", "nowhere.png")
        return super().evaluation(index)


class Data(Source):
    def __init__(self, fault: str, rank: int = -1) -> None:
        super().__init__()
        self.fault, self.rank = fault, rank

    def load(self) -> Splits:
        if self.fault == "load" and here(self.rank):
            raise OSError("FAULT")
        splits = Digits().load()
        splits.train = Torn(splits.train, self.fault, self.rank)
        return splits
