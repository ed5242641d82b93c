"""What the trainer adds to a step: `python benchmarks/overhead.py [--rounds 100]`.

A tiny MLP, one core per rank: the arithmetic is next to nothing, so that what remains is the fixed cost of a step (the
agreement between ranks, the record, the exchange, the perturbation) beyond a loop that somebody wrote by hand for the
same rule. Both take turns, ten steps at a time; medians. Half a minute on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from dist_dash.data.host_batch import HostBatch
from dist_dash.member.vector import ParameterVector
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import StopRequest
from dist_dash.training.loop import ask, update
from dist_dash.training.run import Run
from tests.support.ranks import on_ranks

RECIPE = ["--data=Digits", "--model=MLP", "--engine=Torch", "--engine.precision=fp32", "--optimizer=SGD"]
RECIPE += ["--optimizer.lr=0.01", "--optimizer.momentum=0.9", "--model.hidden=32", "--loader.batch_size=32"]
RECIPE += ["--record.progress=false", "--max_steps=1000000", "--record.every=10"]
STEPS = 10  # in a row of each: what overlaps with the step before or after must have one
AT_MOST = {"SGD": 0.6, "DASH": 1.3}  # milliseconds beyond the hand-written loop


def by_hand(method: str, net: nn.Module, exchange: Exchange) -> Callable[[HostBatch], None]:
    """The loop that everybody writes."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    cross_entropy = nn.CrossEntropyLoss()

    def sgd(host: HostBatch) -> None:
        cross_entropy(net(host.x[0]), host.target[0]).backward()
        optimizer.step()
        optimizer.zero_grad()

    def dash(host: HostBatch) -> None:
        x, target = host.x[0], host.target[0]
        logits = net(x)
        everyone = [torch.empty_like(logits) for _ in range(exchange.members)]
        work = dist.all_gather(everyone, logits.detach(), async_op=True)
        g_loss = torch.autograd.grad(cross_entropy(logits, target), parameters, retain_graph=True)
        work.wait()
        others = [z for rank, z in enumerate(everyone) if rank != exchange.layout.rank]
        g_div = torch.autograd.grad(_diversity(logits, torch.stack(others).mean(0), target > 0), parameters)
        saved = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, a, b in zip(parameters, _unit(g_loss), _unit(g_div), strict=True):
                p += 0.05 * a + 0.05 * b
        cross_entropy(net(x), target).backward()
        with torch.no_grad():
            for p, before in zip(parameters, saved, strict=True):
                p.copy_(before)
        optimizer.step()
        optimizer.zero_grad()

    return sgd if method == "SGD" else dash


def _unit(gradient: tuple[Tensor, ...]) -> list[Tensor]:
    norm = torch.sqrt(sum((g.square().sum() for g in gradient), torch.zeros(())))
    return [g / norm for g in gradient]


def _diversity(logits: Tensor, peers: Tensor, excluded: Tensor) -> Tensor:
    log_p, log_q = (torch.log_softmax(z.masked_fill(excluded, -1e9), -1) for z in (logits, peers))
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def rank(method: str, folder: str, members: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per step on this rank, a mean for each round: trainer and by hand, wall and processor time."""
    torch.set_num_threads(1)
    command = parse_command([*RECIPE, f"--method={method}", f"--members={members}", f"--run={folder}"])
    times: dict[str, list[float]] = {f"{who} {clock}": [] for who in ("trainer", "hand") for clock in ("wall", "cpu")}
    with Exchange(layout_from_environment(members), deadline=300) as exchange:
        Path(folder).mkdir(exist_ok=True)
        run = Run(command, OwnedFolder(command.run), exchange, StopRequest())
        hand = by_hand(method, run.member.engine.module, exchange)
        with contextlib.closing(run.loader(0, 0)) as batches:
            hosts = [next(batches) for _ in range(run.steps_per_epoch)]
        endless = itertools.cycle(hosts)
        ask(run, endless, 0)

        def trainer(_: HostBatch) -> None:
            host = run.agreement.next_batch()
            ask(run, endless, run.step + 1)
            update(run, host)

        for number in range(rounds):
            for who, step in (("trainer", trainer), ("hand", hand)):
                exchange.collect(0)
                started, worked = time.perf_counter(), time.thread_time()
                for taken in range(STEPS):
                    step(hosts[(number * STEPS + taken) % len(hosts)])
                times[f"{who} wall"].append(1000 / STEPS * (time.perf_counter() - started))
                times[f"{who} cpu"].append(1000 / STEPS * (time.thread_time() - worked))
        run.recorder.close()
    return times


def norms(rounds: int = 15) -> tuple[float, float]:
    """Milliseconds of processor time for the norm of as many elements as a ResNet-18 has: ours, and without care."""
    gradient = [torch.randn(2_300_000) for _ in range(5)]
    ways = [lambda: ParameterVector(gradient).norm(), lambda: torch._foreach_norm(gradient)]
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, spent in zip(ways, times, strict=True):
            started = time.thread_time()
            way()
            spent.append(1000 * (time.thread_time() - started))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    table = Table(
        "step", "by hand", "trainer", "beyond (wall)", "beyond (processor)", "at most", title="milliseconds, medians"
    )
    missed = 0
    for method, members in (("SGD", 1), ("DASH", 2)):
        with tempfile.TemporaryDirectory() as folder:
            found = on_ranks(members, rank, method, f"{folder}/run", members, options.rounds, deadline=600)[0]
        half = {name: values[len(values) // 5 :] for name, values in found.items()}  # the first fifth warms up
        beyond = {
            clock: statistics.median(
                a - b for a, b in zip(half[f"trainer {clock}"], half[f"hand {clock}"], strict=True)
            )
            for clock in ("wall", "cpu")
        }
        shown = [statistics.median(half[f"{who} wall"]) for who in ("hand", "trainer")]
        missed += beyond["wall"] > AT_MOST[method]
        numbers = [*shown, beyond["wall"], beyond["cpu"], AT_MOST[method]]
        table.add_row(method, *(f"{number:.2f}" for number in numbers))
    Console().print(table)
    torch.set_num_threads(1)
    ours, plain = norms()
    print(f"norm of 11.5 million elements: {ours:.1f} ms, {ours / plain:.2f} of one sum in fp32 ({plain:.1f} ms)")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
