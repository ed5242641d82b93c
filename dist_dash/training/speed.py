"""How fast a run may be: its kernels, how networks lie in memory, whether they are compiled; and what came of it."""

from __future__ import annotations

from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from dist_dash.errors import BadInput, first_line
from dist_dash.member.engine import Engine, in_channels_last
from dist_dash.ranks.layout import ask_for_determinism, ask_for_speed
from dist_dash.recipe.recipe import Recipe

BACKEND = "inductor"


def choose_kernels(recipe: Recipe) -> None:
    """Set this process to the kernels that a recipe asks for."""
    ask_for_determinism(recipe.deterministic and recipe.speed == "exact")
    ask_for_speed(recipe.speed == "fast")


def laid_out(recipe: Recipe, network: nn.Module, device: torch.device) -> nn.Module:
    """The network, its convolutions with the channels innermost where the recipe and the device want that.

    On a GPU half of a step in bf16 goes into changing layouts otherwise; on CPUs it depends on the network.
    """
    wanted = recipe.memory_format == "channels_last" or (recipe.memory_format == "auto" and device.type == "cuda")
    if wanted and any(isinstance(module, nn.Conv2d) for module in network.modules()):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def compile_network(engine: Engine, x: Tensor) -> None:
    """Compile an engine's network, first of all for the training batches: what comes later changes nothing for them.

    Args:
        engine: attached to the network, whose names stay as they are.
        x: a micro-batch on the device.

    Raises:
        BadInput: it cannot be compiled here.
    """
    torch._functorch.config.donated_buffer = False  # methods go back through a graph twice
    engine.module.compile(backend=BACKEND, dynamic=False)
    buffers = [(buffer, buffer.clone()) for buffer in engine.module.buffers()]
    try:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.autograd.grad(engine.forward(x).sum(), engine.parameters, allow_unused=True)
    except Exception as error:  # the same network was tried uncompiled
        cause = getattr(error, "inner_exception", error)  # what a backend has raised
        why = f"{type(cause).__name__}: {first_line(cause)}"
        raise BadInput(f"compile: true is not possible here ({why}); it must be false") from error
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)


def in_force(recipe: Recipe, engine: Engine) -> dict[str, Any]:
    """What decides about speed and roundings, as it is on this rank: for `environment.json`."""
    return {
        "speed": recipe.speed,
        "deterministic_kernels": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "fp32_products": torch.get_float32_matmul_precision(),
        "memory_format": "channels_last" if in_channels_last(engine.module) else "contiguous",
        "compiled": recipe.compile,
        "fused_optimizer": all(bool(group.get("fused")) for group in engine.optimizer.param_groups),
        "skips_decided_on": "device" if engine.device_decides(engine.optimizer) else "host",
    }
