"""`dist-dash flatness`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, add_allow_code


def flatness_command(arguments: Sequence[str]) -> int:
    """Measure how flat the loss is around each member of a finished run."""
    parser = CommandLine(
        "flatness",
        description="Measure how flat the loss is around each member of a finished run: its rise at the worst point "
        "within a ball, at random points on it, the Hessian's largest eigenvalue and trace. Networks are in evaluation "
        "mode, the loss is cross-entropy without smoothing or mixup, samples are not augmented.",
    )
    parser.add_argument("run", help="a finished run")
    parser.add_argument("--rho", type=float, default=0.05, help="radius of the ball (default: 0.05)")
    parser.add_argument("--steps", type=int, default=5, help="of the ascent to the worst point (default: 5)")
    parser.add_argument("--samples", type=int, default=500, help="of the split, always the same (default: 500)")
    parser.add_argument(
        "--split",
        choices=["train", "test", "validation"],
        default="train",
        help="train: with the labels that were trained on, noise included (default)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of samples, directions and probes (default: 0)")
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, help="of the eigenvalue's relative residual (default: 1e-3)"
    )
    parser.add_argument("--probes", type=int, default=100, help="at most, for the trace (default: 100)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="(default: float64 on a CPU, else float32)")
    parser.add_argument("--batch-size", type=int, help="samples at once (default: as many as fit into 2 GiB)")
    parser.add_argument("--json", action="store_true", help="print flatness.json instead of the table")
    add_allow_code(parser)
    options = parser.parse_args(arguments)
    from dist_dash.analysis.flatness.run import measure_and_show

    return measure_and_show(options)
