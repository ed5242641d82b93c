"""The memory that one rank will need on its accelerator, estimated from shapes before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_dash.errors import BadInput
from dist_dash.models import Architecture
from dist_dash.models.architecture import one_line
from dist_dash.models.network import build_network
from dist_dash.recipe.recipe import Recipe

PARTS = ("weights", "gradients", "optimizer", "method", "activations")


@dataclass(frozen=True)
class Memory:
    """The memory of one rank, in bytes.

    Args:
        parameters: number of the network's parameters.
        weights: the master weights, and under bf16 the casts of them that feed the kernels.
        gradients: the descent gradient.
        optimizer: its state; under ZeRO 1 and 2 this rank's shard of it and of a second copy of the weights.
        method: the ascent's gradients, the perturbation, and the weights that are kept meanwhile.
        activations: tensors that a micro-batch's forward keeps for its backward.
    """

    parameters: int
    weights: float
    gradients: float
    optimizer: float
    method: float
    activations: float

    @property
    def total(self) -> float:
        """All parts, as if their peaks fell together."""
        return sum(getattr(self, part) for part in PARTS)


@dataclass(frozen=True)
class _Measured:
    """A network: all parameters, trainable ones; floats and bytes of other types kept per sample for the backward."""

    parameters: int
    trainable: int
    floats: float
    other_bytes: float


def estimate(recipe: Recipe, replicas: int, shape: tuple[int, ...], classes: int, uint8: bool) -> Memory:
    """The memory of each rank during training; where members have different architectures, for the largest of them.

    The estimate leaves out the CUDA context (about 0.5 GiB), workspace and gradients of activations, temporaries of
    the optimizer and of SAM's perturbation for unusual p, buffers of the exchange and of ZeRO (as large as the
    gradient, 0.8 GB at most), batch-norm statistics, and losses by fragmentation. Under bf16 every activation counts
    two bytes, though autocast leaves a few in fp32. Sharded gradients of ZeRO 2 count in full: its bucket takes their
    place. An optimizer that needs an accelerator counts as Adam.

    Args:
        recipe: of the run.
        replicas: ranks per member.
        shape: of a sample, `(C, H, W)` or `(F,)`.
        classes: number of classes of the data.
        uint8: whether samples are stored as bytes.

    Raises:
        BadInput: a network does not take such samples.
    """
    architectures = {repr((type(model), vars(model))): model for model in recipe.models or [recipe.model]}
    found = [_memory(recipe, replicas, _measure(model, shape, classes, uint8)) for model in architectures.values()]
    return max(found, key=lambda memory: memory.total)


def describe(memory: Memory) -> str:
    """One line: `about 7.9 GiB per rank (weights 0.1, gradients 0.1, optimizer 0.1, method 0.2, activations 7.4)`."""
    unit, name = (2**30, "GiB") if memory.total >= 2**30 else (2**20, "MiB")
    parts = ", ".join(f"{part} {getattr(memory, part) / unit:.1f}" for part in PARTS)
    return f"about {memory.total / unit:.1f} {name} per rank ({parts})"


# -- the parts ---------------------------------------------------------------------------------------------------------


def _memory(recipe: Recipe, replicas: int, network: _Measured) -> Memory:
    master = recipe.engine.dtype.itemsize
    low = recipe.engine.precision in ("bf16", "fp16")
    sharded = getattr(recipe.engine, "zero", 0) >= 1
    state = _state_of_optimizer(recipe, sharded)
    # ZeRO's optimizer updates a flat shard of its own, from which the network's weights are then gathered.
    optimizer = (state + master) / replicas if sharded else state
    if getattr(recipe.engine, "offload", "none") != "none":
        optimizer = 0.0  # in host memory
    sample = network.floats * (2 if low else master) + network.other_bytes
    here = recipe.members_per_rank
    return Memory(
        parameters=network.parameters,
        weights=here * float(network.parameters * (master + 2 * low)),
        gradients=here * float(network.trainable * master),
        optimizer=here * network.trainable * optimizer,
        method=here * float(network.trainable * master * recipe.method.copies(recipe.members or 2)),
        activations=here * recipe.loader.batch_size * sample,
    )


def _state_of_optimizer(recipe: Recipe, flat: bool) -> float:
    """Bytes per parameter that the optimizer keeps, found by one update of a small parameter.

    It is a matrix, as most parameters of a network are: some optimizers keep one number per row and column. `flat`: it
    is a vector, which ZeRO makes of all parameters.
    """
    weight = nn.Parameter(torch.zeros(4096 if flat else (64, 64), dtype=recipe.engine.dtype))
    optimizer = recipe.optimizer([weight])
    for group in optimizer.param_groups:
        group.update({name: False for name in ("capturable", "fused") if name in group})  # need an accelerator
    weight.grad = torch.ones_like(weight)
    try:
        optimizer.step()
    except Exception:  # an optimizer of the user may raise anything here, and yet work on the ranks
        return 2.0 * weight.element_size()
    kept = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    return sum(value.nbytes for value in kept if value.dim()) / weight.numel()


# -- the network -------------------------------------------------------------------------------------------------------


def _measure(model: Architecture, shape: tuple[int, ...], classes: int, uint8: bool) -> _Measured:
    """Build the network and run it forward on torch's meta device; on the host where it does not run there.

    The difference of two batch sizes cancels what every forward keeps whatever the batch (weights, statistics).
    """
    channels = shape[0] if len(shape) == 3 else 1
    problem: Exception = BadInput("model: cannot be built")
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device):
                network = build_network(model, shape, classes, (0.0,) * channels, (1.0,) * channels, uint8)
                floats, others = zip(*(_kept(network, torch.zeros(n, *shape)) for n in (2, 4)), strict=True)
        except Exception as error:  # a user's network may raise anything; the host's error is the one to report
            problem = error
            continue
        parameters = list(network.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        kept = (floats[1] - floats[0]) / 2, (others[1] - others[0]) / 2
        return _Measured(sum(p.numel() for p in parameters), trainable, *kept)
    if isinstance(problem, BadInput):
        raise problem
    raise BadInput(f"model: cannot take samples of shape {list(shape)} ({one_line(problem)})") from problem


def _kept(network: nn.Module, x: Tensor) -> tuple[float, float]:
    """Floats, and bytes of other types, that a forward of `x` keeps for the backward, each storage counted once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # kept alive, so that no other storage gets the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(x)
    floats = [t.untyped_storage().nbytes() / t.element_size() for t in kept.values() if t.is_floating_point()]
    others = [t.untyped_storage().nbytes() for t in kept.values() if not t.is_floating_point()]
    return sum(floats), float(sum(others))
