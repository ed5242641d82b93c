"""All members evaluated on a held-out split while they are in training; what is kept of it for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_dash.data.dataset import DataSet
from dist_dash.ensembles.split_predictions import predict_split
from dist_dash.files import replacing
from dist_dash.member.engine import Engine
from dist_dash.metrics.summary import evaluate
from dist_dash.ranks.exchange import Exchange
from dist_dash.recipe.recipe import Recipe
from dist_dash.runs.folder import RunFolder
from dist_dash.seeds import derived_seed
from dist_dash.training.build import evaluation_loader


@dataclass(frozen=True)
class HeldOut:
    """Predictions and scores of a split; on rank 0.

    Args:
        split: its name.
        samples: in the split, unreadable ones included.
        ids: positions in the split `[N]`.
        log_probs: `[members, N, C]`.
        labels: `[N]`.
        result: the content of `evaluation.json`.
    """

    split: str
    samples: int
    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    labels: NDArray[np.int64]
    result: dict[str, Any]

    @property
    def shown(self) -> dict[str, Any]:
        """What a line of `metrics.jsonl` says of it."""
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
        with replacing(folder.trace_at(step)) as temporary, temporary.open("wb") as file:
            parts = {"log_probs": self.log_probs[:, kept], "labels": self.labels[kept], "ids": self.ids[kept]}
            np.savez(file, **parts)  # type: ignore[arg-type]


def evaluate_split(
    recipe: Recipe,
    data: DataSet,
    engine: Engine,
    exchange: Exchange,
    split: str,
    *,
    calibrated: bool,
    stop_now: Callable[[], bool],
    tell: Callable[[str], None],
) -> tuple[list[int], HeldOut | None]:
    """Members whose predictions are not finite; and, on rank 0 where there are none, predictions and scores.

    Args:
        recipe: of the run.
        data: of the run.
        engine: this rank's.
        exchange: joined.
        split: `train`, `validation` or `test`.
        calibrated: also score after temperature scaling, which takes longest.
        stop_now: whether all ranks agreed to stop; asked at every batch.
        tell: takes a line for the record.

    Raises:
        Stopped: all ranks agreed to stop; nothing has changed.
    """
    layout = exchange.layout
    batches = evaluation_loader(recipe, data, layout, split)
    samples = len(batches.split)
    found = predict_split(engine, batches, samples, exchange, stop_now)
    for name in found.unreadable:
        tell(f"unreadable sample left out of the {split} split: {name}")
    sick = [] if found.log_probs is None else [i for i, p in enumerate(found.log_probs) if not np.isfinite(p).all()]
    sick = exchange.collect([layout.first_member + i for i in sick])[0]
    if sick or found.log_probs is None:
        return sick, None
    result = evaluate(found.log_probs, found.labels, split, recipe.seed, calibrated=calibrated)
    return sick, HeldOut(split, samples, found.ids, found.log_probs, found.labels, result)
