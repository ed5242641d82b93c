"""`python -m tests.campaign [--quick | --count N] [--seed S] [PART …]`: parts one after the other, then one table."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PARTS = {  # what is tried, and how often in a quick round
    "fuzz": ("mutated ensembles, checkpoint sets, predictions, weights", 60),
    "inputs": ("wrong inputs of every command", 40),
    "kills": ("ranks killed or stopped", 4),
    "damage": ("damaged checkpoint sets and run folders", 8),
}


class Row(NamedTuple):
    """A part's outcome: how many trials, and how many held; whether that is as many as must."""

    what: str
    trials: int
    held: int
    good: bool


def run_part(name: str, options: Sequence[str]) -> Row:
    """Run a part in a process of its own, its output passed on."""
    command = [sys.executable, "-m", f"tests.campaign.{name}", *options]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    last = re.match(r"(\d+) of (\d+) hold", lines[-1] if lines else "")
    held, trials = map(int, last.groups()) if last else (0, 0)
    return Row(PARTS[name][0], trials, held, process.returncode == 0 and trials > 0)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """One line a part."""
    width = max(len(row.what) for row in rows)
    yield f"{'what':{width}}  trials   held"
    for row in rows:
        yield f"{row.what:{width}}  {row.trials:6}  {row.held:5}{'' if row.good else '  falls short'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 0 where all hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all that there are)")
    parser.add_argument("--quick", action="store_true", help="a few trials of each")
    parser.add_argument("--count", type=int, help="so many trials of each part (default: 500 or 100)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    options = parser.parse_args(arguments)
    there = [name for name in PARTS if importlib.util.find_spec(f"tests.campaign.{name}")]
    if unknown := set(options.parts) - {*there}:
        parser.error(f"{', '.join(sorted(unknown))}: no such part; it must be of {', '.join(there)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    for name in options.parts or there:
        count = PARTS[name][1] if options.quick else options.count
        given = [] if count is None else [f"--count={count}"]
        rows.append(run_part(name, [f"--seed={options.seed}", *given]))
    print("\n" + "\n".join(table(rows)))
    return int(not all(row.good for row in rows))


if __name__ == "__main__":
    sys.exit(main())
