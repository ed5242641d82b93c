"""Small systems that use everything the interfaces promise: a proof that each fits into one class of a few lines.

They are doubles for tests; the methods of these names in the package are another matter. Formulas and choices:
`proof_oracle.py`, which shares no code with this file.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dist_dash.member.batch import Batch
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, unit
from dist_dash.methods import SGD
from dist_dash.methods.method import Measured, Method, Samples, Totals
from dist_dash.models import Architecture
from dist_dash.ranks.exchange import Exchange
from dist_dash.seeds import derived_seed
from dist_dash.sparsity import Sparsity
from dist_dash.trajectories.trajectory import Trajectory


def ascent(member: Member, batch: Batch, totals: Totals) -> ParameterVector:
    """∇L(θ) of this replica."""
    g = ParameterVector([])
    for micro in batch:
        logits = member.forward(micro.x)
        loss = micro.loss(logits)
        g += member.gradient(loss)
        totals.add(loss=loss, accuracy=micro.correct(logits))
    return g


class RateSAM(Method):
    """Uses the learning rate: its factor now, and its range over the run."""

    def __init__(self, rho: float = 0.2, rho_min: float = 0.05, alpha: float = 0.3) -> None:
        self.rho, self.rho_min, self.alpha = rho, rho_min, alpha

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals, (low, high) = Totals(len(batch)), batch.progress.rate_range
        share = 1.0 if high == low else min(1.0, max(0.0, (batch.progress.rate - low) / (high - low)))
        g, g_p = member.mean_over_replicas(ascent(member, batch, totals)), ParameterVector([])
        with member.perturbed((self.rho_min + (self.rho - self.rho_min) * share) * unit(g)):
            for micro in batch:
                g_p += member.gradient(micro.loss(member.forward(micro.x)))
        g_p = member.mean_over_replicas(g_p)
        u = unit(g_p)
        member.descend(g_p - self.alpha * (g - g.dot(u) * u))
        member.step()
        return totals.measured()


class GateSAM(Method):
    """Uses a gate that all replicas decide alike, and a state that changes only where the weights moved."""

    def __init__(self, rho: float = 0.1, delta: float = 0.9, gate_start: float = 1.0, gate_end: float = -1.0) -> None:
        self.rho, self.delta, self.gate = rho, delta, (gate_start, gate_end)
        self.kept: tuple[float, float] | None = None  # μ and σ²

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals = Totals(len(batch))
        g = ascent(member, batch, totals)
        squared = float(exchange.mean_over_replicas(g.norm().square()))
        mu, variance = squared, 0.0
        if self.kept is not None:
            mu = self.delta * self.kept[0] + (1 - self.delta) * squared
            variance = self.delta * self.kept[1] + (1 - self.delta) * (squared - mu) ** 2
        c = self.gate[0] + (self.gate[1] - self.gate[0]) * batch.progress.share
        sam = squared >= mu + c * math.sqrt(variance)
        if sam:
            with member.perturbed(self.rho * unit(g)):
                for micro in batch:
                    member.backward(micro.loss(member.forward(micro.x)))
        else:
            member.descend(g)
        if member.step():
            self.kept = mu, variance
        return totals.measured(sam=torch.tensor(float(sam)))

    def restarted(self) -> None:
        self.kept = None

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = state["kept"]


class ChosenSAM(Method):
    """Uses losses of single samples, and weights on them over all micro-batches of an update."""

    def __init__(self, rho: float = 0.1, gamma: float = 0.5) -> None:
        self.rho, self.gamma = rho, gamma

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals, g, before, after = Totals(len(batch)), ParameterVector([]), [], []
        for micro in batch:
            losses = micro.loss(member.forward(micro.x), "none")
            g += member.gradient(losses.mean())
            before.append(losses.detach())
            totals.add(loss=losses.mean())
        with member.perturbed(self.rho * unit(member.mean_over_replicas(g))):
            with torch.no_grad():
                after = [micro.loss(member.forward(micro.x), "none") for micro in batch]
            rise = torch.cat(after) - torch.cat(before)
            chosen = rise.argsort(descending=True, stable=True)[: max(1, math.ceil(self.gamma * len(rise)))]
            weights = torch.zeros_like(rise).index_fill(0, chosen, 1 / len(chosen))
            for micro, w in zip(batch, weights.split([len(losses) for losses in before]), strict=True):
                member.backward((w * micro.loss(member.forward(micro.x), "none")).sum(), share=1)
        member.step()
        return totals.measured()


class LooksAhead(SGD):
    """Uses a pass over the training split before every epoch: records its mean loss, and how many samples it saw."""

    seen: Tensor

    def before_epoch(self, epoch: int, member: Member, samples: Samples, exchange: Exchange) -> None:
        losses, counts = [torch.zeros(())], 0
        with member.evaluating(), torch.no_grad():
            for micro in samples("train"):
                losses.append(micro.loss(member.forward(micro.x), "none").sum())
                counts += len(micro.x)
        total = torch.stack([torch.stack(losses).sum().double(), torch.tensor(counts, dtype=torch.float64)])
        self.seen = exchange.mean_over_replicas(total)

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        seen, replicas = self.seen, exchange.layout.replicas
        return {**super().update(member, batch, exchange), "ahead": seen[0] / seen[1], "samples": seen[1] * replicas}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Reports(SGD):
    """Records what it is given to know of time, and how often its member has started anew."""

    def __init__(self) -> None:
        self.restarts = 0

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        progress, (low, high) = batch.progress, batch.progress.rate_range
        known = {"rate": progress.rate, "low": low, "high": high, "total": progress.total_steps, "at": progress.step}
        known |= {"steps_per_epoch": progress.steps_per_epoch, "restarts": self.restarts}
        return {
            **super().update(member, batch, exchange),
            **{name: torch.tensor(float(v)) for name, v in known.items()},
        }

    def restarted(self) -> None:
        self.restarts += 1


class Heads(nn.Module):
    """A trunk and two heads, whose logits stand side by side."""

    def __init__(self, features: int, classes: tuple[int, int]) -> None:
        super().__init__()
        self.trunk, self.left = nn.Linear(features, 10), nn.Linear(10, classes[0])
        self.right = nn.Linear(10, classes[1])

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.tanh(self.trunk(x.flatten(1)))
        return torch.cat([self.left(inner), self.right(inner)], -1)


class TwoHeads(Architecture):
    """An architecture that says which head a parameter belongs to."""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return Heads(math.prod(shape), (classes // 2, classes - classes // 2))

    def head_of(self, name: str) -> int | None:
        return {"left": 0, "right": 1}.get(name.partition(".")[0])


class TwoSnapshots(Trajectory):
    """A cosine that starts anew half way; the weights at the end of each half become a member."""

    def members(self, steps_per_epoch: int, total_steps: int) -> list[int]:
        return [round(cycle * total_steps / 2) for cycle in (1, 2)]

    def factor(self, step: int, steps_per_epoch: int, total_steps: int) -> float:
        middle, end = self.members(steps_per_epoch, total_steps)
        start, stop = (0, middle) if step < middle else (middle, end)
        return 0.5 * (1 + math.cos(math.pi * (step - start) / (stop - start)))


class TwoChains(TwoSnapshots):
    """The same, but weights and optimizer start anew half way."""

    def restarts(self, steps_per_epoch: int, total_steps: int) -> list[int]:
        return [round(total_steps / 2)]


class RandomMask(Sparsity):
    """A random mask per member on every matrix, drawn once: equal on replicas, for it follows from the seed."""

    def __init__(self, density: float = 0.5) -> None:
        self.density = density

    def start(self, member: Member) -> None:
        member.set_masks(
            [drawn(self.density, member, i) if kind == "matrix" else None for i, kind in enumerate(member.kinds)]
        )


def drawn(density: float, member: Member, position: int) -> Tensor:
    generator = torch.Generator().manual_seed(derived_seed("mask", member.seed, member.index, position))
    like = member.parameters[position]
    return (torch.rand(like.shape, generator=generator) < density).to(like.device, like.dtype)
