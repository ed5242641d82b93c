"""From stored samples to what a network sees: kept with the network, so that an export takes raw samples."""

from __future__ import annotations

import math

import torch
from torch import nn

from dist_dash.errors import BadInput, require


class Normalise(nn.Module):
    """`(x · scale − mean) / std` of raw samples `[n, C, H, W]` or `[n, F]`, in the dtype of its buffers.

    The scale is 1/255 for data that is stored as uint8 and 1 for other data. It is fixed here rather than read off the
    input: mixup makes floats of uint8 samples, and they are still in units of 0…255.

    Args:
        mean: Mean of each channel, in scaled units; one number for vectors.
        std: Standard deviation of each channel, in the same units.
        uint8: Whether the data is stored as uint8.

    Raises:
        BadInput: `mean` and `std` differ in length, are empty or not finite, or a `std` is not positive.
    """

    mean: torch.Tensor
    std: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], uint8: bool) -> None:
        super().__init__()
        require(len(mean) > 0 and all(map(math.isfinite, mean)), "mean", mean, "a finite number for each channel")
        require(len(std) == len(mean), "std", std, f"of the length of the mean, {len(mean)}")
        require(all(math.isfinite(s) and s > 0 for s in std), "std", std, "a finite number > 0 for each channel")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()))
        self.register_buffer("std", torch.tensor(std, dtype=torch.get_default_dtype()))
        self.register_buffer("scale", torch.tensor(1 / 255 if uint8 else 1.0, dtype=torch.get_default_dtype()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[n, C, H, W]` or `[n, F]` of any dtype → the same shape; raises `BadInput` for other channel counts."""
        if len(self.mean) not in (1, x.shape[1]):
            # Broadcasting would quietly make three channels of one.
            raise BadInput(f"samples of shape {list(x.shape[1:])} do not fit a network of {len(self.mean)} channels")
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        return (x.to(self.mean.dtype) * self.scale - self.mean.view(per_channel)) / self.std.view(per_channel)
