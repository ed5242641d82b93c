"""How often a step makes the host wait for the device: never, but for a poll for the update before it."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from unittest.mock import patch

from benchmarks.costs import Problem, stepper
from benchmarks.gpu.part import Part, run
from benchmarks.gpu.steps import METHODS
from benchmarks.gpu.two_members import TwoMembers
from dist_dash.commands.cli import main
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import Torch
from dist_dash.methods import SGD
from dist_dash.models import ResNet, SmallCNN
from tests.gpu.waits import counted
from tests.support.ranks import on_ranks

Places = list[list[str]]


def of_updates(problem: Problem, updates: int) -> dict[str, Places]:
    """Where each method's updates waited, once it was warm."""
    found = {}
    with TwoMembers() as exchange:
        variants = {name: (method(), Torch(problem.precision)) for name, method in METHODS.items()}
        variants["SGD DeepSpeed"] = SGD(), DeepSpeed(problem.precision)  # type: ignore[assignment]
        for name, (method, engine) in variants.items():
            step, found[name] = stepper(method, engine, exchange, problem), list[list[str]]()
            for number in range(updates + 4):  # DeepSpeed's timers begin after two
                with counted() as waits:
                    step(number)
                found[name].append(waits.places)
    return {name: places[4:] for name, places in found.items()}


def of_loop(arguments: list[str], steps: int) -> Places:
    """Where a training loop waited from one update to the next, between the lines of its record."""
    marks: list[int] = []
    update = SGD.update

    def marked(self, *parts):
        marks.append(len(waits.places))
        return update(self, *parts)

    with tempfile.TemporaryDirectory() as folder, counted() as waits, patch.object(SGD, "update", marked):
        status = main([*arguments, f"--run={Path(folder) / 'run'}", f"--max_steps={steps + 2}"])
        assert status == 0, status
    return [waits.places[a:b] for a, b in itertools.pairwise(marks[1:])]


def training(precision: str) -> list[str]:
    """The arguments of a small run that writes no record on the way."""
    data = ["--data=Synthetic", "--data.train=64", "--data.test=8", "--loader.batch_size=4"]
    rest = ["--model=SmallCNN", "--optimizer=torch.optim.SGD", "--optimizer.lr=0.01", "--method=SGD", "--members=1"]
    engine = ["--engine=Torch", f"--engine.precision={precision}"]
    return ["train", *data, *rest, *engine, "--record.every=1000", "--record.progress=false"]


def waits(part: Part) -> None:
    precision = "bf16" if part.device == "cuda" else "fp32"
    network = SmallCNN() if part.tiny else ResNet(18)
    gpu = part.device == "cuda"
    problem = Problem(network, size=4, device=part.device, precision=precision, channels_last=gpu)  # type: ignore[arg-type]
    with part.section("updates"):
        (each,) = on_ranks(1, of_updates, problem, 5, deadline=part.within(40))
        for name, found in each.items():
            report(part, f"{name}: waits of the host per update", found, 0)
    with part.section("training loop, SGD"):
        (found,) = on_ranks(1, of_loop, training(precision), 8, deadline=part.within(40))
        report(part, "training loop, SGD: waits of the host per update", found, 0)


def report(part: Part, what: str, found: Places, most: float | None) -> None:
    each = Counter(place for places in found for place in places)
    note = ", ".join(f"{place} ×{times / len(found):g}" for place, times in each.most_common(4))
    part.add(what, statistics.median(map(len, found)), most=most, note=note or "none: a CPU has nothing to wait for")


if __name__ == "__main__":
    run(waits)
