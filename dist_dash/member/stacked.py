"""Several small members of one architecture in one process: one forward and one backward for all of them.

Each parameter and buffer lies in one tensor `[k, …]`, and a member's own network and optimizer hold views into it.
Passes, gradients and perturbations are those of the stack; the update is each member's own, by its own engine.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dist_dash.member.engine import Torch
from dist_dash.member.late import Truth
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, Stacked
from dist_dash.models import Normalise

CONVOLUTIONS = nn.modules.conv._ConvNd


class StackedNetwork(nn.Module):
    """k networks of one architecture as one: samples `[n, …]` → logits `[k, n, C]`.

    Args:
        networks: of the members; their parameters and buffers become views into those of this one.

    Attributes:
        batched: whether `vmap` runs all members at once. On a CPU it makes of convolutions grouped ones, which are
            slower than one convolution after the other; those networks, and what `vmap` cannot run, run in turn.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.net = copy.deepcopy(networks[0])
        own = [dict([*network.named_parameters(), *network.named_buffers()]) for network in networks]
        # The statistics of the pixels are the same for all, and samples stay `[n, …]` until the first layer.
        constants = {id(b) for m in self.net.modules() if isinstance(m, Normalise) for b in m.buffers(recurse=False)}
        shared = {name for name, buffer in self.net.named_buffers() if id(buffer) in constants}
        self._names = [name for name in own[0] if name not in shared]
        with torch.no_grad():
            for name in self._names:
                stacked = torch.stack([tensors[name] for tensors in own])
                _replace(self.net, name, stacked)
                for tensors, view in zip(own, stacked, strict=True):
                    tensors[name].data = view
        self.batched = stacked.device.type != "cpu" or not any(isinstance(m, CONVOLUTIONS) for m in self.net.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[k, n, C]` of samples `x` `[n, …]`."""
        present = dict([*self.net.named_parameters(), *self.net.named_buffers()])
        tensors = {name: present[name] for name in self._names}
        if self.batched:
            logits: Tensor = torch.vmap(self._one, in_dims=(0, None), randomness="different")(tensors, x)
            return logits
        each = zip(*(tensor.unbind(0) for tensor in tensors.values()), strict=True)
        return torch.stack([self._one(dict(zip(tensors, own, strict=True)), x) for own in each])

    def _one(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.net, tensors, (x,))
        return logits


def _replace(module: nn.Module, name: str, stacked: Tensor) -> None:
    """Put the members' tensors in the place of one's, wherever the network has it (tied weights have several names)."""
    old = dict([*module.named_parameters(), *module.named_buffers()])[name]
    new = nn.Parameter(stacked, old.requires_grad) if isinstance(old, nn.Parameter) else stacked
    for one in module.modules():
        kept: dict[str, Any] = one._parameters if isinstance(old, nn.Parameter) else one._buffers
        kept.update({key: new for key, tensor in kept.items() if tensor is old})


class _Passes(Torch):
    """The members' engines as one, for forward and backward."""

    def __init__(self, engine: Torch, module: StackedNetwork) -> None:
        super().__init__(engine.precision, engine.clip)
        self.module, self.exchange = module, engine.exchange
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._average = None  # without replicas there is nothing to average
        self._channels_last = engine._channels_last


class StackedMember(Member):
    """k members that make the same passes together: logits `[k, n, C]`, losses and norms `[k]`.

    A method that reads a member's numbers by those shapes reads the same for one member and for several. A member whose
    gradient is not finite skips its own step and nothing else.

    Args:
        each: the members, as they would be on ranks of their own, their engines attached.
        x: samples to try the passes with.
    """

    vector = Stacked

    def __init__(self, each: Sequence[Member], x: Tensor) -> None:
        first = each[0]
        networks = [member.engine.module for member in each]
        assert isinstance(first.engine, Torch)
        self.network = StackedNetwork(networks)
        super().__init__(_Passes(first.engine, self.network), first.index, first.accumulation, first.seed)
        self.each, self.parts, self.perturbable = list(each), first.parts, first.perturbable
        self._ascending = {"all": self.perturbable}
        self.names, self.kinds = first.names, first.kinds
        self.network.batched = self.network.batched and self._can_batch(x)

    @property
    def described(self) -> dict[str, Any]:
        return {"members_of_a_rank_run": "at once" if self.network.batched else "in turn"}

    def _can_batch(self, x: Tensor) -> bool:
        """Whether `vmap` can run the network forward and backward; random numbers and buffers are as before."""
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), self._buffers.held():
            try:
                torch.autograd.grad(self.engine.forward(x).sum(), self.parameters, allow_unused=True)
            except Exception:  # whatever a layer brings forth that looks at values, or at shapes in its own way
                return False
        return True

    def _counted(self, loss: Tensor, share: float | None) -> Tensor:
        return super()._counted(loss.sum(), share)  # each loss depends on its own member's weights alone

    def random_direction(self, step: int, perturb: str = "all") -> ParameterVector:
        drawn = [member.random_direction(step, perturb).tensors for member in self.each]
        return Stacked([torch.stack(of_parameter) for of_parameter in zip(*drawn, strict=True)])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for member in self.each:
                stack.enter_context(member.evaluating())
            with super().evaluating():
                yield

    def step(self) -> Truth:
        """Update every member by its own gradient; whether the weights of any moved."""
        for own, stacked in zip(zip(*(m.parameters for m in self.each), strict=True), self.parameters, strict=True):
            gradients = [None] * len(own) if stacked.grad is None else stacked.grad.unbind(0)
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient
            stacked.grad = None
        for member in self.each:
            member.step()
        self.passes = self._count.end()
        self.moved = any(member.moved for member in self.each)
        return self.moved
