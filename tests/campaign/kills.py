"""Ranks that are killed or stopped at random moments: `python -m tests.campaign.kills [--count 100] [--seed 0]`.

Right is: the survivors end in time, each in one line, and the line names the lost rank and no other. About 12 seconds
a trial. The store in which the ranks meet is in a file, in a process of its own (so torchrun's agent has it), or in
rank 0 (so it is under Slurm).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.e2e.runs import SMALL, step_of, until
from tests.support.ranks import FORKED, Ranks

RECIPE = ["--data=Synthetic", "--data.size=8", "--data.channels=1", "--data.train=320", "--data.test=100"]
RECIPE += ["--engine=Torch", "--max_steps=1000000", "--checkpoints.every_steps=50"]
STORES = ("file", "launcher", "rank 0")


@dataclass(frozen=True)
class Trial:
    """Who is struck, how and when.

    Args:
        world: ranks.
        members: of the ensemble.
        victim: rank that is struck.
        strike: SIGKILL or SIGSTOP.
        after: seconds after the ranks' start; the run takes its first steps after about one.
        store: where the store is: see `STORES`.
        deadline: of a collective, in seconds; survivors have ten times as long.
        from_first_step: whether `after` counts from there.
    """

    world: int
    members: int
    victim: int
    strike: signal.Signals
    after: float
    store: str
    deadline: int = 6
    from_first_step: bool = False

    @classmethod
    def drawn(cls, draw: random.Random) -> Trial:
        """A random one."""
        world, members = draw.choice([(2, 2), (2, 2), (2, 1), (3, 3), (4, 2)])
        strike = draw.choice([signal.SIGKILL, signal.SIGSTOP])
        return cls(world, members, draw.randrange(world), strike, draw.uniform(0.3, 4.0), draw.choice(STORES))

    def __str__(self) -> str:
        ranks = f"{self.world} ranks, {self.members} members, store in {self.store}"
        return f"{self.strike.name} to rank {self.victim} after {self.after:.2f} s ({ranks})"


def _host_store(answer: Any) -> None:
    """A process that hosts a store until it is ended."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    answer.send(store.port)
    signal.pause()


def _port_of_a_host(processes: list[Any]) -> int:
    ours, theirs = FORKED.Pipe(duplex=False)
    host = FORKED.Process(target=_host_store, args=(theirs,), daemon=True)
    host.start()
    processes.append(host)
    return ours.recv()


def run_trial(trial: Trial, folder: Path) -> str:
    """What fell short, in words; empty where all is right."""
    from dist_dash.commands.cli import main
    from tests.support.ranks import free_port

    hosts: list[Any] = []
    environment = {}
    if trial.store != "file":
        port = free_port() if trial.store == "rank 0" else _port_of_a_host(hosts)
        environment = {"DIST_DASH_RENDEZVOUS": "", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= {"TORCHELASTIC_USE_AGENT_STORE": str(trial.store == "launcher")}
    run = folder / "run"
    arguments = ["train", *SMALL, *RECIPE, f"--run={run}", f"--members={trial.members}"]
    arguments.append(f"--checks.deadline={trial.deadline}")
    ranks = Ranks(trial.world, main, arguments, environment=environment)
    try:
        if trial.from_first_step:
            until(lambda: step_of(run), ranks)
        time.sleep(trial.after)
        survivors = [rank for rank in range(trial.world) if rank != trial.victim]
        early = [rank for rank in range(trial.world) if not ranks.processes[rank].is_alive()]
        if early:
            return f"rank {early[0]} had ended before the strike: {ranks.output(early[0])}"
        ranks.signal(trial.strike, [trial.victim])
        end = time.monotonic() + 10 * trial.deadline
        for rank in survivors:
            ranks.processes[rank].join(max(0.0, end - time.monotonic()))
        return "; ".join(filter(None, (_complaint(ranks, rank, trial.victim) for rank in survivors)))
    finally:
        ranks.signal(signal.SIGKILL)
        for process in hosts:
            process.kill()
        ranks.close()


def _complaint(ranks: Ranks, rank: int, victim: int) -> str:
    if ranks.processes[rank].is_alive():
        return f"rank {rank} goes on"
    said = [line for line in ranks.output(rank).splitlines() if line.startswith("dist-dash: ")]
    missing = said[-1].partition("missing: ")[2] if said else ""
    named = {int(number) for number in re.findall(r"\(rank (\d+)", missing)}
    if named == {victim} and len(said) == 1 and "Traceback" not in ranks.output(rank):
        return ""
    return f"rank {rank} names {sorted(named)}: {' | '.join(said) or ranks.output(rank)[-300:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and run the trials, say what fell short and how many did; 0 where at least 95 of 100 hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", "--trials", dest="trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    draw, found = random.Random(options.seed), Counter[tuple[str, str, bool]]()
    for number in range(options.trials):
        trial = Trial.drawn(draw)
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            wrong = run_trial(trial, Path(folder))
        found[trial.strike.name, trial.store, not wrong] += 1
        print(f"{number + 1}. {trial}: {'falls short: ' + wrong if wrong else 'holds'}", flush=True)
    for (strike, store, holds), count in sorted(found.items()):
        print(f"{strike}, store in {store}: {count} {'hold' if holds else 'fall short'}")
    hold = sum(count for (_, _, holds), count in found.items() if holds)
    print(f"{hold} of {options.trials} hold")
    return int(hold < 0.95 * options.trials)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
