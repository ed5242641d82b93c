"""What `evaluate` and `predict` do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dist_dash.data.dataset import DataSet
from dist_dash.data.loader import EvalLoader
from dist_dash.ensemble import load_ensemble
from dist_dash.errors import BadInput, require
from dist_dash.evaluation.summary import evaluate, table
from dist_dash.parsing import parse_command
from dist_dash.predictions import load_arrays, save_predictions
from dist_dash.run_folder import RunFolder, write_atomically


def evaluate_command(run: str | None, predictions: str | None, as_json: bool) -> int:
    """Evaluate a run's exported ensemble on its test split, or given predictions; prints the table or JSON."""
    if (run is None) == (predictions is None):
        raise BadInput("evaluate: give either a RUN or --predictions P.npz")
    result = _of_predictions(Path(predictions)) if predictions else _of_run(RunFolder(run or ""))
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(table(result))
    return 0


def predict_command(run: str, source: str, output: str, batch_size: int) -> int:
    """Predict the samples `x` of an `.npz` file and write `probs` `[N, C]` and `log_probs` `[members, N, C]`."""
    require(batch_size >= 1, "batch-size", batch_size, "a whole number ≥ 1")
    target = Path(output)
    require(target.parent.is_dir(), "output", output, "a file in a folder that exists")
    require(target.suffix == ".npz", "output", output, "an .npz file")
    arrays = load_arrays(Path(source), "input")
    if "x" not in arrays:
        raise BadInput(f"input: {source} holds {sorted(arrays)}; it must hold x, the samples [N, …]")
    x, y = arrays["x"], arrays.get("y")
    if x.dtype.kind not in "uif":
        raise BadInput(f"input: x holds {x.dtype}; it must hold numbers")
    if y is not None and (y.dtype.kind not in "ui" or y.shape != x.shape[:1]):
        raise BadInput(f"input: y holds {y.dtype} {y.shape}; it must hold a whole number per sample, {x.shape[:1]}")
    save_predictions(target, load_ensemble(run).predict(x, batch_size).member_log_probs.numpy(), y)
    return 0


def _of_predictions(path: Path) -> dict[str, Any]:
    arrays = load_arrays(path, "predictions")
    if not {"log_probs", "labels"} <= set(arrays):
        raise BadInput(
            f"predictions: {path} holds {sorted(arrays)}; it must hold log_probs [members, N, C] and labels [N]"
        )
    return evaluate(arrays["log_probs"], arrays["labels"], "given", None)


def _of_run(folder: RunFolder) -> dict[str, Any]:
    ensemble = load_ensemble(folder.path)
    if not folder.recipe.is_file():
        raise BadInput(f"run: {folder.path} has no recipe.yaml; it must be a run folder")
    recipe = parse_command(["--config", str(folder.recipe)]).recipe
    data = DataSet(recipe.data.load(), recipe.augment, seed=recipe.seed)
    log_probs, labels = [], []
    for batch in EvalLoader(data.test, batch_size=recipe.loader.batch_size, on_bad_sample=recipe.loader.on_bad_sample):
        log_probs.append(ensemble.predict(batch.x).member_log_probs[:, batch.valid].numpy())
        labels.append(batch.labels[batch.valid].numpy())
    found, known = np.concatenate(log_probs, axis=1), np.concatenate(labels)
    result = evaluate(found, known, "test", recipe.seed)
    folder.check_usable()
    save_predictions(folder.predictions, found, known)
    write_atomically(folder.evaluation, json.dumps(result, indent=1))
    return result
