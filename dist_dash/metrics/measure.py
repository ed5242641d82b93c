"""One pass over all predictions: what is known of each sample, of pairs of members, and the ensemble's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dist_dash.errors import BadInput
from dist_dash.metrics.accuracy import Doubles, Floats, Labels, as_doubles
from dist_dash.metrics.average import log_of_mean
from dist_dash.metrics.blocks import blocks_of, in_blocks
from dist_dash.metrics.diversity import Matrix, cross_terms, entropy_of
from dist_dash.metrics.scores import Samples


@dataclass(frozen=True)
class Measured:
    """What the pass finds.

    Args:
        members: per member.
        ensemble: of their mean.
        log_probs: the ensemble's log-probabilities `[N, C]`.
        cross: means over the samples of `Σ_c p_ic log p_jc` `[members, members]`.
        entropy: of the ensemble, mean over the samples, in nats.
    """

    members: list[Samples]
    ensemble: Samples
    log_probs: Doubles
    cross: Matrix
    entropy: float


def measured(log_probs: Floats, labels: Labels, kept: Sequence[int]) -> Measured:
    """Go over the predictions of the members that are kept.

    Args:
        log_probs: `[members, N, C]`; never copied as a whole.
        labels: `[N]`.
        kept: members, ascending; their predictions are numbers.

    Raises:
        BadInput: the probabilities of a sample do not add up to 1.
    """
    _, samples, classes = log_probs.shape
    width = len(kept) * classes
    count = len(blocks_of(samples, width))
    parts: list[list[Samples]] = [[] for _ in range(count)]
    cross, entropy = np.empty((count, len(kept), len(kept))), np.empty(samples)
    totals, ensemble = np.empty((len(kept), samples)), np.empty((samples, classes))

    def work(number: int, rows: slice) -> None:
        block = as_doubles(np.stack([log_probs[member, rows] for member in kept]))
        with np.errstate(over="ignore"):
            probs = np.exp(block)
        totals[:, rows] = probs.sum(-1)
        if not np.isfinite(totals[:, rows]).all():
            return  # refused below
        mean = log_of_mean(probs, block)
        ensemble[rows], mean_probs = mean, np.exp(mean)
        each = [Samples.seen(*pair, labels[rows]) for pair in zip(block, probs, strict=True)]
        parts[number] = [*each, Samples.seen(mean, mean_probs, labels[rows])]
        cross[number] = cross_terms(probs, block)
        entropy[rows] = entropy_of(mean_probs, mean)

    in_blocks(samples, width, work)
    _check_totals(totals, kept, 1e-3 + np.finfo(log_probs.dtype).eps * np.log(classes))
    *members, own = (Samples.joined(column) for column in zip(*parts, strict=True))
    return Measured(members, own, ensemble, cross.sum(0) / samples, float(entropy.mean()))


def _check_totals(totals: Doubles, kept: Sequence[int], tolerance: float) -> None:
    """Rounding log-probabilities to the input's type moves their sum by up to `eps / 2 · entropy ≤ eps · log C`."""
    wrong = ~(np.abs(totals - 1) <= tolerance)
    if wrong.any():
        row, sample = map(int, np.argwhere(wrong)[0])
        raise BadInput(
            f"predictions: log_probs of member {kept[row]}, sample {sample} are logarithms of probabilities that add "
            f"up to {totals[row, sample]:.6g}; they must add up to 1"
        )
