"""What the metrics of a large test set cost: `python benchmarks/metrics.py [--members 8] [--samples 50000]`.

Makes up predictions `[members, samples, classes]` in float32 and evaluates them as `dist-dash evaluate` does,
calibrated scores included. The time, and the peak memory with the predictions counted in, come last. On a machine with
more than two cores: `taskset -c 0,1 python benchmarks/metrics.py`. Where other programs compete for the cores, the
processor time tells what the wall time cannot.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from dist_dash.metrics.blocks import cores, in_blocks
from dist_dash.metrics.mixture import non_finite_members
from dist_dash.metrics.predictions import save_predictions
from dist_dash.metrics.scores import calibrated_scores, measured, scores_of
from dist_dash.metrics.summary import evaluate

MOST_SECONDS, MOST_GIB = 30.0, 4.0
T = TypeVar("T")


def made_up(members: int, samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Members that are right in about three of four cases, too sure of themselves, and alike but not equal."""
    log_probs = np.empty((members, samples, classes), np.float32)
    labels = np.random.default_rng(0).integers(classes, size=samples)

    def work(number: int, rows: slice) -> None:
        generator = np.random.default_rng([1, number])
        count = rows.stop - rows.start
        common = generator.standard_normal((count, classes), dtype=np.float32)
        common[np.arange(count), labels[rows]] += generator.normal(4.5, 1.5, count).astype(np.float32)
        for member in range(members):
            logits = common + 0.7 * generator.standard_normal((count, classes), dtype=np.float32)
            logits *= 2.5
            logits -= logits.max(1, keepdims=True)
            log_probs[member, rows] = logits - np.log(np.exp(logits).sum(1, keepdims=True))

    in_blocks(samples, classes, work)
    return log_probs, labels


class Clock:
    """Seconds of wall and processor time by what was done."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float]] = []

    def timed(self, name: str, call: Callable[[], T]) -> T:
        wall, busy = time.perf_counter(), time.process_time()
        found = call()
        self.rows.append((name, time.perf_counter() - wall, time.process_time() - busy))
        return found


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def parts(clock: Clock, log_probs: np.ndarray, labels: np.ndarray) -> None:
    """What `evaluate` does, step by step."""
    clock.timed("  looking for NaN", lambda: non_finite_members(log_probs))
    found = clock.timed("  the pass over all members", lambda: measured(log_probs, labels, range(len(log_probs))))
    clock.timed("  scores", lambda: [scores_of(one) for one in [found.ensemble, *found.members]])
    sources = [found.log_probs, *log_probs]
    predictors = [found.ensemble, *found.members]
    clock.timed("  temperatures, calibrated scores", lambda: [*map(calibrated_scores, sources, predictors)])
    with tempfile.TemporaryDirectory() as folder:
        clock.timed("writing predictions.npz", lambda: save_predictions(Path(folder) / "p.npz", log_probs, labels))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    options = parser.parse_args()
    clock = Clock()
    shape = options.members, options.samples, options.classes
    log_probs, labels = clock.timed("making the predictions up", lambda: made_up(*shape))
    before = peak_gib()
    result: dict[str, Any] = clock.timed("evaluate", lambda: evaluate(log_probs, labels, "made up", None))
    peak = peak_gib()
    parts(clock, log_probs, labels)
    ensemble = result["ensemble"]
    print("ensemble:", ", ".join(f"{name} {value:.4f}" for name, value in ensemble.items()))
    title = f"{shape} float32, {log_probs.nbytes / 2**30:.2f} GiB, {cores()} cores, load {os.getloadavg()[0]:.1f}"
    table = Table("", "seconds", "processor seconds", title=title, title_justify="left")
    for name, wall, busy in clock.rows:
        table.add_row(name, f"{wall:.2f}", f"{busy:.2f}")
    Console().print(table)
    (wall, busy) = next((wall, busy) for name, wall, busy in clock.rows if name == "evaluate")
    fine = wall <= MOST_SECONDS and peak <= MOST_GIB
    print(f"processor time / cores: {busy / cores():.1f} s; the predictions alone: {before:.2f} GiB")
    print(
        f"evaluate: {wall:.1f} s (at most {MOST_SECONDS:g}), peak memory {peak:.2f} GiB (at most {MOST_GIB:g})", end=""
    )
    print(f" — {'fulfilled' if fine else 'NOT fulfilled'}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
