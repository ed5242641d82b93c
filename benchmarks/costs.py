"""What a step costs, as ratios within one run: `python benchmarks/costs.py [--rounds 9] [--batch 32]`.

ResNet-18, CIFAR size, one core per rank. The variants of a comparison take turns, step by step, so that a slower minute
of the machine hits all of them. Needs about 6 minutes on two cores. The table with the verdicts comes last.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from dist_dash.member.batch import Batch, MicroBatch, Progress, micro_batch
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import LOW, Engine, Precision, Torch
from dist_dash.member.member import Member
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.models import Architecture, ResNet
from dist_dash.models.network import seeded_network
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.support.ranks import on_ranks

Times = dict[str, list[float]]
SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


@dataclass(frozen=True)
class Problem:
    """What the variants of a comparison train: a network, made-up images, a device and a precision."""

    model: Architecture
    side: int = 32
    classes: int = 10
    size: int = 32
    device: str = "cpu"
    precision: Precision = "fp32"

    def network(self, seed: int) -> nn.Sequential:
        shape = (3, self.side, self.side)
        return seeded_network(seed, self.model, shape, self.classes, (0.5,) * 3, (0.25,) * 3, True)

    @cache  # noqa: B019  # the problems of a benchmark live as long as it does
    def _samples(self, number: int) -> MicroBatch:
        draw = torch.Generator().manual_seed(number)
        x = torch.randint(256, (self.size, 3, self.side, self.side), generator=draw, dtype=torch.uint8)
        target = torch.eye(self.classes)[torch.randint(self.classes, (self.size,), generator=draw)]
        device = torch.device(self.device)
        return micro_batch(x, target, torch.arange(self.size), None, 0.0, device, torch.float32)

    def batch(self, step: int) -> Batch:
        """Two batches take turns, on the device already."""
        return Batch([self._samples(step % 2)], Progress(step, 1000, 100))

    def loss(self, net: nn.Module, step: int) -> torch.Tensor:
        """The loss as a loop written by hand computes it, under the same autocast as the engines."""
        samples = self._samples(step % 2)
        with torch.autocast(self.device, LOW.get(self.precision, torch.bfloat16), enabled=self.precision in LOW):
            logits = net(samples.x)
        return nn.functional.cross_entropy(logits.float(), samples.target)


def member(engine: Engine, exchange: Exchange, problem: Problem) -> Member:
    rank = exchange.layout.member
    engine.attach(problem.network(rank), lambda p: torch.optim.SGD(p, **SETTINGS), exchange)
    return Member(engine, rank, 1)


def hand_written(problem: Problem) -> Callable[[int], None]:
    """The loop that everybody writes: the yardstick of the engines."""
    net = problem.network(0).to(problem.device)
    optimizer = torch.optim.SGD(net.parameters(), **SETTINGS)

    def step(number: int) -> None:
        problem.loss(net, number).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hand_written_sam(problem: Problem, rho: float = 0.05) -> Callable[[int], None]:
    """SAM as it is usually written, with fused arithmetic over all parameters: the yardstick of the methods."""
    net = problem.network(0).to(problem.device)
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, **SETTINGS)

    def step(number: int) -> None:
        gradients = torch.autograd.grad(problem.loss(net, number), parameters)
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        epsilon = torch._foreach_mul(gradients, rho / (norm + 1e-12))
        del gradients
        with torch.no_grad():
            before = [p.clone() for p in parameters]
            torch._foreach_add_(parameters, epsilon)
        del epsilon
        problem.loss(net, number).backward()
        with torch.no_grad():
            torch._foreach_copy_(parameters, before)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def stepper(method: Method, engine: Engine, exchange: Exchange, problem: Problem) -> Callable[[int], None]:
    owner = member(engine, exchange, problem)
    return lambda number: void(method.update(owner, problem.batch(number), exchange))


def void(_: Any) -> None:
    return None


def interleaved(steppers: dict[str, Callable[[int], None]], rounds: int, exchange: Exchange) -> Times:
    """Seconds per step, variant after variant in every round; the first round warms up and does not count."""
    times: Times = {name: [] for name in steppers}
    settle = torch.cuda.synchronize if exchange.layout.device.type == "cuda" else lambda: None
    for number in range(rounds + 1):
        for name, step in steppers.items():
            settle()
            exchange.collect(0)  # all ranks start together: what remains is the variant's own cost
            started = time.perf_counter()
            step(number)
            settle()
            if number:
                times[name].append(time.perf_counter() - started)
    return times


@contextmanager
def timed(owner: type, name: str, into: list[float]) -> Iterator[None]:
    """Add up the time spent in a method of a class."""
    original = getattr(owner, name)

    def wrapper(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            into[0] += time.perf_counter() - started

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, original)


def one_rank(rounds: int, problem: Problem) -> tuple[Times, list[float]]:
    """SGD by hand, by both engines, and SAM; and the share of a SAM step that perturbing and restoring takes."""
    torch.set_num_threads(1)
    with Exchange(layout_from_environment(1), deadline=300) as exchange:
        times = interleaved(
            {
                "hand-written SGD": hand_written(problem),
                "SGD torch": stepper(SGD(), Torch(), exchange, problem),
                "SGD DeepSpeed": stepper(SGD(), DeepSpeed(), exchange, problem),
                "SAM torch": stepper(SAM(), Torch(), exchange, problem),
            },
            rounds,
            exchange,
        )
        return times, perturbing(exchange, rounds, problem)


def perturbing(exchange: Exchange, rounds: int, problem: Problem) -> list[float]:
    """Per step, the share of a SAM step outside its two forwards, two backwards and the optimizer's step."""
    engine, inside = Torch(), [0.0]
    owner, method, shares = member(engine, exchange, problem), SAM(), []
    with (
        timed(Torch, "forward", inside),
        timed(Member, "gradient", inside),
        timed(Torch, "backward", inside),
        timed(Torch, "step", inside),
    ):
        for number in range(rounds + 1):
            one, inside[0], started = problem.batch(number), 0.0, time.perf_counter()
            method.update(owner, one, exchange)
            total = time.perf_counter() - started
            shares.append((total - inside[0]) / total)
    return shares[1:]


def two_ranks(rounds: int, problem: Problem) -> tuple[Times, list[float], list[float]]:
    """SAM and DASH side by side; the shares of a DASH step spent in transfer that was not hidden, and in waiting."""
    torch.set_num_threads(1)
    with Exchange(layout_from_environment(2), deadline=300) as exchange:
        variants = {"SAM": SAM(), "DASH joint": DASH(ascent="joint"), "DASH separate": DASH()}
        times = interleaved({n: stepper(m, Torch(), exchange, problem) for n, m in variants.items()}, rounds, exchange)
        exposed, waited, step = [], [], stepper(DASH(), Torch(), exchange, problem)
        for number in range(rounds + 1):
            exchange.collect(0)
            exchange.clock.read()
            step(number)
            seconds = exchange.clock.read()
            exposed.append(seconds.get("transfer", 0.0) / seconds["total"])
            waited.append(seconds.get("wait", 0.0) / seconds["total"])
        return times, exposed[1:], waited[1:]


def peak_memory(method: Method, problem: Problem) -> float:
    """Peak resident memory of three steps, in bytes, beyond what the process had before its network."""
    import resource

    torch.set_num_threads(1)
    with Exchange(layout_from_environment(1), deadline=300) as exchange:
        step = stepper(method, Torch(), exchange, problem)
        for number in range(3):
            step(number)
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def help_seconds() -> float:
    """Median wall time of `dist-dash --help`."""
    times = []
    for _ in range(9):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dist_dash", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def ratio(times: Times, above: str, below: str) -> list[float]:
    return [a / b for a, b in zip(times[above], times[below], strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    problem = Problem(ResNet(18), size=options.batch)
    rows: list[tuple[str, list[float], float]] = []

    times, shares = on_ranks(1, one_rank, options.rounds, problem, deadline=1200)[0]
    rows.append(("SAM / SGD", ratio(times, "SAM torch", "SGD torch"), 2.05))
    rows.append(("DeepSpeed engine / hand-written loop", ratio(times, "SGD DeepSpeed", "hand-written SGD"), 1.05))
    rows.append(("plain engine / hand-written loop", ratio(times, "SGD torch", "hand-written SGD"), 1.05))
    rows.append(("perturb + restore, share of a SAM step", shares, 0.03))

    times, exposed, waited = on_ranks(2, two_ranks, options.rounds, problem, deadline=1200)[0]
    rows.append(("DASH joint / SAM (2 ranks)", ratio(times, "DASH joint", "SAM"), 1.05))
    rows.append(("DASH separate / SAM (2 ranks)", ratio(times, "DASH separate", "SAM"), 1.40))
    rows.append(("exposed exchange, share of a DASH step", exposed, 0.02))
    rows.append(
        ("waiting for the slower rank, share of a DASH step", waited, math.inf)
    )  # skew: the machine's, not ours

    parameters = sum(p.numel() * p.element_size() for p in problem.network(0).parameters())
    sgd = [on_ranks(1, peak_memory, SGD(), problem)[0] for _ in range(3)]
    sam = [on_ranks(1, peak_memory, SAM(), problem)[0] for _ in range(3)]
    extra = [(b - a) / parameters for a, b in zip(sgd, sam, strict=True)]
    rows.append(("extra memory of SAM, in copies of the parameters", extra, 2.0))
    rows.append(("dist-dash --help, seconds", [help_seconds()], 0.5))

    table = Table(title=f"ResNet-18, 32×32, batch {options.batch}, one core a rank, {options.rounds} rounds")
    for column in ("what", "median", "min", "max", "at most", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, values, limit in rows:
        middle = statistics.median(values)
        figures = [f"{v:.4f}" for v in (middle, min(values), max(values))]
        table.add_row(name, *figures, f"{limit:g}", "ok" if middle <= limit else "MISSED")
    Console(width=110).print(table)
    return 0 if all(statistics.median(v) <= limit for _, v, limit in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
