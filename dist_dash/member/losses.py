"""The pure formulas on logits: cross-entropy, the diversity KL, the ensemble's own loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def smoothed(target: Tensor, smoothing: float, heads: tuple[int, ...] | None = None) -> Tensor:
    """Label smoothing: `(1−s)·target + s/C`; `target` are class probabilities `[n, C]`, of each of the `heads`."""
    if not smoothing:
        return target
    classes = target.new_tensor([c for c in heads for _ in range(c)]) if heads else target.shape[-1]
    return (1 - smoothing) * target + smoothing / classes


def cross_entropy(logits: Tensor, target: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """`−Σ_c t_c log σ(z)_c` of logits and class probabilities `[n, C]`: their mean, or one value a sample.

    Like all formulas here: of the logits `[k, n, C]` of k members, k means or `[k, n]` values.
    """
    losses = -(target * torch.log_softmax(logits, dim=-1)).sum(-1)
    return losses.mean(-1) if reduction == "mean" else losses


def diversity(logits: Tensor, peers: Tensor, excluded: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """L_div: `mean_B KL( σ(ẑ_i/τ) ‖ σ(ẑ_-i/τ) )`, the disagreement with the peers (Bui et al., arXiv 2403.13204).

    Args:
        logits: the member's own logits `[n, C]`; the gradient flows into these alone.
        peers: the other members' logits, combined, `[n, C]`; taken as constants.
        excluded: true classes `[n, C]` (bool), left out of both distributions: members should disagree on how
            they would be wrong, not on the answer. None leaves no class out.
        temperature: τ > 0.
    """
    own, other = logits / temperature, peers.detach() / temperature
    if excluded is not None:
        own, other = own.masked_fill(excluded, -torch.inf), other.masked_fill(excluded, -torch.inf)
    log_p, log_q = torch.log_softmax(own, -1), torch.log_softmax(other, -1)
    log_ratio = (log_p - log_q).detach()
    if excluded is not None:
        log_ratio = log_ratio.masked_fill(excluded, 0.0)  # −∞ on both sides counts 0, not the NaN of ∞ − ∞
    # Σ p ∇log p = 0, so the log-ratio may be held constant; and equal members then get exactly no gradient, where
    # the rounding noise of the full expression would be blown up to length ρ by unit().
    return (log_p.exp() * log_ratio).sum(-1).mean(-1)


def ensemble_loss(logits: Tensor, peers_probs: Tensor, peers: Tensor, target: Tensor) -> Tensor:
    """L_ens: `−mean_B Σ_c t_c log( mean_j σ(z_j)_c )`, with the gradient into this member's logits alone.

    Args:
        logits: the member's own logits `[n, C]`.
        peers_probs: mean of the other members' softmax `[n, C]`, a constant.
        peers: how many others that mean is over, a number or a tensor that fits the logits.
        target: class probabilities `[n, C]`.
    """
    mean = (torch.softmax(logits, -1) + peers * peers_probs.detach()) / (peers + 1)
    return -(target * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum(-1).mean(-1)
