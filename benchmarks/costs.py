"""What a step costs, as ratios within one run: `python benchmarks/costs.py [--rounds 9] [--batch 32] [--device cuda]`.

ResNet-18, CIFAR size, one core or GPU per rank: the methods against each other, against loops written by hand, and
against two public implementations of SAM. The variants of a comparison take turns, step by step, so that a slower
minute of the machine hits all of them. Beside the clock stands the processor's time, which other people's work on the
same machine moves less; `--by processor` lets the verdicts rest on it. About 6 minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.public_sam import packaged_sam, wrapped_sam
from dist_dash.member.batch import Batch, MicroBatch, Progress, micro_batch
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import LOW, Engine, Precision, Torch
from dist_dash.member.member import Member
from dist_dash.member.optimizer import fused_by_default
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.models import Architecture, ResNet
from dist_dash.models.network import seeded_network
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.training.speed import compile_network
from tests.support.ranks import on_ranks

Times = dict[str, list[float]]


class Took(NamedTuple):
    """Seconds per step of each variant: by the clock, and of this process's processor time."""

    clock: Times
    processor: Times


SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


@dataclass(frozen=True)
class Problem:
    """What the variants of a comparison train: a network, made-up images, a device, a precision, what makes it fast.

    The optimizer is the one that recipes get: fused on a GPU.
    """

    model: Architecture
    side: int = 32
    classes: int = 10
    size: int = 32
    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False
    compiled: bool = False

    def network(self, seed: int) -> nn.Sequential:
        shape = (3, self.side, self.side)
        network = seeded_network(seed, self.model, shape, self.classes, (0.5,) * 3, (0.25,) * 3, True)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network  # type: ignore[call-overload]

    def optimizer(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        return fused_by_default(partial(torch.optim.SGD, **SETTINGS), torch.device(self.device))(parameters)

    @cache  # noqa: B019  # the problems of a benchmark live as long as it does
    def _samples(self, number: int) -> MicroBatch:
        draw = torch.Generator().manual_seed(number)
        x = torch.randint(256, (self.size, 3, self.side, self.side), generator=draw, dtype=torch.uint8)
        x = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
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
    engine.attach(problem.network(rank), problem.optimizer, exchange)
    if problem.compiled:
        compile_network(engine, problem.batch(0).micro_batches[0].x)
    return Member(engine, rank, 1)


def hand_written(problem: Problem) -> Callable[[int], None]:
    """The loop that everybody writes: the yardstick of the engines."""
    net = problem.network(0).to(problem.device)
    optimizer = problem.optimizer(net.parameters())

    def step(number: int) -> None:
        problem.loss(net, number).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hand_written_sam(problem: Problem, rho: float = 0.05) -> Callable[[int], None]:
    """SAM as it is usually written, with fused arithmetic over all parameters: the yardstick of the methods."""
    net = problem.network(0).to(problem.device)
    parameters = list(net.parameters())
    optimizer = problem.optimizer(parameters)

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


def interleaved(steppers: dict[str, Callable[[int], None]], rounds: int, exchange: Exchange) -> Took:
    """Seconds per step, variant after variant in every round; the first round warms up and does not count."""
    took = Took({name: [] for name in steppers}, {name: [] for name in steppers})
    settle = torch.cuda.synchronize if exchange.layout.device.type == "cuda" else lambda: None
    for number in range(rounds + 1):
        for name, step in steppers.items():
            settle()
            exchange.collect(0)  # all ranks start together: what remains is the variant's own cost
            started, worked = time.perf_counter(), time.process_time()
            step(number)
            settle()
            if number:
                took.clock[name].append(time.perf_counter() - started)
                took.processor[name].append(time.process_time() - worked)
    return took


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


def one_rank(rounds: int, problem: Problem) -> tuple[Took, list[float]]:
    """SGD and SAM by hand, by others, by our engines; the share of a SAM step that perturbing and restoring takes."""
    torch.set_num_threads(1)
    with Exchange(layout_from_environment(1), deadline=300) as exchange:
        variants = {
            "hand-written SGD": hand_written(problem),
            "SGD torch": stepper(SGD(), Torch(), exchange, problem),
            "SGD DeepSpeed": stepper(SGD(), DeepSpeed(), exchange, problem),
            "SAM torch": stepper(SAM(), Torch(), exchange, problem),
            "hand-written SAM": hand_written_sam(problem),
            "davda54's SAM": wrapped_sam(problem.network(0).to(problem.device), problem.loss, SETTINGS),
        }
        if (packaged := packaged_sam(problem.network(0).to(problem.device), problem.loss, SETTINGS)) is not None:
            variants["pytorch_optimizer's SAM"] = packaged
        return interleaved(variants, rounds, exchange), perturbing(exchange, rounds, problem)


def perturbing(exchange: Exchange, rounds: int, problem: Problem) -> list[float]:
    """Per step, the share of a SAM step outside its two forwards, two backwards and the optimizer's step."""
    engine, inside = Torch(), [0.0]
    owner, method, shares = member(engine, exchange, problem), SAM(), []
    with (
        timed(Torch, "forward", inside),
        timed(Member, "ascent_gradient", inside),
        timed(Torch, "backward", inside),
        timed(Torch, "step", inside),
    ):
        for number in range(rounds + 1):
            one, inside[0], started = problem.batch(number), 0.0, time.perf_counter()
            method.update(owner, one, exchange)
            total = time.perf_counter() - started
            shares.append((total - inside[0]) / total)
    return shares[1:]


def two_ranks(rounds: int, problem: Problem) -> tuple[Took, list[float], list[float]]:
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
    gpu = torch.cuda.is_available()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu else "cpu")
    parser.add_argument("--by", choices=("clock", "processor"), default="clock", help="what the verdicts rest on")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    problem = Problem(ResNet(18), size=options.batch, device=options.device, channels_last=options.device == "cuda")
    rows: list[Row] = []

    took, shares = on_ranks(1, one_rank, options.rounds, problem, deadline=2400)[0]
    for what, above, below, limit in (
        ("SAM / SGD", "SAM torch", "SGD torch", 2.03),
        ("DeepSpeed engine / hand-written loop", "SGD DeepSpeed", "hand-written SGD", 1.03),
        ("plain engine / hand-written loop", "SGD torch", "hand-written SGD", 1.03),
        ("SAM / hand-written SAM", "SAM torch", "hand-written SAM", 1.03),
        ("SAM / davda54's SAM", "SAM torch", "davda54's SAM", 1.03),
        ("SAM / pytorch_optimizer's SAM", "SAM torch", "pytorch_optimizer's SAM", 1.03),
    ):
        rows.append(compared(what, took, above, below, limit))
    rows.append(Row("perturb + restore, share of a SAM step", shares, None, 0.03))

    took, exposed, waited = on_ranks(2, two_ranks, options.rounds, problem, deadline=2400)[0]
    rows.append(compared("DASH joint / SAM (2 ranks)", took, "DASH joint", "SAM", 1.02))
    rows.append(compared("DASH separate / SAM (2 ranks)", took, "DASH separate", "SAM", 1.36))
    rows.append(Row("exposed exchange, share of a DASH step", exposed, None, 0.02))
    # Skew is the machine's, not ours.
    rows.append(Row("waiting for the slower rank, share of a DASH step", waited, None, math.inf))

    if options.device == "cpu":  # on a GPU: benchmarks/gpu.sh
        parameters = sum(p.numel() * p.element_size() for p in problem.network(0).parameters())
        sgd = [on_ranks(1, peak_memory, SGD(), problem)[0] for _ in range(3)]
        sam = [on_ranks(1, peak_memory, SAM(), problem)[0] for _ in range(3)]
        extra = [(b - a) / parameters for a, b in zip(sgd, sam, strict=True)]
        rows.append(Row("extra memory of SAM, in copies of the parameters", extra, None, 2.0))
    rows.append(Row("dist-dash --help, seconds", [help_seconds()], None, 0.5))
    show(rows, options)
    return int(any(row.verdict(options.by) == "MISSED" for row in rows))


class Row(NamedTuple):
    """A line of the table: values by the clock, and where they are of steps, of the processor's time."""

    what: str
    clock: list[float]
    processor: list[float] | None
    most: float

    def verdict(self, by: str) -> str:
        if not self.clock:
            return "skipped: pip install -e '.[benchmark]'"
        values = self.processor if by == "processor" and self.processor is not None else self.clock
        return "ok" if statistics.median(values) <= self.most else "MISSED"


def compared(what: str, took: Took, above: str, below: str, most: float) -> Row:
    if below not in took.clock:
        return Row(what, [], None, most)
    return Row(what, ratio(took.clock, above, below), ratio(took.processor, above, below), most)


def show(rows: list[Row], options: argparse.Namespace) -> None:
    where = "one core a rank" if options.device == "cpu" else torch.cuda.get_device_name(0)
    title = f"ResNet-18, 32×32, batch {options.batch}, {where}, {options.rounds} rounds; verdicts by the {options.by}"
    table = Table(title=title)
    for column in ("what", "clock (min-max)", "processor (min-max)", "at most", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        figures = [
            f"{statistics.median(found):.3f} ({min(found):.3f}-{max(found):.3f})" if found else ""
            for found in (row.clock, row.processor)
        ]
        table.add_row(row.what, *figures, f"{row.most:g}", row.verdict(options.by))
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())
