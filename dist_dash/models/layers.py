"""Layers that several architectures share."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

NormKind = Literal["batch", "group"]

MIN_CHANNELS_PER_GROUP = 4  # one channel a group is instance norm, which erases what global pooling would read


def norm_layer(kind: str, channels: int, groups: int | None = None) -> nn.Module:
    """The normalisation of a `[n, channels, H, W]` feature map, or nothing.

    Args:
        kind: `batch` (Ioffe & Szegedy 2015), `group` (Wu & He 2018: no running statistics, so nothing depends on the
            rest of the batch), or `none`.
        channels: Channels of the feature map.
        groups: Groups of the group norm, a divisor of `channels`; by default up to 32 with at least 4 channels each.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(groups or default_groups(channels), channels)


def default_groups(channels: int) -> int:
    """The largest power of two up to 32 that divides `channels` and leaves every group at least 4 of them."""
    groups = math.gcd(channels, 32)
    while groups > 1 and channels // groups < MIN_CHANNELS_PER_GROUP:
        groups //= 2
    return groups


def init_convolutions(net: nn.Module) -> None:
    """He et al. 2015 (fan-out, ReLU) for every convolution: the residual papers' own initialisation."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
