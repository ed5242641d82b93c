"""Wide residual networks with pre-activation (Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import relu

from dist_dash.errors import require, require_count, require_fraction
from dist_dash.models.architecture import Architecture, require_images
from dist_dash.models.layers import NormKind, init_convolutions, norm_layer


class WideResNet(Architecture):
    """WRN-depth-width: "Wide Residual Networks", Zagoruyko & Komodakis 2016; for images of 32x32 or so.

    Args:
        depth: Layers, 6·n + 4: n blocks of two convolutions in each of three stages.
        width: How many times wider than the original ResNet the stages are: 16, 32 and 64 channels times this.
        norm: `batch`, or `group`, which keeps no running statistics (up to 32 groups of at least 4 channels).
        dropout: Probability with which an activation is dropped between a block's two convolutions.
    """

    def __init__(self, depth: int = 28, width: int = 10, norm: NormKind = "batch", dropout: float = 0.0) -> None:
        require_count("model.depth", depth, 10, 10_000)
        require((depth - 4) % 6 == 0, "model.depth", depth, "6n + 4 with n ≥ 1: 10, 16, 22, 28, 40, …")
        require_count("model.width", width)
        require(norm in ("batch", "group"), "model.norm", norm, "batch or group")
        require_fraction("model.dropout", dropout)
        self.depth = depth
        self.width = width
        self.norm = norm
        self.dropout = dropout

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        require_images(self, shape)
        net = WideResNetModule((self.depth - 4) // 6, self.width, self.norm, self.dropout, shape[0], classes)
        init_convolutions(net)
        nn.init.zeros_(net.fc.bias)
        return net


class WideBlock(nn.Module):
    """Norm, ReLU, 3x3, norm, ReLU, dropout, 3x3 beside a shortcut: `[n, inputs, H, W]` → `[n, outputs, H/s, W/s]`."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.bn1 = norm_layer(norm, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = norm_layer(norm, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A projection reads the activated input, an identity the raw one, as in the authors' code."""
        activated = relu(self.bn1(x), inplace=True)
        out = relu(self.bn2(self.conv1(activated)), inplace=True)
        out = self.conv2(self.dropout(out))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNetModule(nn.Module):
    """The network that `WideResNet.build` makes: `[n, C, H, W]` → `[n, classes]`."""

    def __init__(self, blocks: int, width: int, norm: str, dropout: float, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        inputs = 16
        for stage in range(3):
            outputs = 16 * 2**stage * width
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                self.stages.append(WideBlock(inputs, outputs, stride, norm, dropout))
                inputs = outputs
        self.bn = norm_layer(norm, inputs)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolution, three stages, norm and ReLU, global average pooling, linear head."""
        x = relu(self.bn(self.stages(self.conv1(x))), inplace=True)
        return self.fc(x.mean((2, 3)))
