"""ResNet-18, -34 and -50 (He et al. 2016), with torchvision's parameter names: its weights load by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import relu

from dist_dash.errors import require
from dist_dash.models.architecture import Architecture, require_images
from dist_dash.models.layers import NormKind, init_convolutions, norm_layer

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # blocks in each stage
Norm = Callable[[int], nn.Module]


class ResNet(Architecture):
    """A residual network: "Deep Residual Learning for Image Recognition", He et al. 2016.

    The 50-layer one strides in its 3x3 convolution ("v1.5"), as the published weights do.

    Args:
        depth: Layers: 18 and 34 have basic blocks, 50 has bottlenecks.
        stem: `imagenet` is a strided 7x7 convolution and max pooling (a quarter of height and width is left when
            the stages begin); `cifar` is one 3x3 convolution, for images of 32x32 or so.
        norm: `batch`, or `group`, which keeps no running statistics.
        groups: Groups of the group norm, a divisor of 64; unused with batch norm.
        zero_init_residual: Start every residual branch at zero (Goyal et al. 2017), which helps large batches.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50] = 18,
        stem: Literal["cifar", "imagenet"] = "cifar",
        norm: NormKind = "batch",
        groups: int = 32,
        zero_init_residual: bool = False,
    ) -> None:
        require(depth in STAGES, "model.depth", depth, "18, 34 or 50")
        require(stem in ("cifar", "imagenet"), "model.stem", stem, "cifar or imagenet")
        require(norm in ("batch", "group"), "model.norm", norm, "batch or group")
        # Every feature map has a multiple of 64 channels.
        require(groups >= 1 and 64 % groups == 0, "model.groups", groups, "a divisor of 64")
        self.depth = depth
        self.stem = stem
        self.norm = norm
        self.groups = groups
        self.zero_init_residual = zero_init_residual

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        require_images(self, shape)
        block = Bottleneck if self.depth == 50 else BasicBlock
        norm = partial(norm_layer, self.norm, groups=self.groups)
        net = ResNetModule(block, STAGES[self.depth], self.stem, norm, shape[0], classes)
        init_convolutions(net)
        if self.zero_init_residual:
            for module in net.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.get_parameter("weight"))
                elif isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.get_parameter("weight"))
        return net


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: `[n, inputs, H, W]` → `[n, width, H/stride, W/stride]`."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.downsample = shortcut(inputs, width, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block of He et al. 2016, figure 5 left."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut: `[n, inputs, H, W]` → `[n, 4·width, H/stride, W/stride]`."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = norm(outputs)
        self.downsample = shortcut(inputs, outputs, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block of He et al. 2016, figure 5 right."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        out = relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


def shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module | None:
    """The projection beside a block that changes the feature map's shape; None where the identity will do."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


class ResNetModule(nn.Module):
    """The network that `ResNet.build` makes: `[n, C, H, W]` → `[n, classes]`."""

    def __init__(
        self, block: Block, blocks: tuple[int, int, int, int], stem: str, norm: Norm, channels: int, classes: int
    ) -> None:
        super().__init__()
        self.maxpool: nn.Module = nn.Identity()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = norm(64)
        self.layer1 = stage(block, 64, 64, blocks[0], 1, norm)
        self.layer2 = stage(block, 64 * block.expansion, 128, blocks[1], 2, norm)
        self.layer3 = stage(block, 128 * block.expansion, 256, blocks[2], 2, norm)
        self.layer4 = stage(block, 256 * block.expansion, 512, blocks[3], 2, norm)
        self.fc = nn.Linear(512 * block.expansion, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Stem, four stages, global average pooling, linear head."""
        x = self.maxpool(relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


Block = type[BasicBlock] | type[Bottleneck]


def stage(block: Block, inputs: int, width: int, blocks: int, stride: int, norm: Norm) -> nn.Sequential:
    """Blocks of one width, the first of which may stride."""
    rest = [block(width * block.expansion, width, 1, norm) for _ in range(blocks - 1)]
    return nn.Sequential(block(inputs, width, stride, norm), *rest)
