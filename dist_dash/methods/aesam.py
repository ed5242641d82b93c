"""AE-SAM (Jiang et al. 2023, arXiv 2304.14647): SAM only where the gradient is larger than usual.

    μ_t = δ μ_{t−1} + (1 − δ) ‖g_t‖² ;   σ²_t = δ σ²_{t−1} + (1 − δ) (‖g_t‖² − μ_t)²
    c_t = (1 − t/T) gate_start + (t/T) gate_end
    SAM's update where ‖g_t‖² ≥ μ_t + c_t σ_t, else that of SGD

Sources disagree on which way c_t runs; its ends are therefore named by time. The first update has μ = ‖g‖² and σ = 0.
Cost: F + G, and F + G more in the share of the updates that are SAM's, which is recorded (`sam`). The host waits for
the gradient's norm at every update. Nothing crosses between members.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from dist_dash.errors import require, require_fraction, require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.member import Member
from dist_dash.member.vector import unit
from dist_dash.methods.method import Measured, Method, Totals, ascent
from dist_dash.ranks.exchange import Exchange


class AESAM(Method):
    """Adaptive-policy sharpness-aware minimization.

    Args:
        rho: radius of the perturbation.
        delta: δ of the running mean and variance of ‖g‖², in [0, 1).
        gate_start: c at the first update.
        gate_end: c towards the last one.
        ascent_sync: as in SAM. The gate looks at the mean over replicas of ‖g‖² with `local`, at ‖mean g‖² with
            `mean`: the same on all replicas.
        perturb: as in SAM; the gate looks at the whole gradient.
    """

    def __init__(
        self,
        rho: float = 0.05,
        delta: float = 0.9,
        gate_start: float = 1.0,
        gate_end: float = -1.0,
        ascent_sync: Literal["local", "mean"] = "local",
        perturb: str = "all",
    ) -> None:
        require_non_negative("method.rho", rho)
        require_fraction("method.delta", delta)
        for field, value in (("gate_start", gate_start), ("gate_end", gate_end)):
            require(math.isfinite(value), f"method.{field}", value, "a finite number")
        self.rho, self.delta, self.gate_start, self.gate_end = rho, delta, gate_start, gate_end
        self.ascent_sync, self.perturb = ascent_sync, perturb
        self._kept: tuple[float, float] | None = None  # μ and σ²

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals = Totals(len(batch))
        g = ascent(member, batch, totals, self.ascent_sync)
        squared = float(exchange.mean_over_replicas(g.norm().square()))
        mean, variance = squared, 0.0
        if self._kept is not None:
            mean = self.delta * self._kept[0] + (1 - self.delta) * squared
            variance = self.delta * self._kept[1] + (1 - self.delta) * (squared - mean) ** 2
        c = self.gate_start + (self.gate_end - self.gate_start) * batch.progress.share
        sam = squared >= mean + c * math.sqrt(variance)
        if sam:
            with member.perturbed(self.rho * unit(member.restricted(g, self.perturb))):
                for micro in batch:
                    member.backward(micro.loss(member.forward(micro.x)), last=micro is batch.last)
        else:
            member.descend(g)
        if member.step():
            self._kept = mean, variance
        return totals.measured(g_loss_norm=g.norm(), sam=torch.tensor(float(sam)))

    def restarted(self) -> None:
        self._kept = None

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept = state["kept"]
