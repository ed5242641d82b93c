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
from dist_dash.member.loss_scale import LossScale, LossScaling
from dist_dash.member.optimizer import MakeOptimizer
from dist_dash.member.vector import own_memory
from dist_dash.ranks.exchange import Exchange

Precision = Literal["fp32", "fp64", "bf16", "fp16", "fp8"]
ReduceIn = Literal["master", "compute"]
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(ABC):
    """Owns a member's parameters, their precision, the averaging over replicas, and the update.

    Args:
        precision: fp32, fp64 (for checks), or bf16 or fp16 (autocast over fp32 masters). fp8 is refused: its scales
            live in the layers, where an ascent would change them.
        clip: largest global norm of the descent gradient; 0 does not clip.
        bucket_mb: megabytes of gradient that replicas average together, while the backward computes the next; of a
            small network less.
        reduce_in: type in which the descent gradient is averaged over replicas: that of the `master` weights, or that
            in which kernels `compute`, for half the traffic.
        scaling: how the loss scale of fp16 is found; of no effect otherwise.
    """

    def __init__(
        self,
        precision: Precision = "fp32",
        clip: float = 0.0,
        bucket_mb: float = 25.0,
        reduce_in: ReduceIn = "master",
        scaling: LossScaling = LossScaling(),  # noqa: B008  # it is frozen
    ) -> None:
        if precision == "fp8":
            why = "its scales live in the layers, where an ascent would change them"
            raise BadInput(f"engine.precision: fp8 is not supported, {why}; use bf16 or fp16")
        require(precision in ("fp32", "fp64", *LOW), "engine.precision", precision, "fp32, fp64, bf16 or fp16")
        require(reduce_in in ("master", "compute"), "engine.reduce_in", reduce_in, "master or compute")
        require_non_negative("engine.clip", clip)
        require_positive("engine.bucket_mb", bucket_mb)
        self.precision, self.clip, self.bucket_mb = precision, clip, bucket_mb
        self.reduce_in, self.scaling = reduce_in, scaling
        self.skipped: bool | Late = False
        self.searching = False
        """Whether the last update was skipped only because the loss scale has yet to fall."""
        self.loss_scale: LossScale | None = None

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
        if self.precision == "fp16":
            self.loss_scale = LossScale(self.scaling, exchange.layout.device)
        # Not in fp16: the scale of the next update rests on it.
        self.decides_on_device = exchange.layout.device.type == "cuda" and self.loss_scale is None
        """Whether the device decides, where the optimizer can, if an update is skipped: the host then does not wait."""
        self._channels_last = in_channels_last(module)
        self._average: DescentAverage | None = None
        if exchange.layout.replicas > 1 and self.averages:
            travel = LOW.get(self.precision) if self.reduce_in == "compute" else None
            self._average = DescentAverage(self.parameters, self.bucket_mb, exchange, travel)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, C]` in the master type; one autocast context each: a shared one's cache hides perturbations."""
        if self._channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            logits: Tensor = self.module(x)
        return logits.to(self.dtype)

    def _autocast(self) -> AbstractContextManager[Any]:
        low = LOW.get(self.precision)
        return torch.autocast(self.exchange.layout.device.type, low or torch.bfloat16, enabled=low is not None)

    def gradient(self, loss: Tensor, of: Sequence[Tensor], retain_graph: bool = False) -> list[Tensor]:
        """∇loss of this rank's samples, of some parameters, in the master type and in memory of its own.

        In fp16 it is taken under the loss scale. One that overflows is 0, and the update is going to be skipped.
        """
        scale = self.loss_scale
        scaled = loss if scale is None else scale.value * loss
        found = own_memory(
            torch.autograd.grad(scaled, of, retain_graph=retain_graph, allow_unused=True, materialize_grads=True)
        )
        if scale is not None:
            scale.unscale_ascent_(found)
        return found

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

    def step(self) -> None:
        """Clip, update, clear; `skipped`: the gradient was not finite."""
        scale = self.loss_scale
        if scale is not None:
            scale.agree(self.exchange)
        self._step()
        if scale is not None:
            skipped = bool(self.skipped)
            self.searching = skipped and scale.can_fall
            scale.update(skipped)

    @abstractmethod
    def _step(self) -> None:
        """`step`, but for what becomes of the loss scale."""

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

    def _state_of_scale(self) -> dict[str, Any]:
        return {} if self.loss_scale is None else {"loss_scale": self.loss_scale.state()}

    def _load_scale(self, states: list[dict[str, Any]]) -> None:
        if self.loss_scale is not None:
            self.loss_scale.load_state(states[0]["loss_scale"])

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
        (loss if self.loss_scale is None else self.loss_scale.value * loss).backward()

    def _step(self) -> None:
        if self.loss_scale is not None:
            self.loss_scale.unscale_([p.grad for p in self.parameters if p.grad is not None])
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        if self.exchange.layout.replica:
            return {}  # replicas are equal: the first one's state is read back
        # A file with a view of a stack of members would hold all of the stack.
        present = self.module.state_dict()
        module = {n: t.clone() if t.nbytes < t.untyped_storage().nbytes() else t for n, t in present.items()}
        return {"module": module, "optimizer": self.optimizer.state_dict(), **self._state_of_scale()}

    def load_state(self, states: list[dict[str, Any]]) -> None:
        self.module.load_state_dict(states[0]["module"])
        self.optimizer.load_state_dict(states[0]["optimizer"])
        self._load_scale(states)
