"""`dist-dash scaling`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine


def scaling_command(arguments: Sequence[str]) -> int:
    """Measure step time and efficiency by short runs over a grid of members × replicas, here or under Slurm."""
    from dist_dash.cluster.site import add_options

    parser = CommandLine(
        "scaling",
        description="Measure step time, efficiency, waiting, transfer and samples/s over members × replicas by short "
        "runs. What is not listed here goes to `dist-dash train`: --config, --method, …. The same command again goes "
        "on where it stopped. Exit status 75: runs are left; 1: runs have failed.",
    )
    parser.add_argument("--members", required=True, metavar="M1,M2,…", help="numbers of members")
    parser.add_argument("--replicas", default="1", metavar="R1,R2,…", help="ranks per member (default: 1)")
    parser.add_argument(
        "--scaling",
        metavar="weak,strong",
        help="weak: loader.batch_size per rank; strong: per member, shared by its replicas (default: weak, and strong "
        "where --replicas has several numbers)",
    )
    parser.add_argument("--steps", type=int, default=60, help="updates per run (default: 60)")
    parser.add_argument("--warm-up", type=int, default=10, help="of which the first are left out (default: 10)")
    parser.add_argument("--repeats", type=int, default=3, help="runs per point, in rounds over all points (default: 3)")
    parser.add_argument("--folder", help="of the study (default: runs/<recipe>-scaling)")
    parser.add_argument(
        "--executor", choices=["slurm", "here"], help="here: one run after the other (default: slurm where it is)"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        help="Slurm: jobs of the same number of ranks at once (default: 1, they would disturb each other); jobs of "
        "different numbers of ranks do not wait for each other, and --exclusive keeps them apart",
    )
    parser.add_argument("--exclusive", action="store_true", help="Slurm: whole nodes, shared with no other job")
    parser.add_argument("--no-wait", action="store_true", help="Slurm: submit and leave; --collect later")
    parser.add_argument("--collect", action="store_true", help="run nothing; show what there is")
    parser.add_argument("--dry-run", action="store_true", help="print commands or batch scripts and start nothing")
    parser.add_argument("--profile", metavar="FILE", help="of `dist-dash plan`: show the foreseen times beside")
    parser.add_argument("--json", action="store_true", help="print scaling.json instead of the table")
    add_options(parser)
    options, base = parser.parse_known_args(arguments)
    from dist_dash.cluster.scaling.run import measure_scaling

    return measure_scaling(options, base)
