"""Predictions of a split with their scores, and what is kept of them: files, a trace for the report, the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from dist_dash.ensembles.predictor import Predicted
from dist_dash.ensembles.weight_cosines import weight_cosines
from dist_dash.errors import BadInput
from dist_dash.files import replacing, write_json
from dist_dash.metrics.predictions import save_predictions
from dist_dash.metrics.summary import evaluate
from dist_dash.metrics.table import table
from dist_dash.runs.folder import RunFolder
from dist_dash.seeds import derived_seed


@dataclass(frozen=True)
class Evaluated:
    """Predictions and scores of a split; where several ranks take part, rank 0 alone has them.

    Args:
        samples: in the split, unreadable ones included.
        ids: positions in the split `[N]`.
        log_probs: `[members, N, C]`.
        labels: `[N]`.
        result: the content of `evaluation.json`.
        unreadable: names of samples that were passed over.
        weights: of the members, adding up to 1; None for equal ones.
    """

    samples: int
    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    labels: NDArray[np.int64]
    result: dict[str, Any]
    unreadable: list[str] = field(default_factory=list)
    weights: NDArray[np.float64] | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """What a line of `metrics.jsonl` holds of it."""
        shown = {key: self.result[key] for key in ("split", "ensemble", "members")}
        return {**shown, "diversity": {k: v for k, v in self.result["diversity"].items() if k != "pairwise"}}

    def keep_trace(self, folder: RunFolder, step: int, most: int) -> None:
        """Write the predictions of at most `most` samples, the same ones each time, to `trace/`."""
        if most < self.samples:
            generator = np.random.default_rng(derived_seed("trace", self.samples))
            kept = np.isin(self.ids, generator.choice(self.samples, most, replace=False))
        else:
            kept = np.ones(len(self.ids), bool)
        folder.trace.mkdir(exist_ok=True)
        save_trace(folder.trace_at(step), self.log_probs[:, kept], self.labels[kept], self.ids[kept])

    def save(self, evaluation: Path, predictions: Path) -> None:
        """Write both; each complete or not at all."""
        save_predictions(predictions, self.log_probs, self.labels, self.result["left_out"], self.weights)
        write_json(evaluation, self.result, allow_nan=False)


def score_predictions(
    found: Predicted,
    split: str,
    seed: int | None,
    *,
    calibrated: bool = True,
    strict: bool = False,
    weights: NDArray[np.float64] | None = None,
    networks: Iterable[nn.Module] = (),
) -> Evaluated:
    """Score predictions.

    Args:
        found: by `predict_split`.
        split: name of the split.
        seed: of the run.
        calibrated: also score after temperature scaling, which takes longest.
        strict: refuse non-finite members, rather than leaving them out.
        weights: of the members, adding up to 1; None for equal ones.
        networks: the members, for the cosines between their weights; none where those are not asked for.

    Raises:
        BadInput: no sample can be read, or predictions are not finite.
    """
    if not found.read.any():
        raise BadInput(f"data: none of {len(found.read)} samples of the {split} split can be read")
    members = list(networks)
    cosines = weight_cosines(members) if members else None
    options: dict[str, Any] = {"calibrated": calibrated, "strict": strict, "weights": weights}
    result = evaluate(found.log_probs, found.labels, split, seed, weight_cosines=cosines, **options)
    return Evaluated(len(found.read), found.ids, found.log_probs, found.labels, result, found.unreadable, weights)


def save_results(folder: RunFolder, found: Evaluated) -> None:
    """Write the predictions of the test split and their evaluation into a run, and print the table."""
    found.save(folder.evaluation, folder.predictions)
    Console().print(table(found.result))


def save_trace(path: Path, log_probs: NDArray[np.float32], labels: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
    """Write the predictions of a few samples of an evaluation, complete or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, log_probs=log_probs, labels=labels, ids=ids)
