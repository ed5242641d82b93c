"""From an architecture and a data set's statistics to the network that takes stored samples."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from dist_dash.models import Architecture, Normalise


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


def seeded_network(seed: int, *arguments: object) -> nn.Sequential:
    """`build_network(*arguments)`, its initial weights a function of `seed` alone; other draws go on as before."""
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the host
        torch.manual_seed(seed)
        return build_network(*arguments)  # type: ignore[arg-type]
