"""The Hessian's largest eigenvalue and its trace, from products with vectors alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from dist_dash.analysis.flatness.surface import Surface

LEAST_STEPS = 10
"""So many steps before convergence is believed: an early Ritz pair may be that of another eigenvalue."""
LEAST_PROBES = 8
"""So many probes before their standard error is believed."""


@dataclass(frozen=True)
class TopEigenvalue:
    """The largest (algebraic) eigenvalue λ of the Hessian H at θ.

    Args:
        value: λ.
        residual: `‖Hv − λv‖ / |λ|` of the unit vector v found; an eigenvalue lies within it, relative to λ.
        products: products with H that it took, that of the residual included.
        converged: whether the residual is within the tolerance.
        vector: v `[P]`.
        basis: orthonormal vectors Q, of which v is a combination.
        trace_in_basis: `tr QᵀHQ`.
    """

    value: float
    residual: float
    products: int
    converged: bool
    vector: Tensor
    basis: list[Tensor] = field(repr=False)
    trace_in_basis: float = field(repr=False)


@dataclass(frozen=True)
class Trace:
    """The Hessian's trace.

    Args:
        value: the estimate.
        error: its standard error.
        probes: random vectors that it took.
        converged: whether the error is within the share of the estimate that was asked for.
    """

    value: float
    error: float
    probes: int
    converged: bool


def top_eigenvalue(surface: Surface, tolerance: float, most_steps: int, seed: int) -> TopEigenvalue:
    """Lanczos from a random vector, every vector orthogonalised against all before it, twice.

    Written out here rather than left to SciPy's `eigsh`, with which the tests compare it: that returns nothing where
    the steps do not suffice, and hides the basis, which spares `trace` most of its probes.

    Args:
        surface: the loss.
        tolerance: of the residual, relative to λ.
        most_steps: after which the best vector so far is returned; keeps as many vectors `[P]`.
        seed: of the first vector.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(surface.centre.shape, dtype=torch.float64, generator=generator)
    following = (start / start.norm()).to(surface.centre)
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        basis.append(following)
        rest = surface.hessian_times(following)
        diagonal.append(float(following @ rest))
        for _ in range(2):
            rest = without(rest, basis)
        length = float(rest.norm())
        values, vectors = eigh_tridiagonal(diagonal, beside)
        value, weights = float(values[-1]), vectors[:, -1]
        nothing_left = length <= torch.finfo(rest.dtype).eps * max(map(abs, [*diagonal, *beside]))
        small = length * abs(weights[-1]) <= tolerance * abs(value) and len(basis) >= LEAST_STEPS
        if nothing_left or small or len(basis) == min(most_steps, len(rest)):
            break
        beside.append(length)
        following = rest / length
    vector = sum((float(w) * q for w, q in zip(weights, basis, strict=True)), torch.zeros_like(rest))
    vector = vector / vector.norm()
    gap = float((surface.hessian_times(vector) - value * vector).norm())
    residual = gap / abs(value) if value else (math.inf if gap else 0.0)
    return TopEigenvalue(value, residual, len(basis) + 1, residual <= tolerance, vector, basis, math.fsum(diagonal))


def trace(surface: Surface, known: TopEigenvalue, share: float, most_probes: int, seed: int) -> Trace:
    """Hutchinson's estimator (1990) with Rademacher vectors, on what the basis of Lanczos leaves over.

    `tr H = tr QᵀHQ + E[zᵀ(I−QQᵀ)H(I−QQᵀ)z]` for every orthonormal Q. The first part is known, and the few large
    eigenvalues that would make the second one vary are in it (Meyer, Musco, Musco, Woodruff 2021: Hutch++).

    Args:
        surface: the loss.
        known: of the same loss.
        share: stop at a standard error of at most this share of the estimate.
        most_probes: or after so many, ≥ 2.
        seed: of the probes.
    """
    size = len(surface.centre)
    if len(known.basis) == size:
        return Trace(known.trace_in_basis, 0.0, 0, True)
    generator = torch.Generator().manual_seed(seed)
    found: list[float] = []
    while True:
        signs = 2 * torch.randint(2, (size,), generator=generator) - 1
        probe = without(signs.to(surface.centre), known.basis)
        found.append(float(probe @ surface.hessian_times(probe)))
        if len(found) < min(LEAST_PROBES, most_probes):
            continue
        mean = math.fsum(found) / len(found)
        spread = math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1)
        error = math.sqrt(spread / len(found))
        value = known.trace_in_basis + mean
        if error <= share * abs(value) or len(found) >= most_probes:
            return Trace(value, error, len(found), error <= share * abs(value))


def without(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """The part of a vector that is orthogonal to all of an orthonormal basis."""
    rest = vector.clone()
    for known in basis:
        rest -= (known @ rest) * known
    return rest
