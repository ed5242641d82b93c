"""How much of the replicas' averaging a step hides: `python benchmarks/replicas.py [--rounds 9] [--rate 60]`.

The ranks talk over a loopback of their own (a network namespace) that is slowed down by netem, or by a token bucket
where the kernel has no netem. Three variants take turns, update by update: gradients not averaged at all; averaged when
the backward is over; averaged while it runs. What the last two take beyond the first is exposed.

`pauses` is a network whose layers wait in place of computing, as a host waits for its accelerator: more ranks than
cores disturb each other little. Needs Linux, `tc`, and root or user namespaces; about 4 minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.costs import SETTINGS, Problem, interleaved, void
from dist_dash.member.engine import Torch
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.models import Architecture, ResNet
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.support.ranks import on_ranks

AT_MOST = 0.3
INSIDE = "DIST_DASH_SLOW_LOOPBACK"


class Pause(torch.autograd.Function):
    """Takes its time forwards, and twice that backwards."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, seconds: float) -> Tensor:
        ctx.seconds = 2 * seconds
        time.sleep(seconds)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        time.sleep(ctx.seconds)
        return gradients[0], None


class PausingLayer(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(Pause.apply(x, 0.02)))


class Pauses(Architecture):
    """Twelve layers of 512 × 512, 12.7 MB."""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        layers = [PausingLayer(512, 512) for _ in range(12)]
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 512), *layers, nn.Linear(512, classes))


class Alone(Torch):
    """Does not average the descent gradient."""

    averages = False


class Afterwards(Torch):
    """Averages it when the last backward is over."""

    def averaging(self, loss: Tensor, last: bool) -> AbstractContextManager[None]:
        return super().averaging(loss, last=False)


class MemberAfterwards(Member):
    """Averages ascent gradients when they are complete."""

    def ascent_gradient(
        self, loss: Tensor, retain_graph: bool = False, *, onto: ParameterVector | None = None, mean: bool = False
    ) -> ParameterVector:
        gradient = super().ascent_gradient(loss, retain_graph, onto=onto)
        return self.mean_over_replicas(gradient) if mean else gradient


def stepper(
    method: Method, engine: Torch, of: type[Member], exchange: Exchange, problem: Problem
) -> Callable[[int], None]:
    rank = exchange.layout.member
    engine.attach(problem.network(rank), lambda p: torch.optim.SGD(p, **SETTINGS), exchange)
    member = of(engine, rank, 1)
    return lambda number: void(method.update(member, problem.batch(number), exchange))


def measured(name: str, members: int, rounds: int, problem: Problem) -> dict[str, list[float]]:
    """Seconds per update of each variant."""
    torch.set_num_threads(1)
    kind: type[SAM | DASH] = DASH if name == "DASH" else SAM

    def method(sync: Any) -> Method:
        return SGD() if name == "SGD" else kind(ascent_sync=sync)

    with Exchange(layout_from_environment(members), deadline=300) as exchange:
        variants = {
            "alone": stepper(method("local"), Alone(), Member, exchange, problem),
            "afterwards": stepper(method("mean"), Afterwards(), MemberAfterwards, exchange, problem),
            "meanwhile": stepper(method("mean"), Torch(), Member, exchange, problem),
        }
        return interleaved(variants, rounds, exchange)


def slow_down(megabytes: float) -> str:
    """Let the loopback of this namespace carry so many megabytes a second; says how."""
    rate = f"{round(8 * megabytes)}mbit"
    for how in (f"netem rate {rate} delay 0.2ms limit 100000", f"tbf rate {rate} burst 128kb latency 10s"):
        command = ["tc", "qdisc", "replace", "dev", "lo", "root", *how.split()]
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return how
    raise SystemExit("this kernel has neither netem nor tbf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rate", type=float, default=60.0, help="MB/s per rank")
    parser.add_argument("--only", choices=("pauses", "resnet"), help="one of the two networks")
    options = parser.parse_args()
    if INSIDE not in os.environ:
        start = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        own = 'ip link set lo up && exec "$@"'
        os.environ |= {INSIDE: "1", "OMP_NUM_THREADS": "1"}
        os.execvp("unshare", [*start, "sh", "-c", own, "sh", sys.executable, *sys.argv])
    pauses, resnet = Problem(Pauses(), side=4, size=8), Problem(ResNet(18), size=32)
    cases = [("pauses", pauses, name, 1, r) for r in (2, 4) for name in ("SGD", "SAM")]
    cases += [("pauses", pauses, "DASH", 2, 2), ("resnet", resnet, "SGD", 1, 2), ("resnet", resnet, "SAM", 1, 2)]
    columns = ("network", "method", "members × replicas", "alone", "afterwards", "meanwhile", "exposed", "")
    table = Table(*columns, title="milliseconds an update, medians; exposed: share of what is exposed afterwards")
    missed = 0
    for network, problem, name, members, replicas in cases:
        if options.only not in (None, network):
            continue
        how = slow_down(options.rate * members * replicas)
        found = on_ranks(members * replicas, measured, name, members, options.rounds, problem, deadline=1200)[0]
        alone, afterwards, meanwhile = (1000 * statistics.median(found[variant]) for variant in found)
        share = (meanwhile - alone) / (afterwards - alone)
        missed += share > AT_MOST
        times = [f"{t:.0f}" for t in (alone, afterwards, meanwhile)]
        verdict = "ok" if share <= AT_MOST else "MISSED"
        table.add_row(network, name, f"{members} × {replicas}", *times, f"{100 * share:.0f} %", verdict)
        Console().print(f"{network} {name} {members} × {replicas}: {how}: {' / '.join(times)} ms, {100 * share:.0f} %")
    Console(width=110).print(table)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
