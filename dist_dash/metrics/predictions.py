"""The file that predictions are kept in, see docs/predictions-format.md."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dist_dash.errors import BadInput
from dist_dash.files import replacing
from dist_dash.metrics.blocks import in_blocks
from dist_dash.metrics.mixture import mean_over_members, normalised, weights_of


def save_predictions(
    path: Path,
    log_probs: NDArray[np.floating],
    labels: NDArray[np.integer] | None,
    left_out: Collection[int] = (),
    weights: NDArray[np.float64] | None = None,
) -> None:
    """Write predictions, complete or not at all.

    Args:
        path: of the file.
        log_probs: of the members `[members, N, C]`; written as float32, with their mean softmax `probs` `[N, C]`.
        labels: `[N]`, where they are known.
        left_out: non-finite members, which have no part in the mean.
        weights: of the members, adding up to 1, written where they are given; None for equal ones.
    """
    arrays: dict[str, NDArray] = {
        "log_probs": log_probs.astype(np.float32, copy=False),
        "probs": _mean_softmax(log_probs, [one for one in range(len(log_probs)) if one not in left_out], weights),
    }
    if weights is not None:
        arrays["weights"] = weights
    if labels is not None:
        arrays["labels"] = labels.astype(np.int64, copy=False)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _mean_softmax(
    log_probs: NDArray[np.floating], members: list[int], weights: NDArray[np.float64] | None
) -> NDArray[np.float32]:
    _, samples, classes = log_probs.shape
    shares = weights_of(members, weights)
    found = np.empty((samples, classes), np.float32)

    def work(_: int, rows: slice) -> None:
        block = np.stack([log_probs[member, rows] for member in members])
        found[rows] = mean_over_members(np.exp(block, dtype=np.float64), shares)

    in_blocks(samples, len(members) * classes, work)
    return found


class Predictions(NamedTuple):
    """What a file of predictions holds.

    Args:
        log_probs: `[members, N, C]`.
        labels: `[N]`.
        weights: of the members, adding up to 1; None where all count equally.
    """

    log_probs: NDArray
    labels: NDArray
    weights: NDArray[np.float64] | None


def load_predictions(path: Path, what: str) -> Predictions:
    """Read a file of predictions and labels; what is in them is not checked.

    Raises:
        BadInput: it is missing, holds something else, or weights that are not one positive number per member.
    """
    arrays = load_arrays(path, what)
    if not {"log_probs", "labels"} <= set(arrays):
        held = f"{path} holds {sorted(arrays)}; it must hold log_probs [members, N, C] and labels [N]"
        raise BadInput(f"{what}: {held}")
    log_probs = arrays["log_probs"]
    weights = normalised(arrays.get("weights"), len(log_probs) if log_probs.ndim else 0, f"{what}: weights")
    return Predictions(log_probs, arrays["labels"], weights)


def load_arrays(path: Path, what: str) -> dict[str, NDArray]:
    """All arrays of an `.npz` file.

    Raises:
        BadInput: it is missing or no `.npz` of plain arrays.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if len({*file.files}) < len(file.files):
                raise ValueError("an array stands there twice")
            return {name: file[name] for name in file.files}
    except Exception as error:  # a damaged file may bring forth anything, such as sizes that no memory holds
        raise BadInput(
            f"{what}: {path} is missing or not an .npz file of plain arrays ({type(error).__name__})"
        ) from error
