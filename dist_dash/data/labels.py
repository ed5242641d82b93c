"""Labels: which samples are held out for validation, and which get a wrong class on purpose."""

from __future__ import annotations

import numpy as np

from dist_dash.data.rng import LABEL_NOISE, VALIDATION, sample_rng
from dist_dash.errors import BadInput, require_fraction


def with_symmetric_noise(
    labels: np.ndarray, rate: float, classes: int, seed: int, *, field: str = "labels.noise"
) -> tuple[np.ndarray, np.ndarray]:
    """Give exactly `round(rate * N)` randomly chosen samples a uniformly random *other* class.

    `labels`: int64 `[N]`. Returns the noisy labels, int64 `[N]`, and which of them were changed, bool `[N]`. A pure
    function of its arguments. Raises `BadInput` unless `rate` lies in [0, 1).
    """
    require_fraction(field, rate)
    rng = sample_rng(seed, 0, 0, LABEL_NOISE)
    flipped = np.zeros(len(labels), dtype=bool)
    flipped[rng.permutation(len(labels))[: round(rate * len(labels))]] = True
    shift = rng.integers(1, classes, size=len(labels))
    return np.where(flipped, (labels + shift) % classes, labels), flipped


def split_validation(
    labels: np.ndarray, fraction: float, seed: int, *, stream: int = VALIDATION, field: str = "labels.validation"
) -> tuple[np.ndarray, np.ndarray]:
    """Cut `round(fraction * N)` samples off, the same share of every class to within one sample.

    `labels`: int64 `[N]`. Returns the indices kept and the indices held out, int64, each in rising order; together they
    are 0 … N-1. Every class keeps at least one sample. A pure function of its arguments. Raises `BadInput` unless
    `fraction` lies in [0, 1), or if a positive one holds nothing out.
    """
    require_fraction(field, fraction)
    rng = sample_rng(seed, 0, 0, stream)
    counts = np.bincount(labels)
    exact = counts * fraction
    take = np.floor(exact).astype(np.int64)
    # The largest remainders get the samples that rounding down left over; ties go to the lower class.
    missing = round(fraction * len(labels)) - int(take.sum())
    take[np.argsort(take - exact, kind="stable")[: max(missing, 0)]] += 1
    take = np.minimum(take, np.maximum(counts - 1, 0))
    if fraction > 0 and take.sum() == 0:
        raise BadInput(f"{field}: {fraction!r} of {len(labels)} samples holds none out; give a larger fraction, or 0")
    held_out = np.zeros(len(labels), dtype=bool)
    for label, number in enumerate(take):
        members = np.flatnonzero(labels == label)
        held_out[rng.permutation(members)[:number]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
