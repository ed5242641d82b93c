from collections.abc import Callable

import pytest
import torch
from torch import nn

from dist_dash.member.engine import Precision, Torch
from dist_dash.member.member import Member
from dist_dash.ranks.layout import Layout


class NoPeers:
    """What a member needs of an exchange when it is alone in one process."""

    def __init__(self) -> None:
        self.layout = Layout(rank=0, world=1, members=1)

    def mean_over_replicas_(self, tensors: list[torch.Tensor], megabytes: float = 25.0) -> None:
        pass

    def await_device(self) -> None:
        pass


@pytest.fixture(scope="session")
def lone_member() -> Callable[..., Member]:
    def make(network: nn.Module, precision: Precision = "fp32", clip: float = 0.0, accumulation: int = 1) -> Member:
        engine = Torch(precision, clip)
        engine.attach(network, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), NoPeers())
        return Member(engine, index=0, accumulation=accumulation)

    return make
