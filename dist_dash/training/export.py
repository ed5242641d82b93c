"""What a finished run hands out beside its members' weights: their names and shapes, predictions, scores."""

from __future__ import annotations

from dist_dash.data.dataset import DataSet
from dist_dash.ensembles.ensemble import save_spec
from dist_dash.ensembles.results import save_results
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
