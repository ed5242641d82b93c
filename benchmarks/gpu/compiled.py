"""Steps of compiled networks against the same steps uncompiled, and how long the compilation takes."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

from benchmarks.costs import Problem, Times, interleaved, ratio, stepper
from benchmarks.gpu.part import Part, run
from benchmarks.gpu.two_members import TwoMembers
from dist_dash.member.engine import Torch
from dist_dash.methods import DASH, SGD
from dist_dash.models import ResNet, SmallCNN
from dist_dash.training import speed
from tests.support.ranks import on_ranks

METHODS = {"SGD": SGD, "DASH separate": DASH}


def one_rank(problem: Problem, rounds: int, backend: str) -> tuple[Times, float]:
    """Seconds per step, and until the first compiled one was there."""
    speed.BACKEND = backend
    with TwoMembers() as exchange:
        steppers = {n: stepper(m(), Torch(problem.precision), exchange, problem) for n, m in METHODS.items()}
        started = time.perf_counter()
        for name, method in METHODS.items():
            compiled = replace(problem, compiled=True)
            steppers[f"{name}, compiled"] = stepper(method(), Torch(problem.precision), exchange, compiled)
        seconds = (time.perf_counter() - started) / len(METHODS)
        return interleaved(steppers, rounds, exchange).clock, seconds


def compiled(part: Part) -> None:
    gpu = part.device == "cuda"
    network, size = (SmallCNN(), 4) if part.tiny else (ResNet(18), 128)
    precision = "bf16" if gpu else "fp32"
    problem = Problem(network, size=size, device=part.device, precision=precision, channels_last=gpu)  # type: ignore[arg-type]
    what = f"{'SmallCNN' if part.tiny else 'ResNet-18'}, 32 px, {precision}, batch {size}"
    asked = (1, "aot_eager") if part.tiny else (12, "inductor")
    with part.section("compiled steps"):
        ((times, seconds),) = on_ranks(1, one_rank, problem, *asked, deadline=part.within(80))
        for name in METHODS:
            ratios = ratio(times, f"{name}, compiled", name)
            part.add(f"{name}: compiled / not", statistics.median(ratios), note=what)
        part.add("time to compile", seconds, "s", note=f"{asked[1]}, {what}")


if __name__ == "__main__":
    run(compiled)
