"""`dist-dash array`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, of_recipe


def array_command(arguments: Sequence[str]) -> int:
    """Submit a sweep to Slurm: one run folder per point."""
    from dist_dash.cluster.site import add_options

    parser = CommandLine(
        "array",
        description="Submit a sweep to Slurm. What is not listed here goes to `dist-dash train`: --config, --epochs, …",
    )
    parser.add_argument("--sweep", action="append", default=[], help="FIELD=V1,V2,… or FIELD=A..B; once per field")
    parser.add_argument("--folder", help="where the runs go (default: runs/<recipe>-sweep)")
    parser.add_argument("--parallel", type=int, help="jobs that run at once (default: no limit but Slurm's)")
    parser.add_argument(
        "--scatter", action="store_true", help="members of methods without exchange as jobs of their own"
    )
    parser.add_argument("--watch", action="store_true", help="show the runs' states until all have ended")
    parser.add_argument("--dry-run", action="store_true", help="print the batch scripts and submit nothing")
    add_options(parser)
    options, recipe_arguments = of_recipe(parser, arguments)
    from dist_dash.cluster.array import submit_sweep

    return submit_sweep(options, recipe_arguments)
