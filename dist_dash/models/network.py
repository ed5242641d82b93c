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


def seeded_network(seed: int, *arguments: object) -> nn.Sequential:
    """`build_network(*arguments)`, its initial weights a function of `seed` alone; other draws go on as before."""
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the host
        torch.manual_seed(seed)
        return build_network(*arguments)  # type: ignore[arg-type]
