"""A finished run's ensemble, evaluated: all ranks predict their shares, the first one scores."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dist_dash.data.source import Split
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.ensembles.predict_all import predictions_of_all
from dist_dash.ensembles.weight_cosines import weight_cosines
from dist_dash.errors import BadInput
from dist_dash.files import write_atomically
from dist_dash.metrics.predictions import save_predictions
from dist_dash.metrics.summary import evaluate
from dist_dash.ranks.exchange import Exchange
from dist_dash.recipe.recipe import Loader

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluated:
    """Predictions and scores of a split.

    Args:
        result: the content of `evaluation.json`.
        log_probs: `[members, N, C]`.
        labels: `[N]`.
        unreadable: names of samples that were passed over.
    """

    result: dict[str, Any]
    log_probs: NDArray[np.float32]
    labels: NDArray[np.int64]
    unreadable: list[str]

    def save(self, evaluation: Path, predictions: Path) -> None:
        """Write both; each complete or not at all."""
        save_predictions(predictions, self.log_probs, self.labels, self.result["left_out"])
        write_atomically(evaluation, json.dumps(self.result, indent=1, allow_nan=False))


def evaluate_run(path: str | Path, split: str = "test", write: bool = True) -> dict[str, Any]:
    """Evaluate a finished run's ensemble in this process.

    Args:
        path: the run.
        split: of its own data: `test`, `validation` or `train` (with the labels that were trained on).
        write: keep scores and predictions in the run, as `RunFolder.evaluation_of` and `predictions_of` say.

    Returns:
        The content of `evaluation.json`.

    Raises:
        BadInput: the run is not finished, has no such split, its data cannot be read, or no member's predictions are
            finite; nothing was written.
    """
    run = FinishedRun(path)
    found = evaluated(run, run.data().evaluation_split(split), split)
    assert found is not None  # there are no other ranks
    if write:
        found.save(run.folder.evaluation_of(split), run.folder.predictions_of(split))
    return found.result


def evaluated(
    run: FinishedRun, split: Split, name: str, *, strict: bool = False, exchange: Exchange | None = None
) -> Evaluated | None:
    """Evaluate a finished run's ensemble on samples; on all ranks where there are several.

    The figures do not depend on the number of ranks: every batch of samples is one that a lone process would make.

    Args:
        run: whose members predict.
        split: the samples.
        name: of the split.
        strict: refuse members whose predictions are not finite, rather than leaving them out.
        exchange: joined; None for a lone process.

    Returns:
        On rank 0 what was found; None on the others.

    Raises:
        BadInput: a sample cannot be read, none can, or predictions are not finite; on all ranks alike.
    """
    ensemble, seed = run.ensemble(), run.recipe.get("seed")
    found = predictions_of_all(ensemble, split, run.group("loader", Loader), exchange)
    with agreeing(exchange, "evaluation"):
        if found is None:
            return None
        if not found.read.any():
            raise BadInput(f"data: none of {len(split)} samples of the {name} split can be read")
        log_probs, labels = found.log_probs, split.labels
        if not found.read.all():
            log_probs, labels = log_probs[:, found.read], labels[found.read]
        cosines = weight_cosines(ensemble.networks)
        result = evaluate(log_probs, labels, name, seed, strict=strict, weight_cosines=cosines)
        return Evaluated(result, log_probs, labels, found.unreadable)


def agreeing(exchange: Exchange | None, what: str) -> contextlib.AbstractContextManager[None]:
    """All ranks succeed at the body, or all leave with the first failing rank's error; nothing for a lone process."""
    return exchange.together(what) if exchange else contextlib.nullcontext()
