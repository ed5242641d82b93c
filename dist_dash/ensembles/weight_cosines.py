"""Members as points in weight space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def weight_cosines(networks: Sequence[nn.Module]) -> NDArray[np.float64] | None:
    """Cosines between the members' trainable parameters, each member's taken as one vector.

    Args:
        networks: the members.

    Returns:
        `[members, members]`, computed in float64; 0 for a member whose weights are all 0. None where members differ in
        the names or shapes of their parameters.
    """
    members = [{name: p.detach() for name, p in net.named_parameters() if p.requires_grad} for net in networks]
    shapes = [{name: tuple(p.shape) for name, p in member.items()} for member in members]
    if any(one != shapes[0] for one in shapes):
        return None
    products = torch.zeros(len(members), len(members), dtype=torch.float64)
    for name in shapes[0]:
        rows = torch.stack([member[name].cpu().double().flatten() for member in members])
        products += rows @ rows.T
    lengths = products.diagonal().sqrt()
    cosines = torch.where(products == 0, products, products / torch.outer(lengths, lengths)).clamp(-1, 1)
    cosines.fill_diagonal_(1.0).diagonal()[lengths == 0] = 0.0
    found: NDArray[np.float64] = cosines.numpy()
    return found
