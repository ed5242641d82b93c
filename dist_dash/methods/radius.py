"""How long a perturbation is at a given step."""

from __future__ import annotations

from dist_dash.errors import require


def check_warmup(steps: int) -> None:
    """Raise `BadInput` unless `steps` can be a warm-up."""
    require(steps >= 0, "method.rho_warmup", steps, "a number of steps ≥ 0")


def warmed_up(rho: float, step: int, warmup: int) -> float:
    """ρ, growing linearly over the first `warmup` updates: `ρ · min(1, (step + 1) / warmup)`; `step` counts from 0."""
    return rho * min(1.0, (step + 1) / warmup) if warmup else rho
