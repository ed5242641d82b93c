"""One run, many random interruptions in a row, and the same bits in the end. By hand: `python -m tests.slurm.soak`.

Signals, preemptions, plain requeues, killed ranks and power cuts strike at random moments: while the ranks start,
train, save or evaluate.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.runs import finish
from tests.slurm.cluster import SlurmCluster, SlurmError, until
from tests.slurm.jobs import SlurmRun

STEPS = 1500


class Soaked(SlurmRun):
    """Longer, with evaluations and more checkpoints, so that strikes meet those too."""

    @property
    def recipe(self) -> list[str]:
        more = [f"--max_steps={STEPS}", "--checkpoints.every_steps=9", "--record.evaluate_every=1"]
        return [*super().recipe, *more]


def user_signal(run: SlurmRun) -> None:
    run.cluster.run("scancel", "--signal=USR2", run.job)


def requeue(run: SlurmRun) -> None:
    run.cluster.run("scontrol", "requeue", run.job)


def preemption(run: SlurmRun) -> None:
    run.cluster.preempt(seconds=1)


def killed_rank(run: SlurmRun) -> None:
    tasks = [pid for node in run.cluster.nodes for pid in run.cluster.tasks(node)]
    ranks = [pid for pid in tasks if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(random.choice(ranks), signal.SIGKILL)


def power_cut(run: SlurmRun) -> None:
    node = random.choice(run.cluster.nodes)
    run.cluster.drop_node(node)
    until("Slurm to notice", lambda: "down" in run.cluster.state(node) or "PENDING" in run.state)
    run.cluster.restore_node(node)


STRIKES: tuple[Callable[[SlurmRun], None], ...] = (user_signal, requeue, preemption, killed_rank, power_cut)


def strike(run: SlurmRun, draw: random.Random) -> str:
    """One interruption at a random moment of a life of the job; how it went."""
    kind = draw.choice(STRIKES)
    run.until_state("RUNNING")
    pause = draw.uniform(0, 8)
    time.sleep(pause)
    step = run.step
    try:
        kind(run)
    except (SlurmError, ProcessLookupError, FileNotFoundError, IndexError) as error:
        # At some moments there is nothing to strike: no step to signal, no rank to kill yet.
        return f"{kind.__name__} after {pause:.1f} s at step {step}: no effect ({str(error).splitlines()[-1]})"
    said = f"{kind.__name__} after {pause:.1f} s at step {step}"
    # A signal to a job that has no step yet reaches nobody: the run gets on.
    took = run.until("an end of this life", lambda: "RUNNING" not in run.state or run.step > step + 40)
    return f"{said}; {took:.1f} s later {run.state.lower()}" if "RUNNING" not in run.state else f"{said}: no effect"


def soak(strikes: int, seed: int, folder: Path) -> None:
    """Strike, then let the run end, then compare."""
    draw = random.Random(seed)
    random.seed(seed)
    with SlurmCluster(nodes=2, cpus=4, gpus=2) as cluster:
        run = Soaked(cluster, folder / "run")
        run.slow(0.2)
        run.submit()
        done = 0
        while done < strikes:
            told = strike(run, draw)
            done += "no effect" not in told
            print(f"{done:3d} {told}", flush=True)
            assert not run.folder.done.exists(), "the run ended too early for so many strikes"
        run.until_done(300)
        print(f"continued {run.folder.owner()['continued']} times, in {run.folder.owner()['job']}", flush=True)
        finish(folder / "undisturbed", 2, 2, *run.recipe)
        run.same_as(folder / "undisturbed")
        print(f"{strikes} interruptions (seed {seed}): the same bits")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strikes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak(options.strikes, options.seed, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
