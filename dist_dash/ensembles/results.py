"""What is kept of an ensemble's predictions: `predictions.npz`, `evaluation.json`, and the table on the terminal."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dist_dash.ensembles.ensemble import load_ensemble
from dist_dash.ensembles.weight_cosines import weight_cosines
from dist_dash.files import write_atomically
from dist_dash.metrics.predictions import save_predictions
from dist_dash.metrics.summary import with_weight_cosines
from dist_dash.metrics.table import table
from dist_dash.runs.folder import RunFolder


def save_results(
    folder: RunFolder, log_probs: NDArray[np.float32], labels: NDArray[np.int64], result: dict[str, Any]
) -> None:
    """Write predictions and their evaluation, and print the table; the folder holds the members already."""
    result = with_weight_cosines(result, weight_cosines(load_ensemble(folder.path).networks))
    save_predictions(folder.predictions, log_probs, labels)
    write_atomically(folder.evaluation, json.dumps(result, indent=1))
    Console().print(table(result))
