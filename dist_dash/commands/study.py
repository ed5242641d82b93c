"""`dist-dash study`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine


def study_command(arguments: Sequence[str]) -> int:
    """Choose every method's settings on validation data, run all seeds, compare and report."""
    parser = CommandLine(
        "study",
        description="Compare methods fairly: each chooses its settings on validation data among as many trials, then "
        "all are run with the same seeds under every condition. The same command again goes on where it stopped.",
    )
    parser.add_argument("study", help="a YAML file, such as launch/recipes/study_digits.yaml")
    parser.add_argument("--folder", help="of all runs (default: runs/<name of the file>)")
    parser.add_argument("--results", help="folder for the table, the report and what was chosen (default: FOLDER)")
    parser.add_argument("--groups", type=int, help="runs at a time (default: cores // members, at least 1)")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be run")
    options = parser.parse_args(arguments)
    from dist_dash.study.run import run_study

    return run_study(options.study, options.folder, options.results, options.groups, options.dry_run)
