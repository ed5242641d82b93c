"""What a finished run hands out beside its members' weights: their names and shapes, predictions, scores."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dist_dash.data.dataset import DataSet
from dist_dash.ensembles.ensemble import load_ensemble, save_spec
from dist_dash.ensembles.weight_cosines import weight_cosines
from dist_dash.files import write_atomically
from dist_dash.metrics.predictions import save_predictions
from dist_dash.metrics.summary import with_weight_cosines
from dist_dash.metrics.table import table
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.parsing import Command
from dist_dash.runs.folder import RunFolder
from dist_dash.training.held_out import HeldOut


def export(folder: RunFolder, command: Command, layout: Layout, data: DataSet, found: HeldOut) -> None:
    """Write `ensemble.json`, `predictions.npz` and `evaluation.json`, and print the table; on rank 0.

    Args:
        folder: the run's; its `ensemble/` holds the weights of the members that were trained here.
        command: has their architectures.
        layout: rank 0's.
        data: shapes, classes, statistics.
        found: what the members say of the test split.
    """
    architectures = command.resolved["models"] or [command.resolved["model"]] * layout.ensemble_members
    here = range(layout.first_member, layout.first_member + layout.members)
    members = [{"file": folder.weights(i), "architecture": architectures[i]} for i in here]
    numbers = {"mean": list(data.mean), "std": list(data.std), "uint8": data.uint8}
    names = {"classes": data.classes, "class_names": data.class_names, "shape": list(data.shape)}
    save_spec(folder.ensemble, members, **names, **numbers)
    save_results(folder, found.log_probs, found.labels, found.result)


def save_results(
    folder: RunFolder, log_probs: NDArray[np.float32], labels: NDArray[np.int64], result: dict[str, Any]
) -> None:
    """Write predictions and their evaluation, and print the table; the folder holds the members already."""
    result = with_weight_cosines(result, weight_cosines(load_ensemble(folder.path).networks))
    save_predictions(folder.predictions, log_probs, labels)
    write_atomically(folder.evaluation, json.dumps(result, indent=1))
    Console().print(table(result))
