"""One update's samples on the device: micro-batches of pixels, target probabilities and true classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_dash.member.losses import smoothed


@dataclass(frozen=True)
class MicroBatch:
    """`n` samples that fit on the device together.

    Args:
        x: stored pixels or features `[n, …]`, mixed where asked, not yet normalised (the network does that).
        target: class probabilities `[n, C]` for the loss: smoothed, mixed.
        true_classes: `[n, C]` bool, every class with a positive share before smoothing.
        ids: sample ids `[n]`.
    """

    x: Tensor
    target: Tensor
    true_classes: Tensor
    ids: Tensor

    def correct(self, logits: Tensor) -> Tensor:
        """Share of the samples whose most probable class is that with the largest share; 0-dimensional."""
        return (logits.argmax(-1) == self.target.argmax(-1)).to(logits.dtype).mean()


@dataclass(frozen=True)
class Batch:
    """The micro-batches of one update, and the update's index, counted from 0 over the whole run."""

    micro_batches: list[MicroBatch]
    step: int

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.micro_batches)

    def __len__(self) -> int:
        return len(self.micro_batches)


def micro_batch(
    x: Tensor,
    target: Tensor,
    ids: Tensor,
    mix: Tensor | None,
    smoothing: float,
    device: torch.device,
    dtype: torch.dtype,
) -> MicroBatch:
    """Move samples to the device and finish them there: mix pixels with those of the neighbour, smooth the targets.

    `mix` `[n]` is each sample's own share; its partner is the neighbour `2k ↔ 2k+1` (the order is random already).
    """
    x, target = x.to(device, non_blocking=True), target.to(device, dtype, non_blocking=True)
    if mix is not None:
        share = mix.to(device, dtype).reshape(-1, *[1] * (x.dim() - 1))
        partner = torch.arange(len(x), device=device) ^ 1
        x = share * x.to(dtype) + (1 - share) * x[partner].to(dtype)
    return MicroBatch(x, smoothed(target, smoothing), target > 0, ids)
