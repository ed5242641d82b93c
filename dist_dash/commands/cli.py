"""The commands. No logic: each hands over to the module that owns it, imported only when it is needed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from dist_dash import __version__
from dist_dash.ranks.launched import Launcher
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import TO_BE_CONTINUED, OneLine, guarded, leave, say_at_once

COMMANDS = {
    "train": "train an ensemble: --config R.yaml [--run RUN] [--members M] [--any.field value]",
    "evaluate": "recompute the table from an exported ensemble, or from predictions",
    "predict": "predict the samples of an .npz file with an exported ensemble",
    "join": "make one run of members that were trained alone",
    "submit": "submit a run to Slurm, or show what would be submitted",
    "array": "submit a sweep to Slurm: one run per point",
    "runs": "list the runs below a folder with their states: FOLDER [--watch] [--json]",
    "scaling": "measure step time and efficiency over members × replicas, here or under Slurm",
    "compare": "compare runs: mean ± deviation over seeds, paired differences with intervals, cost",
    "report": "one HTML page about a run, or about a folder of runs",
    "flatness": "how flat each member's minimum is: worst loss nearby, curvature",
    "shift": "scores under corruption of the images, and how well foreign images are told apart",
    "study": "choose settings on validation data, run all seeds, compare and report: STUDY.yaml",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 finished, 75 to be continued, 2 bad input, 1 failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given = given[1:] if given[:1] == ["--"] else given  # what keeps torchrun's hands off our --run
    parser = OneLine(
        prog="dist-dash",
        description="Train ensembles of flat, diverse networks side by side, one member per rank (DASH).",
        epilog="`dist-dash COMMAND --help` shows a command's options; torchrun, or `train` itself, starts the ranks.",
    )
    parser.add_argument("--version", action="version", version=f"dist-dash {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return guarded(lambda: RUN[parser.parse_args(given[:1]).command](given[1:]))


def entry() -> NoReturn:
    """The console script `dist-dash`."""
    leave(main())


def _train(arguments: Sequence[str]) -> int:
    # What torch's C++ says when a peer is lost is a page of its own frames; this project says who is missing.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    launcher = Launcher()
    # Listens before torch is imported, which takes seconds: a stop asked for in the meantime is not lost.
    with StopRequest().listening(lambda text: None if launcher.rank else say_at_once(text)) as stop:
        from dist_dash.recipe.parsing import parse_command

        command = parse_command(arguments)
        if launcher.started_ranks:
            from dist_dash.ranks.layout import layout_from_environment
            from dist_dash.training.train import train

            return train(command, layout_from_environment(command.recipe.members, command.member), stop)
        from dist_dash.training.launcher import launch_local
    return TO_BE_CONTINUED if stop.made else launch_local(arguments, command)


def _evaluate(arguments: Sequence[str]) -> int:
    # What torch's C++ says when a peer is lost is a page of its own frames; this project says who is missing.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from dist_dash.commands.evaluate import evaluate_command

    return evaluate_command(arguments)


def _predict(arguments: Sequence[str]) -> int:
    parser = OneLine(prog="dist-dash predict")
    parser.add_argument("run", help="a finished run, or its ensemble folder")
    parser.add_argument("input", help="an .npz file with x [N, …] as stored in the training data, optionally y [N]")
    parser.add_argument("--output", required=True, help="the .npz file to write: probs, log_probs (and labels)")
    parser.add_argument("--batch-size", type=int, default=512)
    options = parser.parse_args(arguments)
    from dist_dash.commands.predict import predict_command

    return predict_command(options.run, options.input, options.output, options.batch_size)


def _join(arguments: Sequence[str]) -> int:
    parser = OneLine(prog="dist-dash join")
    parser.add_argument("run", help="the folder that holds the members' finished runs: member_00, member_01, …")
    options = parser.parse_args(arguments)
    from dist_dash.ensembles.join import join_command

    return join_command(options.run)


def _runs(arguments: Sequence[str]) -> int:
    parser = OneLine(prog="dist-dash runs")
    parser.add_argument("folder", help="a folder with run folders in it, at any depth; or a run folder")
    parser.add_argument("--watch", action="store_true", help="show the table until no run waits or runs any more")
    parser.add_argument("--json", action="store_true", help="print the states as JSON instead of the table")
    options = parser.parse_args(arguments)
    from dist_dash.commands.runs import runs_command

    return runs_command(options.folder, options.json, options.watch)


def _in(module: str, command: str) -> Callable[[Sequence[str]], int]:
    """A command that parses its own arguments."""

    def run(arguments: Sequence[str]) -> int:
        found: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), command)
        return found(arguments)

    return run


RUN = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "join": _join,
    "submit": _in("dist_dash.commands.submit", "submit_command"),
    "array": _in("dist_dash.commands.array", "array_command"),
    "runs": _runs,
    "scaling": _in("dist_dash.commands.scaling", "scaling_command"),
    "compare": _in("dist_dash.commands.compare", "compare_command"),
    "report": _in("dist_dash.commands.report", "report_command"),
    "flatness": _in("dist_dash.commands.flatness", "flatness_command"),
    "shift": _in("dist_dash.commands.shift", "shift_command"),
    "study": _in("dist_dash.commands.study", "study_command"),
}
