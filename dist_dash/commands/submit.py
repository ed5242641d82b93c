"""`dist-dash submit`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, of_recipe


def submit_command(arguments: Sequence[str]) -> int:
    """Submit one run to Slurm; or run it here by the same job object."""
    from dist_dash.cluster.site import add_options

    parser = CommandLine(
        "submit",
        description="Submit a run to Slurm. What is not listed here goes to `dist-dash train`: --config, --run, …",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the batch script and submit nothing")
    parser.add_argument("--executor", choices=["slurm", "local"], default="slurm", help="local: run the job here")
    add_options(parser)
    options, recipe_arguments = of_recipe(parser, arguments)
    from dist_dash.cluster.submit import submit_run

    return submit_run(options, recipe_arguments)
