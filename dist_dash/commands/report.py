"""`dist-dash report`: one HTML file about a run, or about a folder of runs that are compared."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from dist_dash.errors import BadInput, require
from dist_dash.runs.folder import PAGE, PICTURES, RunFolder
from dist_dash.runs.process import FINISHED, OneLine
from dist_dash.runs.record import say


def report_parser() -> argparse.ArgumentParser:
    """The parser of `dist-dash report`."""
    parser = OneLine(
        prog="dist-dash report",
        allow_abbrev=False,
        description="Write one self-contained HTML page about a finished run, or a comparison of the runs in a folder, "
        "and each of its pictures as PNG, SVG and CSV into the folder report/ beside it.",
    )
    parser.add_argument("run", metavar="RUN|FOLDER", help="a finished run; or a folder with finished runs, to compare")
    parser.add_argument("--output", help=f"the page (default: {PAGE} in RUN or FOLDER)")
    parser.add_argument(
        "--without", default="", metavar="PART,PART,…", help="parts that are left out, such as landscape"
    )
    parser.add_argument("--partial", action="store_true", help="FOLDER: go on without the runs that are not finished")
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="FOLDER: a group that the others are compared with, may be given several times (default: those of "
        "groups.json, else plain SGD, else the first)",
    )
    return parser


def report_command(arguments: Sequence[str]) -> int:
    """Write the page and its pictures; prints where the page is.

    Returns:
        The exit status, 0.

    Raises:
        BadInput: there is no finished run, its files hold something else than they should, or an option is wrong.
    """
    options = report_parser().parse_args(arguments)
    path = Path(options.run)
    require(path.is_dir(), "run", options.run, "a finished run, or a folder of them")
    output = _checked(Path(options.output) if options.output is not None else path / PAGE)
    without = [name for name in options.without.split(",") if name]
    if RunFolder(path).recipe.exists():
        if options.partial or options.baseline:
            raise BadInput(f"run: {path} is one run; --partial and --baseline are for folders of runs")
        from dist_dash.report.catalogue import PARTS
        from dist_dash.report.run_page import report_of_run

        _check_parts(without, [part.name for part in PARTS])
        report_of_run(path, output, without)
    else:
        from dist_dash.report.catalogue import FOLDER_PARTS
        from dist_dash.report.folder_page import report_of_folder

        _check_parts(without, [part.name for part in FOLDER_PARTS])
        report_of_folder(path, output, without, options.partial, options.baseline)
    say(f"report: pictures and their data are in {path / PICTURES}")
    print(output)
    return FINISHED


def _checked(output: Path) -> Path:
    """Refuse before the work what could not be written after it."""
    require(output.suffix in (".html", ".htm"), "output", str(output), "a file that ends in .html")
    if output.is_dir():
        raise BadInput(f"output: {output} is a folder; it must be a file")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise BadInput(f"output: {output} cannot be written; it must be a file in a folder that exists")
    return output


def _check_parts(given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        require(name in known, "without", name, f"one of {', '.join(known)}")
