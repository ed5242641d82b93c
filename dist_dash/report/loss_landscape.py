"""The loss between members and around them: the plane through three, the segments between pairs, the ball of each."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_dash.analysis.flatness.ball import random_directions, unit
from dist_dash.analysis.flatness.subset import subset
from dist_dash.analysis.flatness.surface import NetworkLoss
from dist_dash.analysis.flatness.weight_space import BetweenMembers, Plane, Stopwatch, TooSlow, barrier, plane_through
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.report.picture import NotHere, Picture, colour, legend_below, new_figure, of_group, tidy
from dist_dash.seeds import derived_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATIENCE = 60.0
"""Seconds that the networks of one picture may take."""
STATISTICS_SAMPLES = 256


@contextlib.contextmanager
def _or_not_here() -> Iterator[None]:
    """Turn what a run does not allow into the sentence that a report shows in place of the picture."""
    try:
        yield
    except TooSlow as error:
        raise NotHere(
            f"It would take about {error.seconds / 60:.0f} minutes here, and a picture of a report may take one."
        ) from error
    except BadInput as error:
        raise NotHere(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _between(run: FinishedRun, members: list[int], samples: int) -> BetweenMembers:
    networks = run.ensemble().networks
    of_training, _ = subset(run, "train", STATISTICS_SAMPLES, 0)
    return BetweenMembers([networks[member] for member in members], [of_training], *subset(run, "test", samples, 0))


def _computed(between: BetweenMembers) -> str:
    """How the networks of a plane or a segment were scored, in words."""
    text = f"Cross-entropy and accuracy of single networks on {len(between.y)} samples of the test split. "
    if between.batch_norm:
        text += (
            "The batch-norm statistics of every network, the members included, are estimated anew on "
            f"{sum(map(len, between.batches))} training samples without augmentation, because no network but a member "
            "has its own; members can therefore differ a little from their scores elsewhere. "
        )
    return text


# -- the plane through three members -----------------------------------------------------------------------------------


def loss_plane(run: FinishedRun, grid: int = 15, samples: int = 500, patience: float = PATIENCE) -> Picture:
    """Loss and accuracy on the plane through members 0, 1 and 2 (Garipov et al. 2018).

    Args:
        run: with at least three members of one architecture.
        grid: points along each side.
        samples: of the test split, at most.
        patience: seconds that it may take.

    Raises:
        NotHere: the members do not allow it, the data cannot be reached, or it would take too long.
    """
    if len(run.ensemble()) < 3:
        raise NotHere("A plane needs three members; this run has fewer.")
    with _or_not_here():
        between = _between(run, [0, 1, 2], samples)
        plane = plane_through(*between.weights)
        xs, ys = _sides(plane, grid)
        spots = [(float(a), float(b)) for b in ys for a in xs] + [(float(a), float(b)) for a, b in plane.points]
        found = between.scores([functools.partial(plane.at, *spot) for spot in spots], patience)
        centre = between.score(torch.stack(between.weights).mean(0))
    losses, accuracies = found.T
    at_members = ", ".join(f"{loss:.3f}" for loss in losses[-3:])
    return Picture(
        name="loss-plane",
        title="Loss on the plane through three members",
        caption="The weights of members 0, 1 and 2 span a plane; distances on both axes are those of weight space "
        f"(2-norm of all weights). Left: loss, in steps of equal ratio; right: accuracy. {grid} × {grid} networks. "
        + _computed(between)
        + "Read: members in one valley of low loss are much the same solution; members that high loss parts are not, "
        "though a permutation of hidden units, which changes no prediction, parts them as well.",
        figure=_plane_figure(plane, xs, ys, found),
        data={
            "what": ["grid"] * grid**2 + [f"member {member}" for member in range(3)],
            "x": [a for a, _ in spots],
            "y": [b for _, b in spots],
            "loss": losses.tolist(),
            "accuracy": accuracies.tolist(),
        },
        findings={
            "loss at members 0, 1, 2": at_members,
            "loss at the mean of their weights": f"{centre[0]:.3f} (accuracy {centre[1]:.1%})",
            "highest loss on the grid": f"{losses[:-3].max():.3f}",
        },
    )


def _sides(plane: Plane, grid: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates along both axes: a quarter of the longer side is left around the three points."""
    low, high = plane.points.min(0), plane.points.max(0)
    margin = 0.25 * float(np.max(high - low))
    return np.linspace(low[0] - margin, high[0] + margin, grid), np.linspace(low[1] - margin, high[1] + margin, grid)


def _plane_figure(plane: Plane, xs: NDArray[np.float64], ys: NDArray[np.float64], found: NDArray[np.float64]) -> Figure:
    from matplotlib.colors import LogNorm

    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    losses, accuracies = (values[:-3].reshape(len(ys), len(xs)) for values in found.T)
    shown = np.clip(np.nan_to_num(losses, nan=1e6, posinf=1e6), 1e-6, 1e6)
    levels = np.geomspace(shown.min() * 0.999, shown.max() * 1.001, 12)
    filled = left.contourf(xs, ys, shown, levels=levels, norm=LogNorm(), cmap="viridis")
    left.contour(xs, ys, shown, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
    bar = figure.colorbar(filled, ax=left, ticks=levels[::2], shrink=0.85, format=lambda value, _: f"{value:.3g}")
    bar.minorticks_off()
    left.set_title("Loss (nats)")
    filled = right.contourf(xs, ys, accuracies, levels=np.linspace(0, 1, 11), cmap="cividis")
    right.contour(xs, ys, accuracies, levels=np.linspace(0, 1, 11), colors="white", linewidths=0.4, alpha=0.6)
    figure.colorbar(filled, ax=right, shrink=0.85, format=lambda value, _: f"{value:.0%}")
    right.set_title("Accuracy")
    for axes in (left, right):
        axes.set(xlabel="distance along member 0 → member 1", ylabel="distance towards member 2", aspect="equal")
        for member, (a, b) in enumerate(plane.points):
            axes.plot(a, b, "o", color="white", markeredgecolor="black", markersize=14)
            axes.annotate(str(member), (a, b), ha="center", va="center", fontsize=10, fontweight="bold")
    return figure


# -- the segments between pairs ----------------------------------------------------------------------------------------


def segments(run: FinishedRun, points: int = 11, samples: int = 500, patience: float = PATIENCE) -> Picture:
    """Loss and accuracy along the straight segments between members: all pairs of the first four members.

    Args:
        run: with at least two members of one architecture.
        points: on each segment, ends included.
        samples: of the test split, at most.
        patience: seconds that it may take.

    Raises:
        NotHere: the members do not allow it, the data cannot be reached, or it would take too long.
    """
    members = min(4, len(run.ensemble()))
    if members < 2:
        raise NotHere("A segment needs two members; this run has one.")
    pairs = list(combinations(range(members), 2))
    t = np.linspace(0, 1, points)
    with _or_not_here():
        between = _between(run, list(range(members)), samples)
        weights = between.weights
        spots = [(weights[i], weights[j], float(s)) for i, j in pairs for s in t]
        found = between.scores([functools.partial(torch.lerp, *spot) for spot in spots], patience)
    scores = found.reshape(len(pairs), points, 2)
    barriers = [barrier(of_pair[:, 0]) for of_pair in scores]
    names = [f"{i}–{j}" for i, j in pairs]
    highest = int(np.argmax(barriers))
    return Picture(
        name="segments",
        title="Loss on the straight segments between members",
        caption=f"Networks whose weights are (1 − t) times the first member's plus t times the second's, at {points} "
        f"values of t. {'' if members == len(run.ensemble()) else 'Pairs among the first four members. '}"
        + _computed(between)
        + "The barrier of a pair is the largest height of the loss on the segment over the straight line between the "
        "losses at its ends. Read: no barrier means that both members lie in one valley; a barrier parts different "
        "solutions, or the same one with its hidden units permuted.",
        figure=_segments_figure(t, scores, names),
        data={
            "pair": [name for name in names for _ in t],
            "t": [float(s) for _ in names for s in t],
            "loss": found[:, 0].tolist(),
            "accuracy": found[:, 1].tolist(),
        },
        findings={
            "mean barrier": f"{np.mean(barriers):.3f}",
            "highest barrier": f"{barriers[highest]:.3f} (members {names[highest]})",
            **{f"barrier {name}": f"{height:.3f}" for name, height in zip(names, barriers, strict=True)},
        },
    )


def _segments_figure(t: NDArray[np.float64], scores: NDArray[np.float64], names: list[str]) -> Figure:
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    for index, (of_pair, name) in enumerate(zip(scores, names, strict=True)):
        style = {**of_group(index), "markersize": 4}
        left.plot(t, of_pair[:, 0], label=f"members {name}", **style)
        right.plot(t, of_pair[:, 1], **style)
    where = "t: first member (0) to second (1)"
    tidy(left, "Loss", where, "cross-entropy (nats)")
    tidy(right, "Accuracy", where, "share of samples")
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1)
    legend_below(figure, left, columns=3)
    return figure


# -- the ball around each member ---------------------------------------------------------------------------------------


def loss_within(
    run: FinishedRun,
    radius: float = 0.5,
    points: int = 11,
    directions: int = 5,
    samples: int = 500,
    patience: float = PATIENCE,
) -> Picture:
    """Training loss of each member along its gradient, and along random directions, against the distance.

    Args:
        run: of any number of members.
        radius: largest distance, in the 2-norm over all weights.
        points: distances, 0 included.
        directions: random ones.
        samples: of the training split, at most.
        patience: seconds that it may take.

    Raises:
        NotHere: the data cannot be reached, or it would take too long.
    """
    radii = np.linspace(0, radius, points)
    with _or_not_here():
        networks = run.ensemble().networks
        x, y = subset(run, "train", samples, 0)
        each = (directions + 1) * points
        watch = Stopwatch(len(networks) * each, patience)
        found = []
        for number, network in enumerate(networks):
            surface = NetworkLoss(network, x, y, torch.float32)
            loss, gradient = surface.gradient(surface.centre)
            watch.check(number * each + 3)  # a gradient takes as long as three losses
            found.append(_along(surface, loss, gradient, radii, directions))
    ascents, randoms = np.array([ascent for ascent, _ in found]), np.array([random for _, random in found])
    rises, sideways = ascents[:, -1] - ascents[:, 0], randoms[:, :, -1] - randoms[:, :, 0]
    rows = [(member, r) for member in range(len(found)) for r in range(points)]
    return Picture(
        name="loss-within",
        title="Training loss within a distance of each member",
        caption=f"Cross-entropy on {len(y)} samples of the training split, with the labels that were trained on and "
        "without augmentation, in evaluation mode (batch norm keeps the member's statistics). Left: along the gradient "
        f"at the member, the direction in which SAM perturbs; right: mean over {directions} random directions, from "
        "the lowest to the highest of them. Distances are 2-norms over all weights; mind the different scales of the "
        "vertical axes. Read: the slower the loss rises, the flatter the minimum; a flat minimum is flat on the left, "
        "for almost every minimum is flat in random directions.",
        figure=_within_figure(radii, ascents, randoms),
        data={
            "member": [member for member, _ in rows],
            "distance": [float(radii[r]) for _, r in rows],
            "along_gradient": [float(ascents[row]) for row in rows],
            "random_mean": [float(randoms[member, :, r].mean()) for member, r in rows],
            "random_lowest": [float(randoms[member, :, r].min()) for member, r in rows],
            "random_highest": [float(randoms[member, :, r].max()) for member, r in rows],
        },
        findings={
            f"mean rise at distance {radius:g} along the gradient": f"{rises.mean():.3f}",
            f"mean rise at distance {radius:g} in random directions": f"{sideways.mean():.4f}",
        },
    )


def _along(
    surface: NetworkLoss, loss: float, gradient: Tensor, radii: NDArray[np.float64], directions: int
) -> tuple[list[float], list[list[float]]]:
    """Losses along the gradient `[points]` and along random directions `[directions][points]`; `loss` at the centre."""
    ways = [unit(gradient), *random_directions(surface.centre, directions, derived_seed("loss within"))]
    losses = [[loss, *(surface.loss(surface.centre + float(radius) * way) for radius in radii[1:])] for way in ways]
    return losses[0], losses[1:]


def _within_figure(radii: NDArray[np.float64], ascents: NDArray[np.float64], randoms: NDArray[np.float64]) -> Figure:
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    for member, (ascent, random) in enumerate(zip(ascents, randoms, strict=True)):
        style = {**of_group(member), "markersize": 4}
        left.plot(radii, ascent, label=f"member {member}", **style)
        right.plot(radii, random.mean(0), **style)
        right.fill_between(radii, random.min(0), random.max(0), color=colour(member), alpha=0.2, linewidth=0)
    where = "distance from the member's weights"
    tidy(left, "Along the gradient", where, "training loss (nats)")
    tidy(right, "In random directions: mean, range", where, "training loss (nats)")
    legend_below(figure, left)
    return figure
