"""One update's samples on the device, their training loss, and where in the run the update stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from dist_dash.member.losses import cross_entropy, smoothed


@dataclass(frozen=True)
class Progress:
    """Where in its run an update stands: all that a method knows of time.

    Args:
        step: index of the update, counted from 0 over the whole run.
        total_steps: updates of the whole run.
        steps_per_epoch: updates per pass over the training split.
        rate: factor on the configured learning rate for this update.
        rate_range: the lowest and the highest such factor of the run.
    """

    step: int
    total_steps: int
    steps_per_epoch: int
    rate: float = 1.0
    rate_range: tuple[float, float] = (1.0, 1.0)

    @property
    def share(self) -> float:
        """The share of the run that is done before this update, in [0, 1)."""
        return self.step / self.total_steps


@dataclass(frozen=True)
class MicroBatch:
    """`n` samples that fit on the device together.

    Args:
        x: stored pixels or features `[n, …]`, mixed where asked, not yet normalised (the network does that).
        target: class probabilities `[n, C]` for the loss: smoothed, mixed. With several heads, one distribution each,
            side by side: `[n, C_1 + … + C_T]`.
        true_classes: `[n, C]` bool, every class with a positive share before smoothing.
        ids: sample ids `[n]`.
        heads: classes of each head; None for a single one.
    """

    x: Tensor
    target: Tensor
    true_classes: Tensor
    ids: Tensor
    heads: tuple[int, ...] | None = None

    def loss(self, logits: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """The training loss of `logits` `[n, C]`: the one place where it is made, so that every method has all of it.

        Cross-entropy with the (smoothed, mixed) targets; with several heads, the sum over the heads.

        Returns:
            The mean over the samples, 0-dimensional; or with `reduction="none"` one value per sample `[n]`. Of the
            logits `[k, n, C]` of k members `[k]`, or `[k, n]`.
        """
        if self.heads is None:
            return cross_entropy(logits, self.target, reduction)
        pairs = zip(logits.split(self.heads, -1), self.target.split(self.heads, -1), strict=True)
        return torch.stack([cross_entropy(z, target, reduction) for z, target in pairs]).sum(0)

    def subset(self, chosen: Tensor) -> MicroBatch:
        """Some of the samples.

        Args:
            chosen: `[n]` bool.
        """
        ids = self.ids[chosen.to(self.ids.device)]
        return MicroBatch(self.x[chosen], self.target[chosen], self.true_classes[chosen], ids, self.heads)

    def correct(self, logits: Tensor) -> Tensor:
        """Share of the samples whose most probable class is that with the largest share; 0-dimensional.

        With several heads, the mean of their shares.
        """
        heads = self.heads or (logits.shape[-1],)
        pairs = zip(logits.split(heads, -1), self.target.split(heads, -1), strict=True)
        hits = [(z.argmax(-1) == target.argmax(-1)).to(logits.dtype).mean(-1) for z, target in pairs]
        return hits[0] if len(hits) == 1 else torch.stack(hits).mean(0)


@dataclass(frozen=True)
class Batch:
    """The micro-batches of one update, and where in the run it stands."""

    micro_batches: list[MicroBatch]
    progress: Progress

    @property
    def last(self) -> MicroBatch:
        """The micro-batch with which a pass over the update's samples ends."""
        return self.micro_batches[-1]

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
    heads: tuple[int, ...] | None = None,
) -> MicroBatch:
    """Move samples to the device and finish them there: mix pixels with those of the neighbour, smooth the targets.

    `mix` `[n]` is each sample's own share; its partner is the neighbour `2k ↔ 2k+1` (the order is random already).
    """
    x, target, *mixes = on_device([x, target] if mix is None else [x, target, mix], device)
    target = target.to(dtype)
    if mix is not None:
        share = mixes[0].to(dtype).reshape(-1, *[1] * (x.dim() - 1))
        partner = torch.arange(len(x), device=device) ^ 1
        x = share * x.to(dtype) + (1 - share) * x[partner].to(dtype)
    return MicroBatch(x, smoothed(target, smoothing, heads), target > 0, ids, heads)


def on_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the host on the device; page-locked ones are copied beside what it computes, by another stream."""
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    copies, computing = _copies(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        moved = [tensor.to(device, non_blocking=True) for tensor in tensors]
    computing.wait_stream(copies)
    for tensor in moved:
        tensor.record_stream(computing)  # its memory is not free before that stream has used it
    return moved


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
