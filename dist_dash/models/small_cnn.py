"""A three-layer convolutional network: for tests, laptops and images of digits."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn

from dist_dash.errors import require, require_count
from dist_dash.models.architecture import Architecture, require_images
from dist_dash.models.layers import init_convolutions, norm_layer


class SmallCNN(Architecture):
    """Three 3x3 convolutions, global average pooling and a linear layer; any image size and channel count.

    Args:
        width: Channels of the first convolution; the second has twice, the third four times as many.
        norm: Normalisation after each convolution; `group` and `none` keep no running statistics.
    """

    def __init__(self, width: int = 16, norm: Literal["batch", "group", "none"] = "batch") -> None:
        require_count("model.width", width)
        require(norm in ("batch", "group", "none"), "model.norm", norm, "batch, group or none")
        self.width = width
        self.norm = norm

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        require_images(self, shape)
        width = self.width
        net = nn.Sequential(
            OrderedDict(
                stage1=self._stage(shape[0], width, stride=1),
                # Strided, not max-pooled: the backward of max pooling need not be deterministic on GPUs.
                stage2=self._stage(width, 2 * width, stride=2),
                stage3=self._stage(2 * width, 4 * width, stride=2),
                pool=GlobalAverage(),
                fc=nn.Linear(4 * width, classes),
            )
        )
        init_convolutions(net)
        return net

    def _stage(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        bias = self.norm == "none"  # a norm has its own
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
        return nn.Sequential(conv, norm_layer(self.norm, outputs), nn.ReLU(inplace=True))


class GlobalAverage(nn.Module):
    """The mean over the pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))
