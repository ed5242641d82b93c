"""A float64 loop for repulsive ensembles, in the space of outputs and of weights, by kde and svgd.

Written from the formulas alone, as ``family_oracle`` says; "§ 9" is a section of ALGORITHMS-2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from tests import oracle
from tests.distributed.family_oracle import together
from tests.distributed.proof_oracle import Batches, Members, OneMember, Outcome, Replicas, Settings
from tests.oracle import Vector, add, mean, scale, unit, zeros

Kernel = Literal["kde", "svgd"]
Bandwidth = Literal["pairs", "authors"]


def kernels(points: list[Tensor], bandwidth: Bandwidth, counted: int) -> tuple[list[list[float]], float]:
    """k(f_i, f_j) = exp(−‖f_i − f_j‖²/(2h)) as ``[i][j]``, and h = median / (2 ln(counted + 1)).

    The median is the true one (the mean of the middle two) of the squared distances of all pairs of two members
    (``pairs``), or of all m² entries with the zeros of the diagonal (``authors``). Where it is 0, k is 1 for equal
    points and 0 for others, the limit of h → 0.
    """
    squared = [[float(((a - b) ** 2).sum()) for b in points] for a in points]
    m = range(len(points))
    entries = [squared[i][j] for i in m for j in m if bandwidth == "authors" or i < j]
    h = median(entries) / (2 * math.log(counted + 1)) if entries else 0.0
    return [[math.exp(-d / (2 * h)) if h > 0 else float(d == 0) for d in row] for row in squared], h


def directions(
    points: list[Tensor], slopes: list[Tensor], strength: float, kind: Kernel, bandwidth: Bandwidth, count: str
) -> list[Tensor]:
    """What every member descends in the space of ``points``, before it is taken back to the weights.

    kde: s_i + w ∇_{f_i} log Σ_j k(f_i, f_j), peers and h constant. svgd: (1/m) Σ_j [k_ji s_j − w ∇_{f_j} k(f_j, f_i)].
    Both sums have j = i. A member is left out of sum, median and m if its point, or with svgd its slope, is not
    finite; it then descends its own slope.

    Args:
        points: f ``[member]``, all of one shape.
        slopes: s = ∇_f L ``[member]``, of the same shape.
        strength: w = λ/N.
        kind: The rule.
        bandwidth: See ``kernels``.
        count: m of h and of 1/m: ``finite`` members or ``all``.
    """
    sound = [
        i
        for i in range(len(points))
        if bool(torch.isfinite(points[i]).all()) and (kind == "kde" or bool(torch.isfinite(slopes[i]).all()))
    ]
    m = len(sound) if count == "finite" else len(points)
    k, h = kernels([points[i] for i in sound], bandwidth, m)
    result = list(slopes)
    for a, i in enumerate(sound):
        push = torch.zeros_like(points[i])  # −Σ_j ∇_{f_j} k(f_j, f_i) = Σ_j ∇_{f_i} k(f_i, f_j)
        if h > 0:
            for b, j in enumerate(sound):
                push = push - k[a][b] * (points[i] - points[j]) / h
        if kind == "kde":
            result[i] = slopes[i] + strength * push / sum(k[a])
        else:
            drive = torch.zeros_like(points[i])
            for b, j in enumerate(sound):
                drive = drive + k[b][a] * slopes[j]
            result[i] = (drive + strength * push) / m
    return result


def in_outputs(
    own: list[OneMember],
    batch: tuple[Tensor, Tensor],
    replica: int,
    shifts: list[Vector],
    weight: float,
    probs: bool,
    kind: Kernel,
    bandwidth: Bandwidth,
    count: str,
) -> list[Vector]:
    """Every member's direction on one micro-batch at θ + shift ``[member]``: f = logits or softmax, w = λ/n."""
    x, target = batch
    at = [oracle.leaves(add(member.theta, shift)) for member, shift in zip(own, shifts, strict=True)]
    logits = [
        oracle.forward(member.module, leaf, oracle.copies(member.on_replicas[replica]), x)
        for member, leaf in zip(own, at, strict=True)
    ]
    live = [torch.softmax(z, dim=1) for z in logits] if probs else logits
    points = [f.detach() for f in live]
    slopes = []
    for member, point in zip(own, points, strict=True):
        leaf = point.clone().requires_grad_(True)
        loss = member.settings.losses(leaf.log() if probs else leaf, target).mean()
        slopes.append(oracle.gradient(loss, [leaf])[0])
    down = directions(points, slopes, weight / len(x), kind, bandwidth, count)
    return [oracle.gradient((f * d).sum(), leaf) for f, d, leaf in zip(live, down, at, strict=True)]


def flat(vector: Vector) -> Tensor:
    return torch.cat([x.reshape(-1) for x in vector])


def shaped(values: Tensor, like: Vector) -> Vector:
    pieces = values.split([x.numel() for x in like])
    return [piece.reshape(x.shape) for piece, x in zip(pieces, like, strict=True)]


def repulsive(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    weight: float = 1.0,
    space: Literal["logits", "probs", "weights"] = "logits",
    kernel: Kernel = "kde",
    bandwidth: Bandwidth = "pairs",
    base: Literal["SGD", "SAM"] = "SGD",
    rho: float = 0.05,
    updates_per_epoch: int = 1,
    count: Literal["finite", "all"] = "finite",
) -> Outcome:
    """Repulsive ensembles (D'Angelo & Fortuin 2021, arXiv 2106.11642; § 9) on losses that are means.

    ``logits`` and ``probs``: f_i = the member's outputs [n, C] of one micro-batch on one replica, in training mode;
    ``directions`` with w = λ/n, taken back to the weights by Jᵀ, then the mean over micro-batches and replicas.
    ``weights``: f_i = all trainable parameters, the slope is the replica's ∇L_i (mean over its micro-batches), w = λ/N
    with N = (samples of the update over all replicas) · ``updates_per_epoch``; then the mean over replicas.
    λ = ``weight``. ``base="SAM"``: points, slopes and Jᵀ are those at θ_i + ε_i, ε_i = ρ unit(∇L_i(θ_i)) of the
    replica's own gradient. Statistics move in the forward at θ. Records add ``direction`` per replica.
    """
    settings = replace(settings, ascent_sync="local")

    def on_replica(
        own: list[OneMember], replicas: Replicas, r: int, shifts: list[Vector], g: list[Vector]
    ) -> list[Vector]:
        if space != "weights":
            each = [
                in_outputs(own, batch, r, shifts, weight, space == "probs", kernel, bandwidth, count)
                for batch in replicas[r]
            ]
            return [mean([micro[i] for micro in each]) for i in range(len(own))]
        points = [flat(add(member.theta, shift)) for member, shift in zip(own, shifts, strict=True)]
        samples = sum(len(x) for micros in replicas for x, _ in micros) * updates_per_epoch
        slopes = [flat(one) for one in g]
        down = directions(points, slopes, weight / samples, kernel, bandwidth, count)
        return [shaped(d, member.theta) for d, member in zip(down, own, strict=True)]

    def update(step: int, own: list[OneMember], replicas: Replicas) -> None:
        g = [member.differentiate(replicas)[0] for member in own]
        shifts = [[scale(rho, unit(one)) if base == "SAM" else zeros(one) for one in each] for each in g]
        if base == "SAM":
            g = [member.differentiate(replicas, by)[0] for member, by in zip(own, shifts, strict=True)]
        found = [
            on_replica(own, replicas, r, [by[r] for by in shifts], [one[r] for one in g]) for r in range(len(replicas))
        ]
        for i, member in enumerate(own):
            each = [found[r][i] for r in range(len(replicas))]
            member.step(mean(each), settings.factor(step))
            member.record["direction"] = each

    return together(members, batches, settings, update)
