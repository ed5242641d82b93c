"""Gradients of single samples: how sharp each one is for a member."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from dist_dash.member.batch import MicroBatch
from dist_dash.member.member import Member

CHUNK = 16
"""Samples whose gradients are held at once."""


def squared_gradient_norms(member: Member, micro: MicroBatch) -> Tensor:
    """`‖∇_θ ℓ_i‖₂²` of each sample `[n]`, float64, in evaluation mode: the trace of the empirical Fisher information.

    Args:
        member: whose weights; its network must be one that `torch.func.vmap` can batch.
        micro: the samples.
    """
    module = member.engine.module
    values = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    others = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    others |= dict(module.named_buffers())

    def loss(weights: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        logits = functional_call(module, {**weights, **others}, (x.unsqueeze(0),))
        one = MicroBatch(x.unsqueeze(0), target.unsqueeze(0), target.unsqueeze(0) > 0, micro.ids[:1], micro.heads)
        return one.loss(logits.to(target.dtype))

    def squares(weights: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return torch.stack([g.double().square().sum() for g in grad(loss)(weights, x, target).values()]).sum()

    if not len(micro.x):
        return torch.empty(0, dtype=torch.float64, device=micro.x.device)
    with member.evaluating():
        return vmap(squares, in_dims=(None, 0, 0), chunk_size=CHUNK)(values, micro.x, micro.target).detach()
