"""Dynamic loss scaling: fp16 has no room for small gradients, so that losses are multiplied before a backward.

Micikevicius et al., Mixed Precision Training, ICLR 2018, section 3.2. Scales are powers of two, and gradients are
divided by them in fp32: what fp16 can hold at all comes out to the bit as without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dist_dash.errors import require, require_count
from dist_dash.ranks.exchange import Exchange

LARGEST = 2.0**64  # a network without any gradient never overflows


@dataclass(frozen=True)
class LossScaling:
    """How the loss scale of fp16 is found: by the rule of `torch.amp.GradScaler`, with DeepSpeed's hysteresis.

    An update with an overflow is skipped. Those that only look for the scale do not count towards `checks.max_skipped`:
    all but the ones at the scale `minimum`.

    Args:
        initial: scale of the first update, a power of two.
        interval: updates without an overflow after which it doubles.
        backoff: factor on it at an overflow: 0.5 to a whole power.
        hysteresis: which overflow, since it last grew, is the first to lower it.
        minimum: where it stops falling, a power of two.
    """

    initial: float = 65536.0
    interval: int = 2000
    backoff: float = 0.5
    hysteresis: int = 1
    minimum: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("minimum", LARGEST), ("initial", LARGEST), ("backoff", 0.5)):
            value = getattr(self, name)
            allowed = f"a power of two ≤ {most:.6g}, so that scaling rounds nothing"
            require(0 < value <= most and math.frexp(value)[0] == 0.5, f"engine.scaling.{name}", value, allowed)
        at_least = f"at least the minimum ({self.minimum:g})"
        require(self.initial >= self.minimum, "engine.scaling.initial", self.initial, at_least)
        for name in ("interval", "hysteresis"):
            require_count(f"engine.scaling.{name}", getattr(self, name))
            require(getattr(self, name) >= 1, f"engine.scaling.{name}", getattr(self, name), "a whole number ≥ 1")


class LossScale:
    """One member's scale, equal on its replicas because they skip the same updates.

    Args:
        rule: how it changes.
        device: of the gradients.
    """

    def __init__(self, rule: LossScaling, device: torch.device) -> None:
        self.rule, self.value = rule, rule.initial
        self._quiet, self._spared = (
            0,
            rule.hysteresis - 1,
        )  # updates since the last change; overflows yet to be forgiven
        self._overflow = torch.zeros((), device=device)  # above 0: an ascent gradient of this update was not finite
        self._inverse = torch.full((), 1 / self.value, device=device)

    @property
    def can_fall(self) -> bool:
        """Whether an overflow says no more than that this scale is too large."""
        return self.value > self.rule.minimum

    def unscale_ascent_(self, gradients: list[Tensor]) -> None:
        """Divide in place. A gradient that has overflowed counts as 0, and the update that it belongs to is skipped."""
        if gradients:
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._overflow, self._inverse)
        overflow = self._overflow.bool()
        for gradient in gradients:  # whatever the method makes of it stays finite, without a wait for the device
            gradient.masked_fill_(overflow, 0.0)

    def agree(self, exchange: Exchange) -> None:
        """Before the step, on all replicas of the member: an overflow of one is one of all."""
        exchange.mean_over_replicas_([self._overflow])

    @property
    def ascent_overflowed(self) -> bool:
        """Whether the update is to be skipped for an ascent gradient; the host waits for the device."""
        return bool(self._overflow.item())

    def unscale_(self, gradients: list[Tensor]) -> None:
        """Divide descent gradients in place: by NaN, for a skipped step, where an ascent gradient has overflowed."""
        torch._foreach_mul_(gradients, torch.where(self._overflow > 0, torch.nan, self._inverse))

    def update(self, skipped: bool) -> None:
        """Take note of an update."""
        rule = self.rule
        if not skipped:
            self._quiet += 1
            if self._quiet == rule.interval:
                self.value, self._quiet, self._spared = min(2 * self.value, LARGEST), 0, rule.hysteresis - 1
        elif self._spared:
            self._quiet, self._spared = 0, self._spared - 1
        else:
            self._quiet, self.value = 0, max(rule.backoff * self.value, rule.minimum)
        self._overflow.zero_()
        self._inverse.fill_(1 / self.value)

    def state(self) -> dict[str, Any]:
        """What the next updates depend on."""
        return {"value": self.value, "quiet": self._quiet, "spared": self._spared}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.value, self._quiet, self._spared = state["value"], state["quiet"], state["spared"]
        self._inverse.fill_(1 / self.value)
