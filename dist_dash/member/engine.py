"""One member's optimizer and precision: the interface, and plain torch as its reference implementation.

Master weights are fp32 (fp64 for checks), always: perturbations are added to them, and autocast feeds the kernels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dist_dash.errors import BadInput, require, require_non_negative, require_positive
from dist_dash.member.averaging import DescentAverage
from dist_dash.member.late import Late
from dist_dash.member.optimizer import MakeOptimizer
from dist_dash.ranks.exchange import Exchange

Precision = Literal["fp32", "fp64", "bf16", "fp16"]


class Engine(ABC):
    """Owns a member's parameters, their precision, the averaging over replicas, and the update.

    Args:
        precision: fp32, fp64 (for checks) or bf16 (autocast over fp32 masters). fp16 is refused: its loss scaling has
            not been shown right here.
        clip: largest global norm of the descent gradient; 0 does not clip.
        bucket_mb: megabytes of gradient that replicas average together, while the backward computes the next; of a
            small network less.
    """

    def __init__(self, precision: Precision = "fp32", clip: float = 0.0, bucket_mb: float = 25.0) -> None:
        if precision == "fp16":
            raise BadInput("engine.precision: fp16 is not supported, its loss scaling is unproven; use bf16 or fp32")
        require(precision in ("fp32", "fp64", "bf16"), "engine.precision", precision, "fp32, fp64 or bf16")
        require_non_negative("engine.clip", clip)
        require_positive("engine.bucket_mb", bucket_mb)
        self.precision, self.clip, self.bucket_mb = precision, clip, bucket_mb
        self.skipped: bool | Late = False

    @property
    def dtype(self) -> torch.dtype:
        """Type of the master weights, logits and losses."""
        return torch.float64 if self.precision == "fp64" else torch.float32

    def attach(self, module: nn.Module, make_optimizer: MakeOptimizer, exchange: Exchange) -> None:
        """Take over `module`, move it to this rank's device and build its optimizer."""
        self.module = module.to(exchange.layout.device, self.dtype)
        self.exchange = exchange
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters)
        self.learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.register_step_pre_hook(self._leave_out_non_finite)
        self._autocast_device = exchange.layout.device.type
        self.decides_on_device = self._autocast_device == "cuda"
        """Whether the device decides, where the optimizer can, if an update is skipped: the host then does not wait."""
        self._channels_last = in_channels_last(module)
        self._average: DescentAverage | None = None
        if exchange.layout.replicas > 1 and self.averages:
            self._average = DescentAverage(self.parameters, self.bucket_mb, exchange)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, C]` in the master type; one autocast context each: a shared one's cache hides perturbations."""
        if self._channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._autocast_device, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.module(x)
        return logits.to(self.dtype)

    @property
    def averages(self) -> bool:
        """Whether the descent gradient is averaged over the replicas here, and not by the step of a library."""
        return True

    def averaging(self, loss: Tensor, last: bool) -> AbstractContextManager[None]:
        """The body is the backward of `loss`; if it is the `last` of the update, its gradient is averaged meanwhile."""
        return nullcontext() if self._average is None else self._average.backward(loss, last)

    def finish_average(self) -> None:
        """Every `.grad` is the mean over the replicas afterwards, where it is averaged here; comes before `step`."""
        if self._average is not None:
            self._average.finish()

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the descent gradient."""

    @abstractmethod
    def step(self) -> None:
        """Clip, update, clear; `skipped`: the gradient was not finite."""

    def scale_learning_rate(self, factor: float) -> None:
        """Set every group's learning rate to `factor` times its configured value."""
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = factor * rate

    def restart(self, module: nn.Module) -> None:
        """Start anew from the weights and buffers of a network of the same architecture; the optimizer forgets all.

        Not for an optimizer whose state is sharded (ZeRO 1 and 2).
        """
        self.module.load_state_dict(module.state_dict())
        self.optimizer.state.clear()
        self.optimizer.zero_grad(set_to_none=True)

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What this rank must keep to go on to the same bits: weights, buffers, optimizer."""

    @abstractmethod
    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Take back what `state` gave on the ranks of this member (one entry a replica)."""

    def _leave_out_non_finite(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Hide a non-finite gradient from the optimizer, which then moves nothing, not even its momentum.

        Where the device does not decide, the host waits for it here: the one place of an update where it does.
        """
        used = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Queued behind the backward before any wait: what the host does after it, it does while the device idles.
        finite = torch.stack(torch._foreach_norm([p.grad for p in used])).isfinite().all() if used else None
        late = finite is not None and self.device_decides(optimizer)
        if hasattr(optimizer, "_step_supports_amp_scaling"):
            # Where it is 1, fused kernels leave everything as it is: torch's GradScaler rests on the same.
            optimizer.found_inf = (~finite).float() if late else None  # type: ignore[attr-defined, operator]
        if late:
            begin_momentum(optimizer, used)
            self.skipped = Late(~finite, self.exchange.await_device)  # type: ignore[operator]
            return
        self.exchange.await_device()
        self.skipped = finite is not None and not finite.item()
        if self.skipped:
            optimizer.zero_grad(set_to_none=True)

    def device_decides(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it is the device's word that skips an update of this optimizer."""
        groups = optimizer.param_groups
        fused = getattr(optimizer, "_step_supports_amp_scaling", False) and all(group.get("fused") for group in groups)
        return self.decides_on_device and fused and not any(group.get("dampening") for group in groups)


def begin_momentum(optimizer: torch.optim.Optimizer, used: list[nn.Parameter]) -> None:
    """Fused SGD leaves undefined what it makes in a first update that is skipped; from 0 on, it does the same."""
    for p in used if any(group.get("momentum") for group in optimizer.param_groups) else []:
        if optimizer.state[p].get("momentum_buffer") is None:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def in_channels_last(module: nn.Module) -> bool:
    """Whether a network keeps the weights of its convolutions with the channels innermost."""
    kernels = [p for p in module.parameters() if p.dim() == 4 and not p.is_contiguous()]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def linear_loss(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`⟨θ, gradients⟩`, a loss that has just these gradients."""
    return torch.stack([(p * g).sum() for p, g in zip(parameters, gradients, strict=True)]).sum()


class Torch(Engine):
    """Plain torch: the reference that DeepSpeed is compared with."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        if self.exchange.layout.replica:
            return {}  # replicas are equal: the first one's state is read back
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, states: list[dict[str, Any]]) -> None:
        self.module.load_state_dict(states[0]["module"])
        self.optimizer.load_state_dict(states[0]["optimizer"])
