"""Friendly SAM (Li et al. 2024, arXiv 2403.12350): ascend by what a batch's gradient adds to the usual one.

`ε = ρ unit(g − σ m)` with `g = ∇L(θ)` and the running mean `m ← λ m + (1 − λ) g` of earlier updates; the first update
takes `g` itself and keeps it as m. Descend `∇L(θ + ε)`. Cost: 2F + 2G, and one vector kept. Nothing crosses between
members.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from dist_dash.errors import require_fraction, require_non_negative
from dist_dash.member.late import Truth
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, unit
from dist_dash.methods.method import on_device_of
from dist_dash.methods.sam import SAM


class FSAM(SAM):
    """Friendly sharpness-aware minimization.

    Args:
        rho: radius of the perturbation.
        sigma: σ, the share of the running mean that is taken off.
        decay: λ of the running mean, in [0, 1); the authors' scripts use 0.6, their class has 0.9.
        ascent_sync: as in SAM; with `local` each replica has a running mean of its own gradients.
        rho_warmup: as in SAM.
        perturb: as in SAM.
    """

    stacked = False

    def __init__(
        self,
        rho: float = 0.05,
        sigma: float = 1.0,
        decay: float = 0.6,
        ascent_sync: Literal["local", "mean"] = "local",
        rho_warmup: int = 0,
        perturb: str = "all",
    ) -> None:
        super().__init__(rho, ascent_sync=ascent_sync, rho_warmup=rho_warmup, perturb=perturb)
        require_non_negative("method.sigma", sigma)
        require_fraction("method.decay", decay)
        self.sigma, self.decay = sigma, decay
        self._mean: list[Tensor] = []
        self._next: list[Tensor] = []

    def copies(self, members: int) -> int:
        return 5  # beside those of SAM: m, its next value, and g − σ m

    def direction(self, member: Member, gradient: ParameterVector) -> ParameterVector:
        if not self._mean:
            self._next = [t.clone() for t in gradient.materialised()]
            return unit(gradient)
        mean = ParameterVector(on_device_of(gradient, self._mean))
        self._next = (self.decay * mean + (1 - self.decay) * gradient).materialised()
        return unit(gradient - self.sigma * mean)

    def keep(self, moved: Truth) -> None:
        if moved:
            self._mean = self._next

    def restarted(self) -> None:
        self._mean, self._next = [], []

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean = state["mean"]
