"""`dist-dash runs`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine


def runs_command(arguments: Sequence[str]) -> int:
    """Show the states of the runs below a folder."""
    parser = CommandLine("runs", description="List the runs below a folder with their states.")
    parser.add_argument("folder", help="a folder with run folders in it, at any depth; or a run folder")
    parser.add_argument("--watch", action="store_true", help="show the table until no run is queued or running")
    parser.add_argument("--json", action="store_true", help="print the states as JSON instead of the table")
    options = parser.parse_args(arguments)
    from dist_dash.runs.view import show_runs

    return show_runs(options.folder, options.json, options.watch)
