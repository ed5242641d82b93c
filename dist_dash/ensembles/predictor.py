"""The one predictor: every member's log-probabilities of a whole split, by as many ranks as there are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_dash.data.loader import EvalLoader
from dist_dash.data.source import Split
from dist_dash.data.time_limit import Interrupted, TimeLimit
from dist_dash.data.workers import stream
from dist_dash.member.engine import Engine
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.recipe import Loader
from dist_dash.runs.preemption import Stopped

Forward = Callable[[Tensor], Tensor]
Piece = tuple[Tensor, Tensor, list[str]]
"""A member's log-probabilities of a batch `[n, C]`; the member and the samples' positions `[1 + n]`, −1 for none; names
of unreadable samples."""


class Members(Protocol):
    """Networks that predict: an `Ensemble`, a `StoredEnsemble`, or `MembersInTraining`.

    Attributes:
        classes: how many there are.
    """

    @property
    def classes(self) -> int: ...

    def __len__(self) -> int: ...

    def forward_of(self, member: int, device: torch.device) -> Forward:
        """Stored samples `[n, *shape]` on the device → logits `[n, classes]`, of a network in evaluation mode."""


class MembersInTraining:
    """The present weights of members in training, each known to the ranks that train it alone; in evaluation mode.

    Args:
        engines: of this rank's members.
        layout: which members those are.
        classes: of the data.
    """

    def __init__(self, engines: Sequence[Engine], layout: Layout, classes: int) -> None:
        self.engines, self.layout, self.classes = engines, layout, classes

    def __len__(self) -> int:
        return self.layout.members

    def forward_of(self, member: int, device: torch.device) -> Forward:
        """Only this rank's own members can be had here, and `predict_split` asks for no others."""
        if member not in self.layout.own_members:
            raise ValueError(f"member {member} is not trained on rank {self.layout.rank}")
        return self.engines[member - self.layout.member].forward


@dataclass(frozen=True)
class Predicted:
    """Of all samples of a split that could be read.

    Args:
        log_probs: `[members, N, C]`, in the order of the split.
        labels: `[N]`.
        read: which samples of the split these are `[samples]`.
        unreadable: the names of the others.
    """

    log_probs: NDArray[np.float32]
    labels: NDArray[np.int64]
    read: NDArray[np.bool_]
    unreadable: list[str]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Positions in the split `[N]`."""
        return np.flatnonzero(self.read)


def predict_split(
    members: Members,
    split: Split,
    loader: Loader,
    exchange: Exchange | None = None,
    stop_now: Callable[[], bool] | None = None,
    limit: TimeLimit | None = None,
    track: Callable[[range], Iterable[int]] = iter,
) -> Predicted | None:
    """Every member's log-probabilities of all samples, on rank 0; None on the others.

    Pairs of a member and a batch of samples are dealt out member by member: as many ranks as members have a member
    each, more ranks share the batches of one, fewer have several. In training this gives every rank its own member.
    Every batch is one that a lone process would make, so that predictions do not depend on the number of ranks.

    Args:
        members: the networks.
        split: the samples.
        loader: how they are read.
        exchange: joined; None for a lone process.
        stop_now: whether all ranks agreed to stop; asked at every batch.
        limit: with samples that do not come.
        track: goes through the rounds, of a batch on every rank each, and shows how far it is.

    Raises:
        BadInput: a sample cannot be read (on this rank), or a member cannot be loaded (on all ranks alike).
        RunFailed: samples do not come (on this rank).
        Stopped: all ranks agreed to stop.
    """
    layout = Layout(0, 1, 1) if exchange is None else exchange.layout
    batches = -(-len(split) // loader.batch_size)
    pairs = len(members) * batches
    own = range(pairs * layout.rank // layout.world, pairs * (layout.rank + 1) // layout.world)
    dealt = [divmod(pair, batches) for pair in own]
    with agreeing(exchange, "members"):
        forwards = {member: members.forward_of(member, layout.device) for member in {member for member, _ in dealt}}
    limit = limit or (TimeLimit(exchange.deadline) if exchange else None)
    pieces = _pieces(forwards, split, loader, layout.device, dealt, limit)
    gathered = _Gathered(len(members), len(split), members.classes) if layout.rank == 0 else None
    unreadable = set[str]()
    with contextlib.closing(pieces):
        for _ in track(range(-(-pairs // layout.world))):  # every rank as often: the collectives must match
            piece = None
            with contextlib.suppress(Interrupted):  # by a stop that all ranks agree on now
                piece = next(pieces, None)
            if stop_now is not None and stop_now():
                raise Stopped
            values, where, bad = piece or _nothing(loader.batch_size, members.classes)
            unreadable.update(bad)
            everyones = exchange.bring_to_first(values) if exchange else values[None]
            wheres = exchange.bring_to_first(where) if exchange else where[None]
            if gathered is not None and everyones is not None and wheres is not None:
                gathered.add(everyones.numpy(), wheres.numpy())
    names = set[str]().union(*exchange.collect(unreadable)) if exchange else unreadable
    return None if gathered is None else gathered.predicted(split, sorted(names))


def agreeing(exchange: Exchange | None, what: str) -> contextlib.AbstractContextManager[None]:
    """All ranks succeed at the body, or all leave with the first failing rank's error; nothing for a lone process."""
    return exchange.together(what) if exchange else contextlib.nullcontext()


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

    def predicted(self, split: Split, unreadable: list[str]) -> Predicted:
        """All that every member has predicted."""
        read = self.times == len(self.log_probs)
        if read.all():  # without a copy
            return Predicted(self.log_probs, split.labels, read, unreadable)
        return Predicted(self.log_probs[:, read], split.labels[read], read, unreadable)


def _pieces(
    forwards: dict[int, Forward],
    split: Split,
    loader: Loader,
    device: torch.device,
    pairs: list[tuple[int, int]],
    limit: TimeLimit | None,
) -> Generator[Piece, None, None]:
    """The predictions of this rank's pairs, batch by batch: a batch is read once for all members that need it."""
    batches = EvalLoader(split, batch_size=loader.batch_size, on_bad_sample=loader.on_bad_sample)
    members_of: dict[int, list[int]] = {}
    for member, number in sorted(pairs, key=lambda pair: pair[::-1]):
        members_of.setdefault(number, []).append(member)
    read = stream(batches.assemble, list(members_of), loader.workers, device.type == "cuda", limit)
    with contextlib.closing(read):
        for members, batch in zip(members_of.values(), read, strict=True):
            x = batch.x.to(device, non_blocking=True)
            ids = torch.where(batch.valid, batch.ids, -1)
            for member in members:
                with torch.inference_mode():
                    found = torch.log_softmax(forwards[member](x), -1).float().cpu()
                yield found.clone(), torch.cat([torch.tensor([member]), ids]), batch.bad


def _nothing(size: int, classes: int) -> Piece:
    return torch.zeros(size, classes), torch.tensor([0] + [-1] * size), []
