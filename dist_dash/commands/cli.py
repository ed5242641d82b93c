"""The commands by name. Each is one file beside this one, imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from dist_dash import __version__
from dist_dash.commands.parser import CommandLine
from dist_dash.runs.process import guarded, leave

COMMANDS = {
    "train": "train an ensemble: --config R.yaml [--run RUN] [--members M] [--any.field value]",
    "evaluate": "recompute the table from an exported ensemble, or from predictions",
    "predict": "predict the samples of an .npz file with an exported ensemble",
    "join": "make one run of members that were trained alone",
    "submit": "submit a run to Slurm, or show what would be submitted",
    "array": "submit a sweep to Slurm: one run per point",
    "runs": "list the runs below a folder with their states: FOLDER [--watch] [--json]",
    "plan": "foresee a run on any number of ranks: layout, step time by terms, memory, GPU-hours; --dry-run",
    "scaling": "measure step time and efficiency over members × replicas, here or under Slurm",
    "compare": "compare runs: mean ± deviation over seeds, paired differences with intervals, cost",
    "report": "one HTML page about a run, or about a folder of runs",
    "flatness": "how flat each member's minimum is: worst loss nearby, curvature",
    "shift": "scores under corruption of the images, and how well foreign images are detected",
    "study": "choose settings on validation data, run all seeds, compare and report: STUDY.yaml",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 finished, 75 to be continued, 2 bad input, 1 failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given = given[1:] if given[:1] == ["--"] else given  # or torchrun would take --run for its own option
    return guarded(lambda: _run(given))


def entry() -> NoReturn:
    """The console script `dist-dash`."""
    leave(main())


def _run(given: Sequence[str]) -> int:
    parser = CommandLine(
        description="Train ensembles of flat, diverse networks side by side, one member per rank (DASH).",
        epilog="`dist-dash COMMAND --help` shows a command's options; torchrun, or `train` itself, starts the ranks.",
    )
    parser.add_argument("--version", action="version", version=f"dist-dash {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    name = parser.parse_args(given[:1]).command
    status: int = getattr(importlib.import_module(f"dist_dash.commands.{name}"), f"{name}_command")(given[1:])
    return status
