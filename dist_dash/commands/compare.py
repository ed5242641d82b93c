"""`dist-dash compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine


def compare_command(arguments: Sequence[str]) -> int:
    """Compare finished runs, for people, papers and programs."""
    parser = CommandLine(
        "compare",
        description="Compare finished runs: mean and standard deviation over seeds, differences paired by seed with "
        "95 % intervals, cost beside quality. Runs with the same settings form a group; runs with different label "
        "noise are compared separately.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished runs, or folders with finished runs below")
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="a group that the others are compared with; may be given several times (default: those of groups.json, "
        "else plain SGD, else the first)",
    )
    parser.add_argument("--partial", action="store_true", help="go on without the runs that are not finished")
    parser.add_argument(
        "--equivalent",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="how many members a plain deep ensemble needs to be as good, from predictions.npz (default: where small)",
    )
    formats = ["terminal", "markdown", "latex", "csv", "json"]
    parser.add_argument("--format", choices=formats, default="terminal", help="of what is printed (default: terminal)")
    parser.add_argument("--json", action="store_const", dest="format", const="json", help="the same as --format json")
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="PATH",
        help="also write a file: .md, .tex, .csv, .json; may be given several times",
    )
    options = parser.parse_args(arguments)
    from dist_dash.comparison.show import compare

    return compare(options.runs, options.partial, options.baseline, options.equivalent, options.format, options.output)
