"""A step of ResNet-50, 224 px, bf16: methods against loops written by hand, images/s, peak memory against the plan."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.costs import SETTINGS, Problem, Times, hand_written, hand_written_sam, interleaved, ratio, stepper
from benchmarks.gpu.part import Part, run
from benchmarks.gpu.two_members import TwoMembers
from dist_dash.cluster.memory import estimate
from dist_dash.data import Synthetic
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import Torch
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.models import ResNet, SmallCNN
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import ask_for_determinism, layout_from_environment
from dist_dash.recipe.recipe import Loader, Recipe
from tests.support.ranks import on_ranks

METHODS: dict[str, Callable[[], Method]] = {
    "SGD": SGD,
    "SAM": SAM,
    "DASH joint": partial(DASH, ascent="joint"),
    "DASH separate": DASH,
}


def one_rank(problem: Problem, rounds: int, deepspeed: bool) -> tuple[Times, dict[str, float]]:
    """Seconds per step, and bytes that each variant takes at most beyond what was there before it."""
    ask_for_determinism()  # as recipes do unless told otherwise; the bare loops take the same kernels
    with TwoMembers() as exchange:
        makers: dict[str, Callable[[], Callable[[int], None]]] = {
            "bare SGD": partial(hand_written, problem),
            "bare SAM": partial(hand_written_sam, problem),
        }
        for name, method in METHODS.items():
            makers[name] = partial(stepper, method(), Torch(problem.precision), exchange, problem)
        if deepspeed:
            makers["SGD DeepSpeed"] = partial(stepper, SGD(), DeepSpeed(problem.precision), exchange, problem)
        if problem.device == "cuda":
            makers["bare SGD, contiguous"] = partial(hand_written, replace(problem, channels_last=False))
        steppers, peaks = {}, {}
        problem.batch(0), problem.batch(1)  # on the device before anything is counted
        for name, make in makers.items():
            before = allocated(problem.device)
            steppers[name] = make()
            steppers[name](0)
            steppers[name](1)
            peaks[name] = allocated(problem.device, peak=True) - before
        if problem.device == "cuda":
            steppers["bare SGD, any kernels"] = not_deterministic(steppers["bare SGD"])
        return interleaved(steppers, rounds, exchange).clock, peaks


def two_ranks(problem: Problem, rounds: int) -> Times:
    """SAM and DASH on two ranks that share the device, by the true exchange."""
    ask_for_determinism()
    with Exchange(layout_from_environment(2), deadline=60) as exchange:
        variants = {
            name: stepper(METHODS[name](), Torch(problem.precision), exchange, problem)
            for name in ("SAM", "DASH separate")
        }
        return interleaved(variants, rounds, exchange).clock


def not_deterministic(step: Callable[[int], None]) -> Callable[[int], None]:
    def free(number: int) -> None:
        torch.use_deterministic_algorithms(False)
        step(number)
        torch.use_deterministic_algorithms(True, warn_only=True)

    return free


def allocated(device: str, peak: bool = False) -> float:
    if device != "cuda":
        return 0.0
    torch.cuda.synchronize()
    if peak:
        return float(torch.cuda.max_memory_allocated())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return float(torch.cuda.memory_allocated())


def planned(problem: Problem, method: Method) -> float:
    """Bytes that `dist-dash submit` would plan for a rank."""
    optimizer: Any = partial(torch.optim.SGD, **SETTINGS)
    parts = Synthetic(size=problem.side, classes=problem.classes), problem.model, optimizer, Torch(problem.precision)
    recipe = Recipe(*parts, method=method, members=2, loader=Loader(batch_size=problem.size))
    return estimate(recipe, 1, (3, problem.side, problem.side), problem.classes, True).total


def steps(part: Part) -> None:
    # bf16 takes 30 times as long on most CPUs.
    network = SmallCNN() if part.tiny else ResNet(50, "imagenet")
    sizes = {"side": 32, "classes": 10, "size": 4} if part.tiny else {"side": 224, "classes": 1000, "size": 128}
    precision = "bf16" if part.device == "cuda" else "fp32"
    fast = {"precision": precision, "channels_last": part.device == "cuda"}  # as recipes do by default
    problem = Problem(network, device=part.device, **fast, **sizes)  # type: ignore[arg-type]
    rounds = 1 if part.tiny else 12
    what = f"{'SmallCNN' if part.tiny else 'ResNet-50'}, {problem.side} px, {precision}, batch {problem.size}"

    with part.section("steps on one rank"):
        (found,) = on_ranks(1, one_rank, problem, rounds, True, deadline=part.within(80))
        times, peaks = found
        for name in times:
            speed = problem.size / statistics.median(times[name])
            part.add(f"{name}: images/s", speed, note=f"{what}; second member a double" if "DASH" in name else what)
        for above, below, most in (
            ("SGD", "bare SGD", 1.03),
            ("SGD DeepSpeed", "bare SGD", 1.05),
            ("SAM", "bare SAM", 1.05),
            ("SAM", "SGD", 2.05),
            ("DASH joint", "SAM", 1.05),
            ("DASH separate", "SAM", 1.38),
        ):
            ratios = ratio(times, above, below)
            note = f"{min(ratios):.3f} … {max(ratios):.3f} in {rounds} rounds"
            part.add(f"{above} / {below}", statistics.median(ratios), most=part.limit(most), note=note)
        if part.device == "cuda":
            cost = statistics.median(ratio(times, "bare SGD, contiguous", "bare SGD"))
            part.add("contiguous / channels_last, bare SGD", cost, note="recipes: memory_format: auto by default")
            cost = statistics.median(ratio(times, "bare SGD", "bare SGD, any kernels"))
            part.add("deterministic / any kernels, bare SGD", cost, note="recipes: deterministic: true by default")
            for name, method in METHODS.items():
                plan = planned(problem, method())
                note = f"{peaks[name] / 2**30:.2f} GiB; planned {plan / 2**30:.2f} GiB"
                part.add(f"{name}: peak memory / plan", peaks[name] / plan, most=part.limit(1.25), note=note)
    with part.section("steps on two ranks of one GPU"):
        half = replace(problem, size=problem.size // 2)
        times = on_ranks(2, two_ranks, half, rounds, environment=part.one_gpu, deadline=part.within(45))[0]
        cost = statistics.median(ratio(times, "DASH separate", "SAM"))
        note = f"batch {half.size} a rank; both compute on one device, predictions through pinned memory"
        part.add("DASH separate / SAM, 2 ranks on one GPU", cost, note=note)


if __name__ == "__main__":
    run(steps)
