"""Predictions of the samples of an `.npz` file, by an exported ensemble."""

from __future__ import annotations

from pathlib import Path

from dist_dash.ensembles.ensemble import load_ensemble
from dist_dash.errors import BadInput, require, require_count
from dist_dash.files import check_writable
from dist_dash.metrics.predictions import load_arrays, save_predictions


def predict_file(run: str, source: str, output: str, batch_size: int) -> int:
    """Predict the samples `x` of an `.npz` file; writes `probs` `[N, C]` and `log_probs` `[members, N, C]`.

    Returns:
        The exit status, 0.

    Raises:
        BadInput: the file does not hold samples that the ensemble can take, or the output cannot be written.
    """
    require_count("batch-size", batch_size)
    target = Path(output)
    require(target.parent.is_dir(), "output", output, "a file in a folder that exists")
    require(target.suffix == ".npz", "output", output, "an .npz file")
    check_writable(target, "output")
    arrays = load_arrays(Path(source), "input")
    if "x" not in arrays:
        raise BadInput(f"input: {source} holds {sorted(arrays)}; it must hold x, the samples [N, …]")
    x, y = arrays["x"], arrays.get("y")
    if x.dtype.kind not in "uif":
        raise BadInput(f"input: x holds {x.dtype}; it must hold numbers")
    if y is not None and (y.dtype.kind not in "ui" or y.shape != x.shape[:1]):
        raise BadInput(f"input: y holds {y.dtype} {y.shape}; it must hold a whole number per sample, {x.shape[:1]}")
    ensemble = load_ensemble(run)
    log_probs = ensemble.predict(x, batch_size).member_log_probs.numpy()
    save_predictions(target, log_probs, y, weights=ensemble.weights)
    return 0
