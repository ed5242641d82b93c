"""A multi-layer perceptron, for vectors and for small images taken as vectors."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from dist_dash.errors import require, require_count, require_fraction
from dist_dash.models.architecture import Architecture


class MLP(Architecture):
    """A multi-layer perceptron with ReLU; images are flattened.

    Args:
        hidden: Units of each hidden layer.
        depth: Number of hidden layers; 0 is a linear classifier.
        norm: Normalisation before each ReLU.
        dropout: Probability with which a hidden unit is dropped in training, after each ReLU.
    """

    def __init__(
        self, hidden: int = 128, depth: int = 2, norm: Literal["none", "batch"] = "none", dropout: float = 0.0
    ) -> None:
        require_count("model.hidden", hidden)
        require_count("model.depth", depth, 0, 1000)
        require(norm in ("none", "batch"), "model.norm", norm, "none or batch")
        require_fraction("model.dropout", dropout)
        self.hidden = hidden
        self.depth = depth
        self.norm = norm
        self.dropout = dropout

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(shape)
        for _ in range(self.depth):
            # A bias before batch norm would be subtracted again.
            layers.append(nn.Linear(features, self.hidden, bias=self.norm == "none"))
            if self.norm == "batch":
                layers.append(nn.BatchNorm1d(self.hidden))
            layers.append(nn.ReLU())
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            features = self.hidden
        return nn.Sequential(*layers, nn.Linear(features, classes))
