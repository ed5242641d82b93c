"""Predictions that runs kept over training, how far apart they are, and their places in a plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.metrics.mixture import entropy_of
from dist_dash.metrics.predictions import load_arrays
from dist_dash.report.picture import NotHere

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class KeptPredictions:
    """What a run kept of its members' predictions.

    Args:
        steps: updates after which, ascending `[T]`.
        log_probs: `[T, members, n, C]`.
        ids: of the samples, ascending `[n]`.
        labels: theirs `[n]`.
    """

    steps: list[int]
    log_probs: Floats
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def read_trace(run: FinishedRun) -> KeptPredictions:
    """The predictions that a run kept over training, on the samples that all its evaluations share.

    Raises:
        NotHere: it kept none, or they cannot be used.
    """
    files = sorted(run.folder.trace.glob("step_*.npz"))
    found = {}
    try:
        for file in files:
            arrays = load_arrays(file, "run")
            if np.isnan(arrays["log_probs"]).any():
                continue
            found[int(file.stem[5:])] = arrays
        if len(found) < 2:
            raise NotHere(
                f"{run.path.name} kept the predictions of {len(found)} evaluations during training; two are needed "
                "(record.trace, record.evaluate_every)."
            )
        shared = set.intersection(*(set(arrays["ids"].tolist()) for arrays in found.values()))
        ids = np.array(sorted(shared), dtype=np.int64)
        rows = [_rows_of(arrays["ids"], ids) for arrays in found.values()]
        log_probs = np.stack([a["log_probs"][:, row] for a, row in zip(found.values(), rows, strict=True)])
        labels = next(iter(found.values()))["labels"][rows[0]]
    except (BadInput, KeyError, ValueError, IndexError) as error:
        raise NotHere(f"The predictions over training of {run.path.name} cannot be read ({error}).") from error
    return KeptPredictions(list(found), log_probs.astype(np.float64), ids, labels)


def _rows_of(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.intp]:
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], wanted)]


def on_shared_samples(traces: Mapping[str, KeptPredictions], most: int) -> dict[str, KeptPredictions]:
    """All on the samples that they share, evenly spaced ones where these are more than `most`.

    Raises:
        NotHere: they share none, or say different things of them.
    """
    shared = sorted(set.intersection(*(set(trace.ids.tolist()) for trace in traces.values())))
    if not shared:
        raise NotHere("The runs kept no predictions of the same samples over training.")
    ids = np.array(shared, dtype=np.int64)[evenly(len(shared), most)]
    found = {}
    for name, trace in traces.items():
        rows = _rows_of(trace.ids, ids)
        found[name] = KeptPredictions(trace.steps, trace.log_probs[:, :, rows], ids, trace.labels[rows])
    first = next(iter(found.values()))
    for name, trace in found.items():
        if not np.array_equal(trace.labels, first.labels) or trace.log_probs.shape[-1] != first.log_probs.shape[-1]:
            raise NotHere(f"The samples of {name} are others than those of {next(iter(found))}.")
    return found


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced, with the first and the last."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def distances(log_probs: Floats) -> Floats:
    """Root of the mean Jensen–Shannon divergence between predictors, in root nats `[k, k]`: a metric, at most √ln 2.

    `JSD(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2` per sample; its root is a metric (Endres & Schindelin 2003), and
    so is the root of a mean of squared metrics.

    Args:
        log_probs: `[k, n, C]`.
    """
    probs = np.exp(log_probs)
    own = np.array([_mean_entropy(p) for p in probs])
    found = np.zeros((len(probs), len(probs)))
    for i in range(len(probs)):
        for j in range(i):
            divergence = _mean_entropy((probs[i] + probs[j]) / 2) - (own[i] + own[j]) / 2
            found[i, j] = found[j, i] = np.sqrt(max(0.0, divergence))  # rounding may leave equal ones below 0
    return found


def _mean_entropy(probs: Floats) -> float:
    """Mean entropy of distributions `[n, C]`, in nats; 0 log 0 = 0."""
    with np.errstate(divide="ignore"):
        return float(entropy_of(probs, np.log(probs)).mean())


def in_the_plane(matrix: Floats) -> tuple[Floats, float]:
    """Metric multidimensional scaling by SMACOF, started at classical scaling, which makes it deterministic.

    Args:
        matrix: distances `[k, k]`.

    Returns:
        Coordinates `[k, 2]`, and Kruskal's stress-1, `√(Σ (d − δ)² / Σ d²)` over pairs: δ the distances given, d those
        in the plane; below 0.1 is usually called good, above 0.2 poor.
    """
    from sklearn.manifold import smacof

    if not matrix.any():
        return np.zeros((len(matrix), 2)), 0.0
    start = _classical(matrix)
    found = smacof(
        matrix, n_components=2, init=start, n_init=1, normalized_stress=False, eps=1e-9, max_iter=1000, random_state=0
    )
    points: Floats = found[0] - found[0].mean(0)
    between = np.linalg.norm(points[:, None] - points[None], axis=-1)
    total = float((between**2).sum())
    return points, float(np.sqrt(((between - matrix) ** 2).sum() / total)) if total else 0.0


def _classical(matrix: Floats) -> Floats:
    """Torgerson's scaling: the two leading eigenvectors of the doubly centred squared distances `[k, 2]`."""
    squares = matrix**2
    centred = -(squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean()) / 2
    values, vectors = np.linalg.eigh(centred)
    # Of an eigenvector either sign will do; this one is the same on every machine.
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(len(vectors))])
    return (vectors * signs)[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))
