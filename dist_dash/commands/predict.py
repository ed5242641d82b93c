"""`dist-dash predict`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, add_allow_code


def predict_command(arguments: Sequence[str]) -> int:
    """Predict the samples of an `.npz` file with an exported ensemble."""
    parser = CommandLine("predict", description="Predict the samples of an .npz file with an exported ensemble.")
    parser.add_argument("run", help="a finished run, or its ensemble folder")
    parser.add_argument("input", help="an .npz file with x [N, …] as stored in the training data, optionally y [N]")
    parser.add_argument("--output", required=True, help="the .npz file to write: probs, log_probs (and labels)")
    parser.add_argument("--batch-size", type=int, default=512, help="samples at once (default: 512)")
    add_allow_code(parser)
    options = parser.parse_args(arguments)
    from dist_dash.ensembles.predict_file import predict_file

    return predict_file(options.run, options.input, options.output, options.batch_size, options.allow_code)
