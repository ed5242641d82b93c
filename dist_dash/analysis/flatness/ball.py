"""How much the loss rises within a ball around the weights: along the gradient, at its worst, at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_dash.analysis.flatness.surface import Surface


@dataclass(frozen=True)
class Ascent:
    """What a search for the worst point within ρ found.

    Args:
        loss: `L(θ)`.
        gradient_norm: `‖∇L(θ)‖₂`.
        one_step: `L(θ + ρ unit(∇L(θ))) − L(θ)`: the point that SAM descends from (Foret et al. 2021).
        worst: the largest `L(θ + δ) − L(θ)` that was seen, ‖δ‖ ≤ ρ: never above the true maximum.
        offset: its δ `[P]`.
    """

    loss: float
    gradient_norm: float
    one_step: float
    worst: float
    offset: Tensor


def unit(vector: Tensor) -> Tensor:
    """`v / ‖v‖₂`; 0 for v = 0."""
    length = vector.norm()
    return vector / length if length > 0 else torch.zeros_like(vector)


def projected(offset: Tensor, rho: float) -> Tensor:
    """The point of the ball of radius ρ that is nearest to `offset`."""
    length = float(offset.norm())
    return offset * (rho / length) if length > rho else offset


def ascend(surface: Surface, rho: float, steps: int) -> Ascent:
    """Projected normalised gradient ascent: a first step of length ρ, `steps − 1` more of length ρ/2.

    The best point seen counts, θ itself and the end of each step included, so that more steps never find less, and one
    step finds `one_step` (or 0 where that is a descent). Costs `steps` gradients and one loss.

    Args:
        surface: the loss.
        rho: radius of the ball, in the 2-norm over all weights.
        steps: ≥ 1.
    """
    loss, gradient = surface.gradient(surface.centre)
    offset = projected(rho * unit(gradient), rho)
    worst, best, one_step = loss, torch.zeros_like(offset), 0.0
    for step in range(steps):
        if step == steps - 1:
            here = surface.loss(surface.centre + offset)
        else:
            here, slope = surface.gradient(surface.centre + offset)
        one_step = here - loss if step == 0 else one_step
        if here > worst:
            worst, best = here, offset
        if step < steps - 1:
            offset = projected(offset + rho / 2 * unit(slope), rho)
    return Ascent(loss, float(gradient.norm()), one_step, worst - loss, best)


def random_rises(surface: Surface, loss: float, rho: float, directions: int, seed: int) -> list[float]:
    """`L(θ + ρ u) − loss` for `directions` unit vectors u, uniform on the sphere and a function of `seed` alone."""
    return [surface.loss(surface.centre + rho * u) - loss for u in random_directions(surface.centre, directions, seed)]


def random_directions(like: Tensor, number: int, seed: int) -> list[Tensor]:
    """Unit vectors, uniform on the sphere, of the shape, type and device of `like`; the same in every precision."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(like.shape, dtype=torch.float64, generator=generator) for _ in range(number)]
    return [unit(vector).to(like) for vector in drawn]
