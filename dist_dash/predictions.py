"""The file that predictions are kept in: `labels` int64 `[N]` (where known), `log_probs` float32 `[members, N, C]`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_dash.errors import BadInput
from dist_dash.evaluation.blocks import blocks_of
from dist_dash.run_folder import replacing


def save_predictions(path: Path, log_probs: NDArray[np.float32], labels: NDArray[np.int64] | None) -> None:
    """Write members' log-probabilities, and the labels where they are known; complete or not at all."""
    arrays: dict[str, NDArray] = {
        "log_probs": log_probs.astype(np.float32, copy=False),
        "probs": np.concatenate(
            [np.exp(log_probs[:, rows]).mean(0) for rows in blocks_of(log_probs.shape[1], log_probs[:, 0].size)]
        ),
    }
    if labels is not None:
        arrays["labels"] = labels.astype(np.int64, copy=False)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path, what: str) -> dict[str, NDArray]:
    """All arrays of an `.npz` file.

    Raises:
        BadInput: it is missing or no `.npz` of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"{what}: {path} is missing or not an .npz file of plain arrays ({type(error).__name__})"
        ) from error
