"""Predictions of the samples of an `.npz` file, by an exported ensemble."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dist_dash.data.fitting import fitting_labels
from dist_dash.ensembles.ensemble import load_ensemble
from dist_dash.errors import BadInput, require, require_count
from dist_dash.files import check_writable
from dist_dash.metrics.predictions import load_arrays, save_predictions


def predict_file(run: str, source: str, output: str, batch_size: int, allow_code: Collection[str] = ()) -> int:
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
    ensemble = load_ensemble(run, allow_code=allow_code)
    x, y = arrays["x"], arrays.get("y")
    if y is not None:
        y = fitting_labels(y, len(x), ensemble.outline, "input: y")
    log_probs = ensemble.predict(x, batch_size).member_log_probs.numpy()
    save_predictions(target, log_probs, y, weights=ensemble.weights)
    return 0
