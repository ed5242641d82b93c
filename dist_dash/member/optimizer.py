"""Whether an optimizer can do what an update asks of it: one small step, tried before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dist_dash.errors import BadInput, own_code

MakeOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
"""From parameters, or groups of them."""
ON_ACCELERATORS = ("capturable", "fused")


def try_optimizer(
    make: MakeOptimizer,
    shapes: Iterable[Sequence[int]],
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """The optimizer after one step of small parameters.

    Args:
        make: builds the optimizer.
        shapes: of the parameters; they are tried with at most 2 elements in each dimension.
        device: of this rank; None where it is not known: what only accelerators can do is then left out.
        dtype: of the master weights.

    Raises:
        BadInput: it refuses its settings, these parameters, or the step.
    """
    parameters = [nn.Parameter(torch.ones([min(2, n) for n in shape], device=device, dtype=dtype)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    try:
        optimizer = make(parameters)
        for group in optimizer.param_groups if device is None else []:
            group.update({name: False for name in ON_ACCELERATORS if name in group})
        if isinstance(optimizer, torch.optim.LBFGS):
            raise BadInput("optimizer: LBFGS evaluates the loss again inside its step; it must be a first-order one")
        optimizer.step()
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        if isinstance(error, BadInput) or own_code(error):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"optimizer: {text}; the optimizer refuses it") from error
    if not all(isinstance(group.get("lr"), float | int | torch.Tensor) for group in optimizer.param_groups):
        raise BadInput(f"optimizer: {type(optimizer).__name__} has no learning rate lr; it must have one")
    return optimizer


def fused_by_default(make: MakeOptimizer, device: torch.device) -> MakeOptimizer:
    """On CUDA, torch's fused kernels where an optimizer has them and its settings leave that open; else `make`.

    They are faster, and take the device's word that an update is to be skipped. Fused SGD with dampening is left out:
    it cannot begin the momentum of one parameter after that of another.
    """
    if device.type != "cuda":
        return make

    def made(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        optimizer = make(parameters)
        settings = optimizer.defaults
        chosen = settings.get("fused", False) is not None or settings.get("foreach") is not None
        if chosen or settings.get("differentiable") or settings.get("dampening"):
            return optimizer
        return make(parameters, fused=True)  # type: ignore[call-arg]

    return made


def momentum_of(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The momentum to which the next update adds the gradient, one tensor per parameter; 0 before the first one.

    `momentum_buffer` of SGD, `exp_avg` of Adam and its kin; as the optimizer has it, with weight decay in it where the
    optimizer puts it there. Not for sharded optimizers (ZeRO 1 and 2).
    """
    states = [optimizer.state.get(p, {}) for p in parameters]
    kept = [state.get("momentum_buffer", state.get("exp_avg")) for state in states]
    return [torch.zeros_like(p) if v is None else v for v, p in zip(kept, parameters, strict=True)]
