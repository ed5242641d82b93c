"""Networks: configurations by name (`Architecture`), input normalisation, pretrained weights.

May import `data` and everything below. Start with `architecture.py`.
"""

from __future__ import annotations

from dist_dash.models.architecture import Architecture
from dist_dash.models.custom import Custom
from dist_dash.models.mlp import MLP
from dist_dash.models.normalise import Normalise
from dist_dash.models.resnet import ResNet
from dist_dash.models.small_cnn import SmallCNN
from dist_dash.models.weights import load_pretrained
from dist_dash.models.wide_resnet import WideResNet
from dist_dash.models.zoo import Timm, Torchvision

__all__ = [
    "MLP",
    "Architecture",
    "Custom",
    "Normalise",
    "ResNet",
    "SmallCNN",
    "Timm",
    "Torchvision",
    "WideResNet",
    "load_pretrained",
]
