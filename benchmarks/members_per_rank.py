"""Four small members in one process against four processes: `python benchmarks/members_per_rank.py [--rounds 30]`.

Both have one core, on which they take turns, 20 updates at a time: the trainer's own updates, of the same samples, with
everything that belongs to one. The ratios are medians over the rounds, of the clock and of the processor time that all
processes of a side have used. Where nobody else uses the core the two agree; else the clock favours four processes,
which get four shares of it, and the processor time decides.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import StopRequest
from dist_dash.training.loop import ask, update
from dist_dash.training.run import Run
from tests.support.ranks import LIMIT, Ranks

MEMBERS, UPDATES, AT_LEAST = 4, 20, 1.3
RECIPE = ["--data=Digits", "--engine=Torch", "--optimizer=SGD", "--optimizer.lr=0.01", "--optimizer.momentum=0.9"]
RECIPE += ["--loader.batch_size=32", "--record.progress=false", "--max_steps=1000000", f"--members={MEMBERS}"]
MLP = ["--model=MLP", "--model.hidden=32", "--model.norm=batch"]
CNN = ["--model=SmallCNN", "--model.width=8"]
CASES = {
    "SGD, MLP": ["--method=SGD", *MLP],
    "SAM, MLP": ["--method=SAM", *MLP],
    "DASH, MLP": ["--method=DASH", *MLP],
    "DASH, CNN": ["--method=DASH", *CNN],
}


def rank(arguments: list[str], folder: str, per_rank: int, core: int) -> None:
    """Make updates whenever rank 0 is told to, and tell what they took: seconds, and seconds of all processors."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    command = parse_command([*RECIPE, *arguments, f"--run={folder}/run", f"--members_per_rank={per_rank}"])
    with Exchange(layout_from_environment(MEMBERS, None, per_rank), deadline=LIMIT) as exchange:
        Path(command.run).mkdir(exist_ok=True)
        run, first = Run(command, OwnedFolder(command.run), exchange, StopRequest()), exchange.layout.rank == 0
        orders = Path(f"{folder}/orders").open() if first else contextlib.nullcontext()  # noqa: SIM115
        with contextlib.closing(run.loader(0, 0)) as batches, orders as file:
            ask(run, batches, 0)
            while exchange.collect(file.readline() if file is not None else "")[0]:
                started, worked = time.perf_counter(), time.process_time()
                for _ in range(UPDATES):
                    host = run.agreement.next_batch()
                    ask(run, batches, run.step + 1)
                    update(run, host)
                exchange.collect(0)
                took, work = time.perf_counter() - started, sum(exchange.collect(time.process_time() - worked))
                if first:
                    Path(f"{folder}/answers").write_text(f"{took} {work}\n")
        run.recorder.close()


def measure(arguments: list[str], rounds: int) -> dict[int, list[tuple[float, float]]]:
    """For each number of members per rank, seconds and processor seconds of each round."""
    core, found = min(os.sched_getaffinity(0)), {per_rank: list[tuple[float, float]]() for per_rank in (1, MEMBERS)}
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folders = {per_rank: Path(temporary) / str(per_rank) for per_rank in found}
        sides, orders = [], {}
        for per_rank, folder in folders.items():
            folder.mkdir()
            os.mkfifo(folder / "orders")
            os.mkfifo(folder / "answers")
            sides.append(Ranks(MEMBERS // per_rank, rank, arguments, str(folder), per_rank, core))
            orders[per_rank] = stack.enter_context((folder / "orders").open("w", buffering=1))
        for _ in range(rounds):
            for per_rank, folder in folders.items():
                orders[per_rank].write("go\n")
                took, work = map(float, (folder / "answers").read_text().split())
                found[per_rank].append((took, work))
        stack.close()
        for side in sides:
            for kind, value in side.results():
                if kind != "value":
                    raise SystemExit(f"{kind} {value}\n{side.output(0)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    names = (f"{MEMBERS} processes", "one process", "faster (clock)", "faster (processor)", "at least")
    table = Table("update", *names, title="milliseconds an update, on one core; medians")
    missed = 0
    for name, arguments in CASES.items():
        found = {
            per_rank: rounds[len(rounds) // 5 :] for per_rank, rounds in measure(arguments, options.rounds).items()
        }
        ratios = [
            statistics.median(a[clock] / b[clock] for a, b in zip(found[1], found[MEMBERS], strict=True))
            for clock in (0, 1)
        ]
        shown = [1000 / UPDATES * statistics.median(took for took, _ in rounds) for rounds in found.values()]
        missed += ratios[1] < AT_LEAST
        table.add_row(name, *(f"{number:.2f}" for number in (*shown, *ratios, AT_LEAST)))
    Console().print(table)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
