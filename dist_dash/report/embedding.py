"""Members' predictions over training as points in a plane: do they part, or stay together?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.metrics.diversity import disagreement, mean_of_pairs
from dist_dash.metrics.predictions import load_arrays
from dist_dash.report.colours import colour, marker
from dist_dash.report.picture import NotHere, Picture
from dist_dash.report.style import WIDTH, new_figure, of_group, plain, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
MOST_POINTS = 120
"""In the plane: of long runs some evaluations are left out, evenly, never the first and the last."""
MOST_WORK = 3 * 10**8
"""Probabilities that are compared: of large data some samples are left out, but for `LEAST_SAMPLES`."""
LEAST_SAMPLES = 16


@dataclass(frozen=True)
class Trace:
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


# -- reading and measuring ---------------------------------------------------------------------------------------------


def read_trace(run: FinishedRun) -> Trace:
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
    return Trace(list(found), log_probs.astype(np.float64), ids, labels)


def _rows_of(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.intp]:
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], wanted)]


def distances(log_probs: Floats) -> Floats:
    """Root of the mean Jensen–Shannon divergence between predictors, in root nats `[k, k]`: a metric, at most √ln 2.

    `JSD(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2` per sample; its root is a metric (Endres & Schindelin 2003), and
    so is the root of a mean of squared metrics.

    Args:
        log_probs: `[k, n, C]`.
    """
    probs = np.exp(log_probs)
    own = np.array([_entropy(p) for p in probs])
    found = np.zeros((len(probs), len(probs)))
    for i in range(len(probs)):
        for j in range(i):
            divergence = _entropy((probs[i] + probs[j]) / 2) - (own[i] + own[j]) / 2
            found[i, j] = found[j, i] = np.sqrt(max(0.0, divergence))  # rounding may leave equal ones below 0
    return found


def _entropy(probs: Floats) -> float:
    """Mean entropy of distributions `[n, C]`, in nats; 0 log 0 = 0."""
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    return -float(np.vdot(probs, logs)) / len(probs)


def in_the_plane(matrix: Floats) -> tuple[Floats, float]:
    """Metric multidimensional scaling by SMACOF, started at classical scaling: no chance is in it.

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


# -- the picture -------------------------------------------------------------------------------------------------------


def embedding(runs: FinishedRun | Mapping[str, FinishedRun]) -> Picture:
    """Members' predictions over training in the plane, and how far apart they are.

    Args:
        runs: one run, or several by name in shared coordinates; these must have been evaluated on the same samples.

    Raises:
        NotHere: a run kept no predictions over training, or the runs' samples differ.
    """
    single = isinstance(runs, FinishedRun)
    named = {"": runs} if isinstance(runs, FinishedRun) else dict(runs)
    if not named:
        raise NotHere("There is no run.")
    traces = _on_shared_samples({name: read_trace(run) for name, run in named.items()})
    if all(trace.log_probs.shape[1] < 2 for trace in traces.values()):
        raise NotHere("Whether members part needs two members; there is one.")
    kept = {name: _kept_steps(len(trace.steps), traces) for name, trace in traces.items()}
    keys = [
        (name, t, member)
        for name, trace in traces.items()
        for t in kept[name]
        for member in range(trace.log_probs.shape[1])
    ]
    samples = len(next(iter(traces.values())).ids)
    used = _samples_used(len(keys), traces)
    matrix = distances(np.stack([traces[name].log_probs[t, member][used] for name, t, member in keys]))
    points, stress = in_the_plane(matrix)
    apart = _apart(traces, kept, keys, matrix)
    return Picture(
        name="embedding",
        title="Members' predictions over training",
        caption="Left: each point is a member's predictions after some update; a line follows a member from a ring "
        "to a marker at the end. Distances in the plane approximate those between predictions (root of the mean "
        f"Jensen–Shannon divergence over {len(used)}{'' if len(used) == samples else f' of {samples}'} samples of the "
        "evaluated split, the same everywhere), by metric multidimensional scaling, started at classical scaling; "
        f"stress-1 {stress:.3f}{', so that the plane is a rough guide' if stress > 0.2 else ''}. Right, "
        f"without that approximation: that distance (at most {np.sqrt(np.log(2)):.2f}), mean over pairs of members, "
        f"and mean of the share of {samples} samples on which two members choose different classes. "
        "Read: lines that run side by side and meet are members that become one; lines that part are members that stay "
        "different.",
        figure=_figure(points, keys, traces, apart, single),
        data=_data(points, keys, traces, apart),
        findings=_findings(apart, traces, stress),
    )


def _on_shared_samples(traces: dict[str, Trace]) -> dict[str, Trace]:
    shared = sorted(set.intersection(*(set(trace.ids.tolist()) for trace in traces.values())))
    if not shared:
        raise NotHere("The runs kept no predictions of the same samples.")
    ids = np.array(shared, dtype=np.int64)
    found = {}
    for name, trace in traces.items():
        rows = _rows_of(trace.ids, ids)
        found[name] = Trace(trace.steps, trace.log_probs[:, :, rows], ids, trace.labels[rows])
    first = next(iter(found.values()))
    for name, trace in found.items():
        if not np.array_equal(trace.labels, first.labels) or trace.log_probs.shape[-1] != first.log_probs.shape[-1]:
            raise NotHere(f"The samples of {name} are others than those of {next(iter(found))}.")
    return found


def _kept_steps(steps: int, traces: Mapping[str, Trace]) -> list[int]:
    """Which of a run's evaluations become points: so many that there are at most `MOST_POINTS`, but at least two."""
    members = sum(trace.log_probs.shape[1] for trace in traces.values())
    most = max(2, MOST_POINTS // members)
    return sorted(set(np.linspace(0, steps - 1, min(steps, most)).round().astype(int).tolist()))


def _samples_used(points: int, traces: Mapping[str, Trace]) -> NDArray[np.int64]:
    samples, classes = next(iter(traces.values())).log_probs.shape[-2:]
    pairs = max(1, points * (points - 1) // 2)
    most = max(LEAST_SAMPLES, MOST_WORK // (pairs * classes))
    return np.linspace(0, samples - 1, min(samples, most)).round().astype(np.int64)


Apart = dict[str, dict[str, list[float]]]


def _apart(
    traces: Mapping[str, Trace], kept: Mapping[str, list[int]], keys: Sequence[tuple[str, int, int]], matrix: Floats
) -> Apart:
    """Per run: the steps, and the mean distance and disagreement between members at each; NaN for one member."""
    found: Apart = {}
    for name, trace in traces.items():
        rows = {t: [k for k, key in enumerate(keys) if key[:2] == (name, t)] for t in kept[name]}
        means = [mean_of_pairs(matrix[np.ix_(rows[t], rows[t])]) for t in kept[name]]
        shares = [mean_of_pairs(disagreement(trace.log_probs[t])) for t in kept[name]]
        found[name] = {
            "step": [trace.steps[t] for t in kept[name]],
            "distance": [np.nan if value is None else value for value in means],
            "disagreement": [np.nan if value is None else value for value in shares],
        }
    return found


def _data(
    points: Floats, keys: Sequence[tuple[str, int, int]], traces: Mapping[str, Trace], apart: Apart
) -> dict[str, list[object]]:
    places = {name: {step: k for k, step in enumerate(of["step"])} for name, of in apart.items()}
    steps = [traces[name].steps[t] for name, t, _ in keys]
    return {
        "run": [name for name, _, _ in keys],
        "step": list(steps),
        "member": [member for _, _, member in keys],
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "mean_distance": [apart[k[0]]["distance"][places[k[0]][s]] for k, s in zip(keys, steps, strict=True)],
        "mean_disagreement": [apart[k[0]]["disagreement"][places[k[0]][s]] for k, s in zip(keys, steps, strict=True)],
    }


def _findings(apart: Apart, traces: Mapping[str, Trace], stress: float) -> dict[str, str]:
    found = {"stress-1 of the plane": f"{stress:.3f}"}
    for name, of in apart.items():
        if traces[name].log_probs.shape[1] > 1:
            own = f"{name}: " if name else ""
            first, last = of["distance"][0], of["distance"][-1]
            found[f"{own}mean distance between members, first → last"] = f"{first:.3f} → {last:.3f}"
            first, last = of["disagreement"][0], of["disagreement"][-1]
            found[f"{own}mean disagreement, first → last"] = f"{first:.1%} → {last:.1%}"
    return found


def _figure(
    points: Floats, keys: Sequence[tuple[str, int, int]], traces: Mapping[str, Trace], apart: Apart, single: bool
) -> Figure:
    figure = new_figure(WIDTH, 5.0)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.5, 1])
    plane, above, below = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
    for index, (name, trace) in enumerate(traces.items()):
        for member in range(trace.log_probs.shape[1]):
            line = points[[k for k, key in enumerate(keys) if key[0] == name and key[2] == member]]
            own: dict[str, Any] = {"color": colour(member if single else index)}
            label = f"member {member}" if single else f"{plain(name, 24)}, {member}"
            plane.plot(*line.T, ".-", linewidth=1.2, markersize=4, alpha=0.8, **own)
            plane.plot(*line[0], "o", markersize=6, markerfacecolor="white", **own)
            last: dict[str, Any] = {"markersize": 8, "markeredgecolor": "black", "linestyle": "", **own}
            plane.plot(*line[-1], marker=marker(member), label=label, **last)
        of, style = apart[name], {**of_group(index), "markersize": 4, **({"color": "black"} if single else {})}
        for axes, values in ((above, of["distance"]), (below, of["disagreement"])):
            axes.plot(of["step"], values, label=plain(name, 24), **style)
    tidy(plane, "Predictions in the plane", "root nats", "root nats")
    plane.set_aspect("equal", adjustable="datalim")
    figure.legend(*plane.get_legend_handles_labels(), loc="outside lower left", ncols=5 if single else len(traces))
    tidy(above, "Distance between members", "update", "root nats")
    tidy(below, "Disagreement of members", "update", "share of samples")
    for axes in (above, below):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        if not single:
            axes.legend(fontsize=8)
    return figure
