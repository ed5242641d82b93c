"""The time of an update at any size, as a sum of named terms: what `dist-dash plan` and a scaling study foresee.

Needs no torch. S are bytes, n ranks of a group, α seconds per message, β bytes per second:

all-reduce, ring     2 (n − 1) (α + S / (n β))                   gloo always; NCCL the lesser of the two
all-reduce, tree     2 ⌈log₂ n⌉ α + 2 S / β
all-gather, ring     (n − 1) (α + S / β)                         S of each rank

A ring is as slow as its slowest link. Members exchange predictions across nodes, one ring for each replica index, and
those of a node share its link; a member's replicas sit side by side.

Straggling: a rank computes for T · exp(σₚ z + σᵢ ε), z drawn once per rank, ε at every update, both standard normal,
T the median. An update is taken to end with its slowest rank: all agree on the next one (and so without exchange the
chance part is an upper bound, for a rank may then be one update ahead). Where the members meet within it, every stretch
between two meetings, T_k long, ends with its slowest: the chance part of a stretch is relatively larger, σᵢ √(T / T_k),
and what was lost before a meeting cannot be made good after it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le

from dist_dash.errors import BadInput

Floats = npt.NDArray[np.float64]
Number = Annotated[float, Ge(0), Le(1e15)]
Positive = Annotated[float, Gt(0), Le(1e15)]
Count = Annotated[int, Ge(1), Le(10**9)]
GRID = np.linspace(-12.0, 12.0, 2401)  # in standard deviations; the integrands are smooth, and end long before
DENSITY = np.exp(-(GRID**2) / 2) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Network:
    """What a message costs.

    Args:
        alpha_inside: microseconds per message between ranks of a node.
        beta_inside: GB/s of a rank to another one on its node.
        alpha_between: microseconds per message between nodes.
        beta_between: GB/s of a node's link, which its ranks share.
        alpha_flags: microseconds per message of the flags that all ranks agree on before every update (gloo).
        overlap: share of the averaging of gradients that can hide behind the last backward, where the engine starts it
            there: of 8 buckets, the last cannot.
    """

    alpha_inside: Number = 10.0
    beta_inside: Positive = 100.0
    alpha_between: Number = 20.0
    beta_between: Positive = 25.0
    alpha_flags: Number = 30.0
    overlap: Annotated[float, Ge(0), Le(1)] = 0.875


@dataclass(frozen=True)
class Straggling:
    """How much ranks differ in the time of the same work.

    Args:
        independent: σᵢ, of an update, drawn anew at each.
        persistent: σₚ, of a rank, drawn once.
    """

    independent: Annotated[float, Ge(0), Le(3)] = 0.03
    persistent: Annotated[float, Ge(0), Le(3)] = 0.02


@dataclass(frozen=True)
class Size:
    """Ranks, and how they lie: members × replicas, so many on a node, so many cores there (None: enough)."""

    members: int
    replicas: int
    per_node: int
    cores: int | None = None

    @property
    def world(self) -> int:
        """All ranks."""
        return self.members * self.replicas

    @property
    def nodes(self) -> int:
        """Nodes that hold them."""
        return -(-self.world // self.per_node)


@dataclass(frozen=True)
class MethodCost:
    """What an update by one method is made of, on one rank, of all its micro-batches.

    Args:
        seconds: of an update without any waiting, median.
        forwards: counted.
        backwards: counted.
        copies: vectors as long as all parameters, beside weights and descent gradient.
        gathers: all-gathers among members.
        gathered_bytes: that this rank contributes to them.
        sums: all-reduces among members.
        summed_bytes: of those.
        averages: all-reduces among replicas.
        averaged_bytes: of those.
        hiding: seconds of own work between the start of the exchanges and the first need of their results.
        meetings: at which shares of the update's time the members' results are first needed, ascending.
    """

    seconds: Positive
    forwards: Number
    backwards: Number
    copies: Number
    gathers: Number = 0
    gathered_bytes: Number = 0
    sums: Number = 0
    summed_bytes: Number = 0
    averages: Number = 0
    averaged_bytes: Number = 0
    hiding: Number = 0
    meetings: list[Annotated[float, Ge(0), Le(1)]] = field(default_factory=list)


@dataclass(frozen=True)
class Rates:
    """What one rank needs for one micro-batch; see `Profile`."""

    batch: Count
    accumulation: Count
    members: Count
    threads: Count
    on_gpu: bool
    forward: Positive
    backward: Positive
    merging: Number
    decoding: Number
    overlaps: bool = False


@dataclass(frozen=True)
class Term:
    """A part of an update's time, in seconds, and where the number comes from."""

    name: str
    seconds: float
    origin: str


def terms(
    rates: Rates,
    cost: MethodCost,
    size: Size,
    network: Network,
    straggling: Straggling,
    *,
    workers: int,
    batch: int | None = None,
    known: tuple[str, str, str] = ("the profile", "assumed", "assumed"),
) -> list[Term]:
    """The parts of an update's expected time.

    Args:
        rates: of one rank.
        cost: of the method.
        size: of the world.
        network: α and β.
        straggling: σ.
        workers: processes per rank that decode.
        batch: samples of a micro-batch; by default those of the profile.
        known: where rates, network and straggling come from.
    """
    measured, linked, drawn = known
    n, scale = rates.accumulation, (batch or rates.batch) / rates.batch
    here = min(size.per_node, size.world)
    crowd = 1.0 if rates.on_gpu or size.cores is None else max(1.0, here * rates.threads / size.cores)
    forwards, backwards = cost.forwards * n * rates.forward, cost.backwards * n * rates.backward
    merged = cost.gathers * rates.merging
    rest = cost.seconds - forwards - backwards - merged * rates.members
    shares = [
        ("forwards", scale * forwards),
        ("backwards", scale * backwards),
        ("optimizer, perturbation, rest", rest),
        ("averaging the peers", scale * merged * size.members if size.members > 1 else 0.0),
    ]
    crowded = f"{measured}, {crowd:.1f} × for {here} ranks on {size.cores} cores" if crowd > 1 else measured
    found = [Term(name, crowd * seconds, crowded) for name, seconds in shares]
    work = sum(term.seconds for term in found)

    # Gradients are as long as the parameters, whatever the batch.
    averaging = _reduce(cost.averages, cost.averaged_bytes, size.replicas, rates, *_side(size, network))
    hidden = min(network.overlap * averaging, crowd * rates.backward * scale) if rates.overlaps else 0.0
    counted = f"bytes counted; α, β {linked}"
    found.append(Term("averaging gradients, exposed", averaging - hidden, counted))
    link = _across(size, network)
    exchange = _gather(cost.gathers, scale * cost.gathered_bytes, size.members, *link)
    exchange += _reduce(cost.sums, scale * cost.summed_bytes, size.members, rates, *link)
    found.append(Term("exchange, exposed", max(0.0, exchange - crowd * scale * cost.hiding), counted))
    flags = 2 * (size.world - 1) * network.alpha_flags * 1e-6  # gloo's ring, a few integers; it runs beside the update
    found.append(Term("agreement on flags, exposed", max(0.0, flags - work), f"α {linked}"))

    meetings = cost.meetings if size.members > 1 else []
    alone = straggling_seconds(work, meetings, size, Straggling(straggling.independent, 0.0))
    both = straggling_seconds(work, meetings, size, straggling)
    found.append(Term("straggling, independent", alone, f"σᵢ {straggling.independent:.3g} {drawn}"))
    found.append(Term("straggling, persistent", both - alone, f"σₚ {straggling.persistent:.3g} {drawn}"))

    decode = rates.decoding * (batch or rates.batch) * n
    helpers = min(workers, size.cores / here) if size.cores else workers
    late = max(0.0, decode / helpers - sum(term.seconds for term in found)) if workers else crowd * decode
    found.append(Term("decoding, exposed", late, measured))
    return found


def seconds_of(found: Sequence[Term]) -> float:
    """The whole update."""
    return sum(term.seconds for term in found)


# -- the network -------------------------------------------------------------------------------------------------------


def _side(size: Size, network: Network) -> tuple[float, float]:
    """α and β of the ring of a member's replicas."""
    if size.replicas <= size.per_node and size.per_node % size.replicas == 0:
        return network.alpha_inside * 1e-6, network.beta_inside * 1e9
    rings = 1 if size.replicas % size.per_node == 0 else 2  # of two members that share a node
    return _between(network, rings)


def _across(size: Size, network: Network) -> tuple[float, float]:
    """α and β of the ring of the members of one replica index."""
    if size.world <= size.per_node:
        return network.alpha_inside * 1e-6, network.beta_inside * 1e9
    return _between(network, min(size.replicas, size.per_node))


def _between(network: Network, rings: int) -> tuple[float, float]:
    slowest = min(network.beta_inside, network.beta_between / rings)
    return max(network.alpha_inside, network.alpha_between) * 1e-6, slowest * 1e9


def _gather(calls: float, size: float, n: int, alpha: float, beta: float) -> float:
    return (n - 1) * (calls * alpha + size / beta)


def _reduce(calls: float, size: float, n: int, rates: Rates, alpha: float, beta: float) -> float:
    if n == 1 or not calls:
        return 0.0
    ring = 2 * (n - 1) * (calls * alpha + size / (n * beta))
    tree = 2 * math.ceil(math.log2(n)) * calls * alpha + 2 * size / beta
    return min(ring, tree) if rates.on_gpu else ring


# -- straggling --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def expected_maximum(n: int, sigma: float) -> float:
    """The mean of the largest of n lognormals exp(σ z): ∫ exp(σ z) n φ(z) Φ(z)ⁿ⁻¹ dz."""
    from scipy.special import log_ndtr

    return float((n * DENSITY * np.exp(sigma * GRID + (n - 1) * log_ndtr(GRID))).sum() * (GRID[1] - GRID[0]))


def straggling_seconds(work: float, meetings: Sequence[float], size: Size, sigma: Straggling) -> float:
    """How much longer than its median `work` an update is expected to take, by waiting for the slowest.

    The members of a replica index meet, and their r groups meet at the end. What a group takes is a sum of maxima; the
    largest of the r sums exceeds their mean by the excesses of the stretches: added where the same ranks are slow in
    all of them, in quadrature where chance decides.
    """
    ends = [*meetings, 1.0]
    total, shared, excesses = 0.0, 0.0, list[float]()
    for begin, end in zip([0.0, *meetings], ends, strict=True):
        if (share := end - begin) <= 0:
            continue
        spread = math.hypot(sigma.persistent, sigma.independent / math.sqrt(share))
        of_group = expected_maximum(size.members, spread)
        total += share * of_group
        excess, common = share * (expected_maximum(size.world, spread) - of_group), sigma.persistent / (spread or 1.0)
        shared += common**2 * excess
        excesses.append((1 - common**4) * excess**2)
    return work * (total - 1.0 + math.sqrt(shared**2 + math.fsum(excesses)))


def fit_straggling(compute: Floats, updates_per_line: int) -> Straggling:
    """σᵢ and σₚ from a record: the analysis of variance of log times, ranks × lines.

    What slows all ranks of a line alike is no straggling, and is taken out.

    Args:
        compute: `[lines, ranks]`, seconds of own work per update, without waiting; each a mean over
        updates_per_line: so many updates.

    Raises:
        BadInput: there are too few lines or ranks.
    """
    lines, ranks = compute.shape
    if lines < 3 or ranks < 2 or not (compute > 0).all():
        raise BadInput(f"waits: {lines} lines of {ranks} members cannot be fitted; it needs 3 lines and 2 members")
    logs = np.log(compute)
    logs -= logs.mean(1, keepdims=True)
    per_rank = logs.mean(0)
    chance = float(((logs - per_rank) ** 2).sum() / ((lines - 1) * (ranks - 1)))
    lasting = float((per_rank**2).sum() / (ranks - 1)) - chance / lines
    return Straggling(math.sqrt(chance * updates_per_line), math.sqrt(max(0.0, lasting)))


def every(found: Sequence[Term], other: Sequence[Term], k: int) -> list[Term]:
    """An update by the first in every k-th, by the second otherwise, on average."""
    pairs = zip(found, other, strict=True)
    return [Term(a.name, (a.seconds + (k - 1) * b.seconds) / k, a.origin) for a, b in pairs]
