"""All members evaluated on a held-out split: on the way with their present weights, at the end as exported."""

from __future__ import annotations

from collections.abc import Callable

from dist_dash.data.dataset import DataSet
from dist_dash.data.time_limit import TimeLimit
from dist_dash.ensembles.ensemble import StoredEnsemble
from dist_dash.ensembles.evaluation import Evaluated, score_predictions
from dist_dash.ensembles.predictor import Members, predict_split
from dist_dash.metrics.mixture import non_finite_members
from dist_dash.ranks.exchange import Exchange
from dist_dash.recipe.recipe import Recipe


def evaluate_split(
    recipe: Recipe,
    data: DataSet,
    members: Members,
    exchange: Exchange,
    split: str,
    *,
    first: int,
    stop_now: Callable[[], bool],
    limit: TimeLimit,
    tell: Callable[[str], None],
) -> tuple[list[int], Evaluated | None]:
    """Non-finite members; and, on rank 0 where there are none, predictions and scores.

    Exported members are scored completely; those in training without temperature scaling, which takes longest, and
    without the cosines between their weights.

    Args:
        recipe: of the run.
        data: of the run.
        members: the networks.
        exchange: joined.
        split: `train`, `validation` or `test`.
        first: number of the first of these members in the whole ensemble.
        stop_now: whether all ranks agreed to stop; asked at every batch.
        limit: with samples that do not come.
        tell: takes a line for the record.

    Raises:
        Stopped: all ranks agreed to stop; nothing has changed.
    """
    found = predict_split(members, data.evaluation_split(split), recipe.loader, exchange, stop_now, limit)
    for name in found.unreadable if found else []:
        tell(f"unreadable sample left out of the {split} split: {name}")
    non_finite = [first + member for member in non_finite_members(found.log_probs)] if found else []
    non_finite = exchange.collect(non_finite)[0]
    with exchange.together("evaluation"):
        if non_finite or found is None:
            return non_finite, None
        if isinstance(members, StoredEnsemble):
            return [], score_predictions(
                found, split, recipe.seed, weights=members.weights, networks=members.networks()
            )
        return [], score_predictions(found, split, recipe.seed, calibrated=False)
