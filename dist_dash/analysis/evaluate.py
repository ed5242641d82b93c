"""A finished run's ensemble, evaluated: all ranks predict their shares, the first one scores."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from dist_dash.data.source import Split
from dist_dash.ensembles.evaluation import Evaluated, score_predictions
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.ensembles.predictor import agreeing, predict_split
from dist_dash.ranks.exchange import Exchange
from dist_dash.recipe.recipe import Loader
from dist_dash.runs.progress import tracked
from dist_dash.runs.record import say


def evaluate_run(
    path: str | Path, split: str = "test", write: bool = True, allow_code: Collection[str] = ()
) -> dict[str, Any]:
    """Evaluate a finished run's ensemble in this process.

    Args:
        path: the run.
        split: of its own data: `test`, `validation` or `train` (with the labels that were trained on).
        allow_code: see `load_ensemble`.
        write: keep scores and predictions in the run, as `RunFolder.evaluation_of` and `predictions_of` say.

    Returns:
        The content of `evaluation.json`.

    Raises:
        BadInput: the run is not finished, has no such split, its data cannot be read or are others, or no member's
            predictions are finite; nothing was written.
    """
    run = FinishedRun(path, allow_code)
    found = evaluated(run, run.data(say).evaluation_split(split), split)
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
        strict: refuse non-finite members, rather than leaving them out.
        exchange: joined; None for a lone process.

    Returns:
        On rank 0 what was found; None on the others.

    Raises:
        BadInput: a sample cannot be read, none can, or predictions are not finite; on all ranks alike.
    """
    stored = run.stored
    first = exchange is None or exchange.layout.rank == 0
    track = partial(tracked, what=f"evaluating {name}") if first else iter
    found = predict_split(stored, split, run.group("loader", Loader), exchange, track=track)
    with agreeing(exchange, "evaluation"):
        if found is None:
            return None
        seed, weights = run.recipe.get("seed"), stored.weights
        return score_predictions(found, name, seed, strict=strict, weights=weights, networks=stored.networks())
