"""Adaptive SAM (Kwon et al. 2021, arXiv 2102.11600): a radius in units of each weight's own size.

`ε = ρ T² g / ‖T g‖₂` with `T = |θ| + η` on the adapted parameters and 1 elsewhere; descend `∇L(θ + ε)`.
`‖T⁻¹ ε‖₂ = ρ`. Cost: 2F + 2G. Nothing crosses between members.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dist_dash.errors import require, require_non_negative
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, unit
from dist_dash.methods.sam import SAM


class ASAM(SAM):
    """Adaptive sharpness-aware minimization. Its radii are not those of SAM: the authors use 0.5 to 1.

    Args:
        rho: radius, in units of the adapted weights' sizes.
        eta: η, added to |θ|; 0 never moves a weight that is 0.
        adapt: what is adapted: `weights`, whatever has `weight` in its name, as in the authors' code (scales of norms
            too, biases not); `matrices`, parameters of two or more dimensions; `all`.
        ascent_sync: as in SAM.
        rho_warmup: as in SAM.
        perturb: as in SAM.
    """

    stacked = False

    def __init__(
        self,
        rho: float = 0.5,
        eta: float = 0.01,
        adapt: Literal["weights", "matrices", "all"] = "weights",
        ascent_sync: Literal["local", "mean"] = "local",
        rho_warmup: int = 0,
        perturb: str = "all",
    ) -> None:
        super().__init__(rho, ascent_sync=ascent_sync, rho_warmup=rho_warmup, perturb=perturb)
        require_non_negative("method.eta", eta)
        require(adapt in ("weights", "matrices", "all"), "method.adapt", adapt, "weights, matrices or all")
        self.eta, self.adapt = eta, adapt

    def copies(self, members: int) -> int:
        return 4  # beside those of SAM: T, and T g

    def direction(self, member: Member, gradient: ParameterVector) -> ParameterVector:
        sizes = [self._size(name, p.data) for name, p in zip(member.names, member.parameters, strict=True)]
        return unit(gradient.times(sizes)).times(sizes)

    def _size(self, name: str, weight: Tensor) -> Tensor:
        adapted = {"weights": "weight" in name, "matrices": weight.dim() >= 2, "all": True}[self.adapt]
        return weight.abs().add_(self.eta) if adapted else torch.ones_like(weight)
