"""The lines of `metrics.jsonl` as arrays: epochs, and a value per line and member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_dash.report.ledger import numbers

Array = NDArray[np.float64]
MOST_POINTS = 400


def per_member(lines: Sequence[Mapping[str, Any]], *names: str) -> tuple[Array, Array]:
    """Epochs `[lines]` and the values of one field `[lines, members]`, NaN where a number is missing.

    Args:
        lines: of one kind.
        names: the field, or the path to it.

    Returns:
        Lines that have the field for as many members as the last that has it at all; both are empty where none has.
    """
    found = [(line.get("epoch"), value) for line in lines if isinstance(value := _inner(line, names), list) and value]
    if not found:
        return np.empty(0), np.empty((0, 0))
    members = len(found[-1][1])
    kept = [(epoch, numbers(value)) for epoch, value in found if len(value) == members]
    return np.array(numbers([epoch for epoch, _ in kept])), np.array([values for _, values in kept])


def thinned(epochs: Array, values: Array, most: int = MOST_POINTS) -> tuple[Array, Array, int]:
    """Means over windows of equally many lines, so that at most `most` points are left.

    Args:
        epochs: `[lines]`.
        values: `[lines, members]`.
        most: points.

    Returns:
        Epochs and values of the windows, and lines per window; the last window may hold fewer. NaN spreads over its
        window: a gap is not averaged away.
    """
    window = max(1, -(-len(epochs) // most))
    starts = np.arange(0, len(epochs), window)
    if window == 1 or not len(starts):
        return epochs, values, window
    counts = np.diff(np.append(starts, len(epochs)))
    return np.add.reduceat(epochs, starts) / counts, np.add.reduceat(values, starts) / counts[:, None], window


def _inner(line: Mapping[str, Any], names: Sequence[str]) -> Any:
    value: Any = line
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
