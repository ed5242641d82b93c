"""`dist-dash compare`: finished runs against one another, for people, papers and programs."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from dist_dash.comparison.grouping import Comparison, load_comparison
from dist_dash.comparison.machine_readable import as_csv, as_json
from dist_dash.comparison.markup import as_latex, as_markdown
from dist_dash.comparison.terminal import as_renderable
from dist_dash.errors import BadInput, require
from dist_dash.files import replacing
from dist_dash.runs.process import FINISHED, OneLine
from dist_dash.runs.record import say

WIDTH = 120  # where stdout is no terminal
FORMATS: dict[str, Callable[[Comparison], str]] = {
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
    "json": lambda comparison: json.dumps(as_json(comparison), indent=1, allow_nan=False) + "\n",
}
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}


def compare_parser() -> argparse.ArgumentParser:
    """The parser of `dist-dash compare`."""
    parser = OneLine(
        prog="dist-dash compare",
        allow_abbrev=False,
        description="Compare finished runs: mean and standard deviation over seeds, differences paired by seed with "
        "95 % intervals, cost beside quality. Runs with the same settings are a group; runs with different label noise "
        "are compared apart.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished runs, or folders with finished runs below")
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="a group that the others are compared with, may be given several times (default: those of groups.json, "
        "else plain SGD, else the first)",
    )
    parser.add_argument("--partial", action="store_true", help="go on without the runs that are not finished")
    parser.add_argument(
        "--equivalent",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="how many members a plain deep ensemble needs to be as good, from predictions.npz (default: where small)",
    )
    parser.add_argument(
        "--format", choices=["terminal", *FORMATS], default="terminal", help="of what is printed (default: terminal)"
    )
    parser.add_argument("--json", action="store_const", dest="format", const="json", help="the same as --format json")
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="PATH",
        help=f"also write a file, {', '.join(SUFFIXES)}; may be given several times",
    )
    return parser


def compare_command(arguments: Sequence[str]) -> int:
    """Compare, print, write; returns the exit status, 0.

    Raises:
        BadInput: what is given cannot be compared, or cannot be written to; nothing was written.
    """
    options = compare_parser().parse_args(arguments)
    outputs = [_checked(Path(path)) for path in options.output]
    comparison = load_comparison(
        [Path(run) for run in options.runs], options.partial, options.baseline, options.equivalent
    )
    with contextlib.ExitStack() as all_or_none:
        for path in outputs:
            all_or_none.enter_context(replacing(path)).write_text(FORMATS[SUFFIXES[path.suffix]](comparison))
    if options.format == "terminal":
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(as_renderable(comparison, console.width))
    else:
        sys.stdout.write(FORMATS[options.format](comparison))
        for note in comparison.notes:  # a CSV has no room for them
            say(f"compare: {note}")
    for path in outputs:
        say(f"compare: wrote {path}")
    return FINISHED


def _checked(path: Path) -> Path:
    """Refuse before the work what could not be written after it."""
    require(path.suffix in SUFFIXES, "output", str(path), f"a file that ends in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise BadInput(f"output: {path} is a folder; it must be a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise BadInput(f"output: {path} cannot be written ({error.strerror}); its folder must be writable") from error
