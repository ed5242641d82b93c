"""What every member says of every sample, computed by as many ranks as there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_dash.data.loader import EvalLoader
from dist_dash.data.source import Split
from dist_dash.data.workers import stream
from dist_dash.ensembles.ensemble import Ensemble
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.recipe import Loader

Part = tuple[Tensor, Tensor, list[str]]
"""A member's log-probabilities of a batch `[n, C]`; the member and the samples' positions `[1 + n]`, −1 for none; names
of unreadable samples."""


@dataclass(frozen=True)
class Predicted:
    """Of all samples of a split.

    Args:
        log_probs: `[members, N, C]`.
        read: which samples could be read `[N]`.
        unreadable: the names of the others.
    """

    log_probs: NDArray[np.float32]
    read: NDArray[np.bool_]
    unreadable: list[str]


def predictions_of_all(
    ensemble: Ensemble, split: Split, loader: Loader, exchange: Exchange | None = None
) -> Predicted | None:
    """Every member's log-probabilities of all samples, on rank 0; None on the others.

    Pairs of a member and a batch of samples are dealt out member by member: as many ranks as members have a member
    each, more ranks share the batches of one, fewer have several. Every batch is one that a lone process would make, so
    that predictions do not depend on the number of ranks.

    Args:
        ensemble: on the host; what this rank needs is moved to its device.
        split: the samples.
        loader: how they are read.
        exchange: joined; None for a lone process.

    Raises:
        BadInput: a sample cannot be read; on this rank.
    """
    layout = Layout(0, 1, 1) if exchange is None else exchange.layout
    members, batches = len(ensemble), -(-len(split) // loader.batch_size)
    pairs = members * batches
    own = range(pairs * layout.rank // layout.world, pairs * (layout.rank + 1) // layout.world)
    parts = _parts(ensemble, split, loader, layout.device, [divmod(pair, batches) for pair in own])
    gathered = _Gathered(members, len(split), ensemble.classes) if layout.rank == 0 else None
    unreadable = set[str]()
    for _ in range(-(-pairs // layout.world)):  # every rank as often: the collectives must match
        values, where, bad = next(parts, None) or _nothing(loader.batch_size, ensemble.classes)
        unreadable.update(bad)
        everyones = exchange.bring_to_first(values) if exchange else values[None]
        wheres = exchange.bring_to_first(where) if exchange else where[None]
        if gathered is not None and everyones is not None and wheres is not None:
            gathered.add(everyones.numpy(), wheres.numpy())
    names = set[str]().union(*exchange.collect(unreadable)) if exchange else unreadable
    return None if gathered is None else Predicted(gathered.log_probs, gathered.times == members, sorted(names))


class _Gathered:
    """What has arrived on rank 0."""

    def __init__(self, members: int, samples: int, classes: int) -> None:
        self.log_probs = np.zeros((members, samples, classes), np.float32)
        self.times = np.zeros(samples, np.int64)

    def add(self, values: NDArray[np.float32], wheres: NDArray[np.int64]) -> None:
        """Parts of all ranks: `[world, n, C]` and `[world, 1 + n]`."""
        for found, where in zip(values, wheres, strict=True):
            member, ids = where[0], where[1:]
            valid = ids >= 0
            self.log_probs[member, ids[valid]] = found[valid]
            self.times[ids[valid]] += 1


def _parts(
    ensemble: Ensemble, split: Split, loader: Loader, device: torch.device, pairs: list[tuple[int, int]]
) -> Iterator[Part]:
    """What members say of batches, batch by batch: a batch is read once for all members that need it here."""
    batches = EvalLoader(split, batch_size=loader.batch_size, on_bad_sample=loader.on_bad_sample)
    members_of: dict[int, list[int]] = {}
    for member, number in sorted(pairs, key=lambda pair: pair[::-1]):
        members_of.setdefault(number, []).append(member)
    networks = {member: ensemble.networks[member].to(device) for member, _ in pairs}
    read = stream(batches.assemble, list(members_of), loader.workers, device.type == "cuda")
    for members, batch in zip(members_of.values(), read, strict=True):
        x = batch.x.to(device, non_blocking=True)
        ids = torch.where(batch.valid, batch.ids, -1)
        for member in members:
            with torch.inference_mode():
                found = torch.log_softmax(networks[member](x), -1).float().cpu()
            yield found.clone(), torch.cat([torch.tensor([member]), ids]), batch.bad


def _nothing(size: int, classes: int) -> Part:
    return torch.zeros(size, classes), torch.tensor([0] + [-1] * size), []
