"""The commands. No logic: each hands over to the module that owns it, imported only when it is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from dist_dash import __version__
from dist_dash.errors import BadInput, RunFailed
from dist_dash.launched import Launcher
from dist_dash.preemption import FINISHED, TO_BE_CONTINUED, StopRequest

COMMANDS = {
    "train": "train an ensemble: --config R.yaml [--run RUN] [--members M] [--any.field value]",
    "evaluate": "recompute the table from an exported ensemble, or from predictions",
    "predict": "predict the samples of an .npz file with an exported ensemble",
}


class OneLine(argparse.ArgumentParser):
    """A parser that complains in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        """Raise `BadInput`."""
        raise BadInput(f"{message}; see `{self.prog} --help`")


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
    try:
        command = parser.parse_args(given[:1]).command
        return {"train": _train, "evaluate": _evaluate, "predict": _predict}[command](given[1:])
    except BadInput as error:
        return _complain(error, 2)
    except (RunFailed, OSError) as error:
        return _complain(error, 1)


def leave(status: int) -> NoReturn:
    """End the process; after a failure at once: threads that wait for a lost peer would hold the interpreter back."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status in (FINISHED, TO_BE_CONTINUED):
        sys.exit(status)
    os._exit(status)


def entry() -> NoReturn:
    """The console script `dist-dash`."""
    leave(main())


def _train(arguments: Sequence[str]) -> int:
    # What torch's C++ says when a peer is lost is a page of its own frames; this project says who is missing.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    launcher = Launcher()
    # Listens before torch is imported, which takes seconds: a stop asked for in the meantime is not lost.
    with StopRequest().listening(lambda text: None if launcher.rank else _say_at_once(text)) as stop:
        from dist_dash.parsing import parse_command

        command = parse_command(arguments)
        if launcher.started_ranks:
            from dist_dash.layout import layout_from_environment
            from dist_dash.train import train

            return train(command, layout_from_environment(command.recipe.members, command.member), stop)
        from dist_dash.launcher import launch_local
    return TO_BE_CONTINUED if stop.made else launch_local(arguments, command)


def _evaluate(arguments: Sequence[str]) -> int:
    parser = OneLine(prog="dist-dash evaluate")
    parser.add_argument("run", nargs="?", help="a finished run")
    parser.add_argument("--predictions", help="instead: an .npz file with log_probs [members, N, C] and labels [N]")
    parser.add_argument("--json", action="store_true", help="print evaluation.json instead of the table")
    options = parser.parse_args(arguments)
    from dist_dash.commands import evaluate_command

    return evaluate_command(options.run, options.predictions, options.json)


def _predict(arguments: Sequence[str]) -> int:
    parser = OneLine(prog="dist-dash predict")
    parser.add_argument("run", help="a finished run, or its ensemble folder")
    parser.add_argument("input", help="an .npz file with x [N, …] as stored in the training data, optionally y [N]")
    parser.add_argument("--output", required=True, help="the .npz file to write: probs, log_probs (and labels)")
    parser.add_argument("--batch-size", type=int, default=512)
    options = parser.parse_args(arguments)
    from dist_dash.commands import predict_command

    return predict_command(options.run, options.input, options.output, options.batch_size)


def _say_at_once(text: str) -> None:
    os.write(2, f"{text}\n".encode())  # print could be interrupted by the signal in the middle of itself


def _complain(error: BaseException, status: int) -> int:
    # Where every rank ends alike, and for bad input (which rank 0 hears of in any case), one of them says so.
    rank = Launcher().rank
    if rank == 0 or not (status == 2 or getattr(error, "everywhere", False)):
        which = f"rank {rank}: " if rank else ""
        print(f"dist-dash: {which}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return status
