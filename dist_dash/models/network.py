"""From an architecture and a data set's statistics to the network that takes stored samples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from dist_dash.errors import BadInput
from dist_dash.models import Architecture, Normalise
from dist_dash.models.architecture import one_line


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


def check_logits(network: nn.Module, shape: tuple[int, ...], heads: Sequence[int]) -> None:
    """Try a network on two samples.

    Args:
        network: stored samples → logits; in training mode, before and after.
        shape: of a sample.
        heads: the number of classes of each head.

    Raises:
        BadInput: it does not take such samples, or its logits are not `[2, Σ heads]`.
    """
    network.eval()
    try:
        with torch.no_grad():
            found = tuple(network(torch.zeros(2, *shape)).shape)
    except Exception as error:  # a network of the user's own may raise anything
        raise BadInput(f"model: cannot take samples of shape {list(shape)} ({one_line(error)})") from error
    network.train()
    if found != (2, sum(heads)):
        hint = f", the sum over {len(heads)} heads" if len(heads) > 1 else ""
        raise BadInput(f"model: gives logits of shape {found} for 2 samples; it must be (2, {sum(heads)}){hint}")


def seeded_network(seed: int, *arguments: object, heads: Sequence[int] = ()) -> nn.Sequential:
    """`build_network(*arguments)`, its initial weights a function of `seed` alone; other draws go on as before.

    Args:
        seed: of the weights.
        arguments: of `build_network`.
        heads: the number of classes of each head, to try the network with: layers that are built by the first samples
            that they see (`LazyLinear`) are built here, of the same seed. None: it is not tried.

    Raises:
        BadInput: the network does not take such samples, or has other logits.
    """
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the host
        torch.manual_seed(seed)
        network = build_network(*arguments)  # type: ignore[arg-type]
        if heads:
            check_logits(network, arguments[1], heads)  # type: ignore[arg-type]
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
