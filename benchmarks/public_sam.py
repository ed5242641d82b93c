"""SAM as others have published it, to be compared with: the usual wrapper of an optimizer, and a package's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

LossOf = Callable[[nn.Module, int], torch.Tensor]
"""The loss of a network on the batch of a step."""


class TwoStepSAM(torch.optim.Optimizer):
    """SAM as most people have it: an optimizer around another one, to be called twice an update.

    The interface and the loops over single parameters are those of github.com/davda54/sam, rewritten here.
    """

    def __init__(self, parameters: Any, base: type[torch.optim.Optimizer], rho: float = 0.05, **settings: Any) -> None:
        super().__init__(parameters, {"rho": rho, **settings})
        self.base = base(self.param_groups, **settings)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        """To θ + ε, by the gradients at θ."""
        used = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        length = torch.stack([p.grad.norm() for _, p in used]).norm() + 1e-12
        for group, p in used:
            self.state[p]["before"] = p.data.clone()
            p.add_(p.grad * (group["rho"] / length).to(p))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        """Back to θ, and on from there by the gradients at θ + ε."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["before"]
        self.base.step()
        self.zero_grad()


@contextmanager
def statistics_held(net: nn.Module) -> Iterator[None]:
    """Batch norm's statistics stay inside, as public implementations advise for the second pass: by momentum 0."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    usual = [m.momentum for m in norms]
    for module in norms:
        module.momentum = 0
    yield
    for module, momentum in zip(norms, usual, strict=True):
        module.momentum = momentum


def wrapped_sam(net: nn.Module, loss_of: LossOf, settings: dict[str, float]) -> Callable[[int], None]:
    """A training step by `TwoStepSAM`."""
    optimizer = TwoStepSAM(net.parameters(), torch.optim.SGD, **settings)

    def step(number: int) -> None:
        loss_of(net, number).backward()
        optimizer.first_step()
        with statistics_held(net):
            loss_of(net, number).backward()
        optimizer.second_step()

    return step


def packaged_sam(net: nn.Module, loss_of: LossOf, settings: dict[str, float]) -> Callable[[int], None] | None:
    """A training step by SAM of the package pytorch_optimizer; None where that is not installed."""
    try:
        from pytorch_optimizer import SAM as Packaged
    except ImportError:
        return None
    optimizer = Packaged(net.parameters(), torch.optim.SGD, rho=0.05, **settings)

    def step(number: int) -> None:
        def again() -> torch.Tensor:
            optimizer.zero_grad()
            with statistics_held(net):
                loss = loss_of(net, number)
                loss.backward()
            return loss

        loss_of(net, number).backward()
        optimizer.step(again)
        optimizer.zero_grad()

    return step
