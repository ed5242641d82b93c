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
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from dist_dash.member.batch import Batch, MicroBatch, Progress, micro_batch
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import Engine, Torch
from dist_dash.member.member import Member
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.models import ResNet
from dist_dash.models.network import seeded_network
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.support.ranks import on_ranks

Times = dict[str, list[float]]
SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def network(seed: int) -> nn.Sequential:
    return seeded_network(seed, ResNet(18), (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3, True)


def batch(size: int, step: int) -> Batch:
    draw = torch.Generator().manual_seed(step)
    x = torch.randint(256, (size, 3, 32, 32), generator=draw, dtype=torch.uint8)
    target = torch.eye(10)[torch.randint(10, (size,), generator=draw)]
    return Batch(
        [micro_batch(x, target, torch.arange(size), None, 0.0, torch.device("cpu"), torch.float32)],
        Progress(step, 1000, 100),
    )


def member(engine: Engine, exchange: Exchange) -> Member:
    rank = exchange.layout.member
    engine.attach(network(rank), lambda p: torch.optim.SGD(p, **SETTINGS), exchange)
    return Member(engine, rank, 1)


def hand_written(size: int) -> Callable[[int], None]:
    """The loop that everybody writes: the yardstick of the engines."""
    net = network(0)
    optimizer = torch.optim.SGD(net.parameters(), **SETTINGS)
    loss_of = nn.CrossEntropyLoss()

    def step(number: int) -> None:
        micro: MicroBatch = next(iter(batch(size, number)))
        loss_of(net(micro.x), micro.target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def stepper(method: Method, engine: Engine, exchange: Exchange, size: int) -> Callable[[int], None]:
    owner = member(engine, exchange)
    return lambda number: void(method.update(owner, batch(size, number), exchange))


def void(_: Any) -> None:
    return None


def interleaved(steppers: dict[str, Callable[[int], None]], rounds: int, exchange: Exchange) -> Times:
    """Seconds per step, variant after variant in every round; the first round warms up and does not count."""
    times: Times = {name: [] for name in steppers}
    for number in range(rounds + 1):
        for name, step in steppers.items():
            exchange.collect(0)  # all ranks start together: what remains is the variant's own cost
            started = time.perf_counter()
            step(number)
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


def one_rank(rounds: int, size: int) -> tuple[Times, list[float]]:
    """SGD by hand, by both engines, and SAM; and the share of a SAM step that perturbing and restoring takes."""
    torch.set_num_threads(1)
    with Exchange(layout_from_environment(1), deadline=300) as exchange:
        times = interleaved(
            {
                "hand-written SGD": hand_written(size),
                "SGD torch": stepper(SGD(), Torch(), exchange, size),
                "SGD DeepSpeed": stepper(SGD(), DeepSpeed(), exchange, size),
                "SAM torch": stepper(SAM(), Torch(), exchange, size),
            },
            rounds,
            exchange,
        )
        return times, perturbing(exchange, rounds, size)


def perturbing(exchange: Exchange, rounds: int, size: int) -> list[float]:
    """Per step, the share of a SAM step outside its two forwards, two backwards and the optimizer's step."""
    engine, inside = Torch(), [0.0]
    owner, method, shares = member(engine, exchange), SAM(), []
    with (
        timed(Torch, "forward", inside),
        timed(Member, "gradient", inside),
        timed(Torch, "backward", inside),
        timed(Torch, "step", inside),
    ):
        for number in range(rounds + 1):
            one, inside[0], started = batch(size, number), 0.0, time.perf_counter()
            method.update(owner, one, exchange)
            total = time.perf_counter() - started
            shares.append((total - inside[0]) / total)
    return shares[1:]


def two_ranks(rounds: int, size: int) -> tuple[Times, list[float], list[float]]:
    """SAM and DASH side by side; the shares of a DASH step spent in transfer that was not hidden, and in waiting."""
    torch.set_num_threads(1)
    with Exchange(layout_from_environment(2), deadline=300) as exchange:
        variants = {"SAM": SAM(), "DASH joint": DASH(ascent="joint"), "DASH separate": DASH()}
        times = interleaved({n: stepper(m, Torch(), exchange, size) for n, m in variants.items()}, rounds, exchange)
        exposed, waited, step = [], [], stepper(DASH(), Torch(), exchange, size)
        for number in range(rounds + 1):
            exchange.collect(0)
            exchange.clock.read()
            step(number)
            seconds = exchange.clock.read()
            exposed.append(seconds.get("transfer", 0.0) / seconds["total"])
            waited.append(seconds.get("wait", 0.0) / seconds["total"])
        return times, exposed[1:], waited[1:]


def peak_memory(method: Method, size: int) -> float:
    """Peak resident memory of three steps, in bytes, beyond what the process had before its network."""
    import resource

    torch.set_num_threads(1)
    with Exchange(layout_from_environment(1), deadline=300) as exchange:
        step = stepper(method, Torch(), exchange, size)
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
    rows: list[tuple[str, list[float], float]] = []

    times, shares = on_ranks(1, one_rank, options.rounds, options.batch, deadline=1200)[0]
    rows.append(("SAM / SGD", ratio(times, "SAM torch", "SGD torch"), 2.05))
    rows.append(("DeepSpeed engine / hand-written loop", ratio(times, "SGD DeepSpeed", "hand-written SGD"), 1.05))
    rows.append(("plain engine / hand-written loop", ratio(times, "SGD torch", "hand-written SGD"), 1.05))
    rows.append(("perturb + restore, share of a SAM step", shares, 0.03))

    times, exposed, waited = on_ranks(2, two_ranks, options.rounds, options.batch, deadline=1200)[0]
    rows.append(("DASH joint / SAM (2 ranks)", ratio(times, "DASH joint", "SAM"), 1.05))
    rows.append(("DASH separate / SAM (2 ranks)", ratio(times, "DASH separate", "SAM"), 1.40))
    rows.append(("exposed exchange, share of a DASH step", exposed, 0.02))
    rows.append(
        ("waiting for the slower rank, share of a DASH step", waited, math.inf)
    )  # skew: the machine's, not ours

    parameters = sum(p.numel() * p.element_size() for p in network(0).parameters())
    sgd = [on_ranks(1, peak_memory, SGD(), options.batch)[0] for _ in range(3)]
    sam = [on_ranks(1, peak_memory, SAM(), options.batch)[0] for _ in range(3)]
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
