"""`dist-dash evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, add_allow_code, without_fields
from dist_dash.runs.folder import SPLITS
from dist_dash.runs.process import quiet_torch


def evaluate_command(arguments: Sequence[str]) -> int:
    """Score a finished run's ensemble, or given predictions."""
    parser = CommandLine(
        "evaluate",
        description="Score a finished run's ensemble, each member and the member mean: accuracy, NLL, Brier, "
        "calibration error, accuracy over coverage, each also after temperature scaling (fitted on one half of the "
        "samples and applied to the other, both ways, 5 random splits); and how members differ. Under torchrun, ranks "
        "share members and samples: torchrun --nproc-per-node 4 -m dist_dash -- evaluate RUN",
        epilog="Writes evaluation.json and predictions.npz into the run; of another split, evaluation_SPLIT.json and "
        "predictions_SPLIT.npz; of other data nothing, unless --output says where.",
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a finished run")
    parser.add_argument(
        "--split", choices=SPLITS, help="(default: test); train has the labels trained on, noise included"
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="other samples of the same shape and classes: a data source as in recipes, with its fields as "
        "--data.field value, such as --data Arrays --data.path new.npz; or an .npz file with x [N, …] and y [N]",
    )
    parser.add_argument(
        "--predictions", metavar="P.npz", help="instead of a run: log_probs [members, N, C], labels [N]"
    )
    parser.add_argument("--strict", action="store_true", help="refuse members whose predictions are not finite")
    parser.add_argument("--output", metavar="FOLDER", help="where to write evaluation.json and predictions.npz")
    parser.add_argument("--json", action="store_true", help="print evaluation.json instead of the tables")
    add_allow_code(parser)
    ours, fields = without_fields(arguments, "data")
    options = parser.parse_args(ours)
    quiet_torch()
    from dist_dash.analysis.evaluate_run import evaluate_run

    return evaluate_run(options, fields)
