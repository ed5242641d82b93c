"""From an architecture and a data set's statistics to the network that takes stored samples."""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dist_dash.errors import BadInput, own_code
from dist_dash.models import MLP, Architecture, Normalise, ResNet, SmallCNN, WideResNet
from dist_dash.models.architecture import one_line

OF_ANY_WIDTH = (MLP, ResNet, SmallCNN, WideResNet)


def build_network(
    architecture: Architecture,
    shape: tuple[int, ...],
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    uint8: bool,
) -> nn.Sequential:
    """`normalise` then `net`: stored samples `[n, *shape]` (uint8 or float) → logits `[n, classes]`.

    The normalisation is part of the network, so that what is exported needs to know nothing of the training data.
    Draws the initial weights from torch's global generator.
    """
    normalise = Normalise(mean, std, uint8)
    return nn.Sequential(OrderedDict(normalise=normalise, net=architecture.build(shape, classes)))


def try_network(
    network: nn.Module, shape: tuple[int, ...], heads: Sequence[int], batch_size: int = 2, by_grad: bool = False
) -> None:
    """Try a network on two samples, or on one where batches have no more: evaluated, and trained.

    Its weights, buffers and the random numbers are afterwards as before. What the user's own code raises passes.

    Args:
        network: stored samples → logits, on the host; in training mode, before and after.
        shape: of a sample.
        heads: the number of classes of each head.
        batch_size: samples in a micro-batch.
        by_grad: whether gradients are taken by `torch.autograd.grad` too.

    Raises:
        BadInput: it does not take such samples, its logits are not `[n, Σ heads]`, or it cannot be trained.
    """
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    _try_evaluated(network, shape, heads)
    try:
        _try_training(network, torch.zeros(min(2, batch_size), *shape), heads, by_grad)
    except BadInput as error:
        if batch_size > 1:
            raise
        _try_training(network, torch.zeros(2, *shape), heads, by_grad)
        raise BadInput(
            f"loader.batch_size: 1 is not allowed with this network; it must be 2 or more: {error}"
        ) from error
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)


def _try_evaluated(network: nn.Module, shape: tuple[int, ...], heads: Sequence[int]) -> None:
    """Forward in evaluation mode; the network is in training mode afterwards."""
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    if norms:  # its statistics are those of all ranks, hence of all members
        hint = "use BatchNorm, whose running statistics a member's replicas average after every update"
        raise BadInput(f"model: {norms[0].removeprefix('net.')} is a SyncBatchNorm, which is not allowed; {hint}")
    network.eval()
    with torch.no_grad(), _explained(f"model: cannot take samples of shape {list(shape)}"):
        logits = network(torch.zeros(2, *shape))
    _check_logits(logits, 2, heads, "")
    network.train()


def _try_training(network: nn.Module, x: Tensor, heads: Sequence[int], by_grad: bool) -> None:
    """Forward and backward in training mode; the weights have no gradient afterwards."""
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    with torch.random.fork_rng(devices=[]), _explained(f"model: cannot be trained on a batch of {len(x)}"):
        logits = network(x)
        _check_logits(logits, len(x), heads, " in training mode")
        if not logits.requires_grad:
            raise BadInput("model: has no trainable weights that its logits depend on; it must have some")
        logits.sum().backward()
    reached = [name for name, parameter in named.items() if parameter.grad is not None]
    network.zero_grad(set_to_none=True)
    if not by_grad:
        return
    why = "model: a method that perturbs cannot train it; checkpoint with use_reentrant=False"
    with torch.random.fork_rng(devices=[]), _explained(why):
        found = torch.autograd.grad(network(x).sum(), [*named.values()], allow_unused=True)
    lost = {name for name, gradient in zip(named, found, strict=True) if gradient is None}
    if silent := [name.removeprefix("net.") for name in reached if name in lost]:
        raise BadInput(f"{why} (torch.autograd.grad finds no gradient of {silent[0]})")


def _check_logits(logits: Any, samples: int, heads: Sequence[int], when: str) -> None:
    classes = sum(heads)
    if not isinstance(logits, Tensor):
        what = f"a tensor of logits ({samples}, {classes})"
        raise BadInput(f"model: gives a {type(logits).__name__}{when}; it must give {what}")
    if tuple(logits.shape) != (samples, classes):
        hint = f", the sum over {len(heads)} heads" if len(heads) > 1 else ""
        found = f"logits of shape {tuple(logits.shape)} for {samples} samples{when}"
        raise BadInput(f"model: gives {found}; it must be ({samples}, {classes}){hint}")


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """One line for what torch complains of; an error of the user's own code passes."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        own = own_code(error)
        if own is not None and not _by_torch(error, own):
            raise
        where = f"{own.filename}:{own.lineno}: " if own else ""
        raise BadInput(f"{what} ({where}{one_line(error)})") from error


def _by_torch(error: Exception, own: traceback.FrameSummary) -> bool:
    """Whether torch has raised it, in what the user's own code called: shapes that do not fit, as a rule."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if (last.filename, last.lineno) == (own.filename, own.lineno):  # torch's own lines in C++ have no frame
        return type(error) is RuntimeError and not re.search(r"\braise\b", own.line or "")
    return isinstance(error, RuntimeError | ValueError | IndexError | AssertionError)


def seeded_network(seed: int, *arguments: Any, heads: Sequence[int] = ()) -> nn.Sequential:
    """`build_network(*arguments)`, its initial weights a function of `seed` alone; other draws go on as before.

    Args:
        seed: of the weights.
        arguments: of `build_network`.
        heads: the number of classes of each head, to try the network with: layers that are built by the first samples
            that they see (`LazyLinear`) are built here, of the same seed. None: it is not tried.

    Raises:
        BadInput: the network does not take such samples, has other logits, or does not fit into memory.
    """
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the host
        _check_size(*arguments[:3])
        torch.manual_seed(seed)
        try:
            network = build_network(*arguments)
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or "allocate" in str(error)):
                raise
            raise BadInput(f"model: does not fit into this machine's memory ({one_line(error)})") from error
        if heads:
            _try_evaluated(network, arguments[1], heads)
        return network


def add_noise(network: nn.Module, scale: float, seed: int) -> None:
    """Add Gaussian noise to each parameter, of `scale` times the root mean square of its values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * parameter.square().mean().sqrt(), alpha=scale)


def draws_in_training(network: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a forward in training mode draws random numbers, as dropout does; the network stays as it is."""
    buffers = [buffer.clone() for buffer in network.buffers()]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        network.train()(torch.zeros(2, *shape))
        drew = not torch.equal(before, torch.get_rng_state())
        for buffer, value in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(value)
    return drew


def _check_size(architecture: Architecture, shape: tuple[int, ...], classes: int) -> None:
    """Refuse a network of this project that is larger than the machine's memory: the system may kill who tries."""
    if not isinstance(architecture, OF_ANY_WIDTH):
        return
    settings = ", ".join(f"{name} {value}" for name, value in vars(architecture).items())
    what = f"model: {type(architecture).__name__} ({settings})"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with torch.device("meta"):
            size = 4 * sum(parameter.numel() for parameter in architecture.build(shape, classes).parameters())
    except (RuntimeError, OverflowError, TypeError) as error:  # more than 64 bits
        raise BadInput(f"{what} cannot be built ({one_line(error)}); it must be smaller") from error
    if size > memory:
        sizes = f"{size / 2**30:.0f} GiB; it must fit into this machine's memory, {memory / 2**30:.0f} GiB"
        raise BadInput(f"{what} takes {sizes}")
