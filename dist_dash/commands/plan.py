"""`dist-dash plan`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, of_recipe


def plan_command(arguments: Sequence[str]) -> int:
    """Foresee a run on any number of ranks: layout, time of an update by terms, memory, GPU-hours; or walk it."""
    parser = CommandLine(
        "plan",
        description="Foresee a run: who does what where, the time of an update as a sum of terms, memory, GPU-hours "
        "for each method, and where it stops scaling. Some updates are measured here, or taken from --profile. What is "
        "not listed here goes to `dist-dash train`: --config, --members, --method, …",
    )
    parser.add_argument("--nodes", type=int, required=True, help="number of nodes")
    parser.add_argument("--gpus-per-node", type=int, required=True, help="ranks per node, each with a GPU or on CPUs")
    parser.add_argument("--cores-per-node", type=int, help="for decoding, and for ranks on CPUs (default: enough)")
    parser.add_argument("--profile", metavar="FILE", help="what was measured before, in place of measuring here")
    parser.add_argument("--save-profile", metavar="FILE", help="keep what is measured for later plans")
    parser.add_argument("--steps", type=int, default=20, help="updates to measure here (default: 20)")
    parser.add_argument("--network", metavar="NAME=VALUE,…", help="α (µs) and β (GB/s) to assume: see docs/scaling.md")
    parser.add_argument("--straggling", metavar="NAME=VALUE,…", help="σ to assume: independent=0.03,persistent=0.02")
    parser.add_argument("--waits", metavar="RUN", help="fit σ to the record of this run, of one rank per member")
    parser.add_argument(
        "--every", type=int, default=5, help="k of the method that ascends every k-th time (default: 5)"
    )
    parser.add_argument("--picture", metavar="FILE", help="draw the terms and the efficiency: a .png or .svg file")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--dry-run", action="store_true", help="build chosen ranks, each with one small update")
    parser.add_argument("--ranks", metavar="R1,R2,…", help="of a dry run (default: first, last, one of each kind)")
    options, recipe_arguments = of_recipe(parser, arguments)
    from dist_dash.cluster.plan import plan

    return plan(options, recipe_arguments)
