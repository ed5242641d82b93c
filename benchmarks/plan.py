"""Whether `dist-dash plan` foresees what 1, 2, 4 and 8 gloo ranks take here: `python benchmarks/plan.py [--rounds 5]`.

Every rank is pinned to a core. In each round the profile is measured on one rank, then every number of ranks in turn:
a slower minute of the machine hits all of them. α, β and σ are fitted to two ranks: one and two are a check of the
sum, four and eight a forecast. With more ranks than cores they share them, and the forecast assumes that they do so
evenly. Ends with a table and the verdict on those numbers of ranks for which there are cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from dist_dash.cluster.measure import built, measure
from dist_dash.cluster.scaling.profile import Profile, name_of
from dist_dash.cluster.scaling.step_model import Network, Size, Straggling, fit_straggling, seconds_of, terms
from dist_dash.member.batch import Progress
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.recipe.parsing import parse_command
from dist_dash.training.build import on_device
from tests.support.ranks import on_ranks

RECIPE = [
    *("--data=Synthetic", "--data.size=32", "--data.channels=3", "--model=SmallCNN", "--model.width=32"),
    *("--optimizer=SGD", "--optimizer.lr=0.01", "--engine=Torch", "--loader.batch_size=32", "--epochs=1"),
]
WORLDS = (1, 2, 4, 8)
ALLOWED = 0.2


def pin() -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    torch.set_num_threads(1)


def profiled(arguments: list[str], steps: int) -> Profile:
    pin()
    return measure(parse_command(arguments), steps, 1, lambda text: None)


def updates(arguments: list[str], steps: int) -> dict[str, list[float]]:
    """Seconds of every update of this rank, and of its own work in it; then of a flag, and of an all-gather of 4 MB."""
    pin()
    command = parse_command(arguments)
    with Exchange(layout_from_environment(None)) as exchange:
        member, _, loader = built(command.recipe, exchange, lambda text: None)
        member.engine.scale_learning_rate(0.0)
        batch = on_device(
            command.recipe, loader.assemble((0, 0)), exchange.layout, Progress(0, 10, 10, 1.0, (1.0, 1.0))
        )
        found: dict[str, list[float]] = {"whole": [], "own": [], "flag": [], "large": []}
        for step in range(steps + 2):
            exchange.clock.read()
            flags = exchange.start_maximum([0, 0, 0, 0])
            command.recipe.method.update(member, batch, exchange)
            with exchange.clock.waiting("wait"):
                flags.wait()
            seconds = exchange.clock.read()
            if step >= 2:
                found["whole"].append(seconds["total"])
                found["own"].append(seconds["total"] - seconds.get("wait", 0.0) - seconds.get("transfer", 0.0))
        for name, call in {
            "flag": lambda: exchange.maximum([0, 0, 0, 0]),
            "large": lambda: exchange.stack(torch.zeros(2**20)).wait(),
        }.items():
            for _ in range(20):
                exchange.collect(0)
                began = time.perf_counter()
                call()
                found[name].append(time.perf_counter() - began)
    return found


def fitted(ranks: list[dict[str, list[float]]]) -> tuple[Network, Straggling]:
    """α, β and σ of two ranks."""
    alpha = float(np.median(np.min([rank["flag"] for rank in ranks], axis=0))) / 2
    large = float(np.median(np.min([rank["large"] for rank in ranks], axis=0)))
    own = np.array([rank["own"] for rank in ranks]).T
    network = Network(alpha * 1e6, 4 * 2**20 / max(large - 3 * alpha, 1e-6) / 1e9, alpha * 1e6, 1e6, alpha * 1e6)
    return network, fit_straggling(own, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="updates of each number of ranks in each round")
    parser.add_argument("--method", default="DASH", help="of the recipe")
    options = parser.parse_args()
    arguments = [*RECIPE, f"--method={options.method}"]
    cores = len(os.sched_getaffinity(0))
    foreseen: dict[int, list[float]] = {world: [] for world in WORLDS}
    measured: dict[int, list[float]] = {world: [] for world in WORLDS}
    for number in range(options.rounds):
        profile = on_ranks(1, profiled, arguments, 20)[0]
        cost = profile.methods[name_of(parse_command(arguments).resolved["method"])]
        one = cost if options.method in ("SGD", "SAM") else profile.methods["SAM"]  # what DASH does without peers
        ranks: dict[int, Any] = {world: on_ranks(world, updates, arguments, options.steps) for world in WORLDS}
        network, sigma = fitted(ranks[2])
        for world in WORLDS:
            size = Size(world, 1, world, cores)
            parts = terms(profile.rates, cost if world > 1 else one, size, network, sigma, workers=0)
            foreseen[world].append(seconds_of([term for term in parts if "decoding" not in term.name]))
            measured[world].append(float(np.mean(np.max([rank["whole"] for rank in ranks[world]], axis=0))))
        fit = f"α {network.alpha_flags:.0f} µs, β {network.beta_inside:.2f} GB/s, σ {sigma.independent:.2f}"
        print(f"round {number + 1} of {options.rounds}: {fit}, {sigma.persistent:.2f}", file=sys.stderr)
    show(cores, foreseen, measured)


def show(cores: int, foreseen: dict[int, list[float]], measured: dict[int, list[float]]) -> None:
    table = Table(title=f"ms per update on {cores} cores: medians of the rounds, and their range", title_justify="left")
    for title in ("ranks", "foreseen", "measured", "foreseen / measured", "verdict"):
        table.add_column(title, justify="right")
    for world in WORLDS:
        ratios = [a / b for a, b in zip(foreseen[world], measured[world], strict=True)]
        ratio = statistics.median(ratios)
        judged = "within 20 %" if abs(ratio - 1) <= ALLOWED else "MORE than 20 % off"
        cells = [
            f"{1000 * statistics.median(of):.0f} ({1000 * min(of):.0f}–{1000 * max(of):.0f})"
            for of in (foreseen[world], measured[world])
        ]
        table.add_row(str(world), *cells, f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})", judged)
    load = os.getloadavg()[0]
    Console(width=120).print(table, f"Load of the machine: {load:.1f}. Ranks beyond {cores} share the cores.", sep="\n")


if __name__ == "__main__":
    main()
