"""Labels: which class each one means, which samples are held out for validation, and which get a wrong class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dist_dash.data.rng import LABEL_NOISE, VALIDATION, sample_rng
from dist_dash.errors import BadInput, require, require_fraction

_SHOWN = 8


class ClassNumbers(NamedTuple):
    """Labels of every split as numbers of classes from 0, int64 `[N]`; how many classes; and their names, if any."""

    labels: dict[str, np.ndarray]
    classes: int
    class_names: list[str] | None


def class_numbers(stored: dict[str, np.ndarray], first_label: int, compact_labels: bool) -> ClassNumbers:
    """Number the classes from 0: every one of them has a training sample.

    Args:
        stored: integers `[N]` for each split, among them `train`.
        first_label: the label of the first class; those of the others follow without a gap.
        compact_labels: take the labels that occur in training as they are, in rising order.

    Returns:
        Classes with names where their numbers differ from the labels as stored.

    Raises:
        BadInput: the labels do not start there, have gaps, or one occurs in another split than `train` only.
    """
    labels = {name: split.astype(np.int64) for name, split in stored.items()}
    known = np.unique(labels["train"])
    require(len(known) >= 2, "data: classes in the training labels", len(known), "at least 2")
    low, high = int(known[0]), int(known[-1])
    if not compact_labels and (low != first_label or high - low + 1 != len(known)):
        shown = ", ".join(map(str, known[:_SHOWN])) + (", …" if len(known) > _SHOWN else "")
        if low >= 0 and high - low + 1 == len(known):
            raise BadInput(f"data: labels in the train split run from {low} to {high}; give --data.first_label {low}")
        negative = f"label {low} in the train split; " if low < 0 else ""
        raise BadInput(
            f"data: {negative}labels there are {shown} and must follow each other from {first_label}; "
            "--data.compact_labels true numbers them from 0 and names the classes after them"
        )
    for name, split in labels.items():
        unknown = np.setdiff1d(split, known)
        if len(unknown):
            raise BadInput(
                f"data: label {unknown[0]} in the {name} split has no sample in the train split, whose labels run from "
                f"{low} to {high}; add such samples there, or take them out here"
            )
    same = low == 0 and high + 1 == len(known)
    numbers = {name: np.searchsorted(known, split) for name, split in labels.items()}
    return ClassNumbers(numbers, len(known), None if same else [str(label) for label in known])


def check_every_class(labels: np.ndarray, classes: int, class_names: list[str] | None) -> None:
    """Raise `BadInput` unless each of the classes has a sample. `labels`: int64 `[N]`."""
    without = np.setdiff1d(np.arange(classes), labels)
    if len(without):
        name = f" ({class_names[without[0]]})" if class_names else ""
        raise BadInput(
            f"data: {len(without)} of {classes} classes have no training sample, the first of them {without[0]}{name}; "
            "add samples, or leave these classes out"
        )


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
