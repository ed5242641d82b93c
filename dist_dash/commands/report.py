"""`dist-dash report`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, add_allow_code
from dist_dash.runs.folder import PAGE


def report_command(arguments: Sequence[str]) -> int:
    """Write one HTML page about a run, or about a folder of runs."""
    parser = CommandLine(
        "report",
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
        help="FOLDER: a group that the others are compared with; may be given several times (default: those of "
        "groups.json, else plain SGD, else the first)",
    )
    add_allow_code(parser)
    options = parser.parse_args(arguments)
    from dist_dash.report.write import report

    given = options.run, options.output, options.without, options.partial, options.baseline
    return report(*given, allow_code=options.allow_code)
