"""Every member's predictions of a whole split, computed by all ranks and brought to rank 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dist_dash.data.host_batch import EvalBatch
from dist_dash.member.engine import Engine
from dist_dash.ranks.exchange import Exchange
from dist_dash.runs.preemption import Stopped


@dataclass(frozen=True)
class Found:
    """What `predict_split` finds.

    Args:
        log_probs: `[members, samples, C]` on rank 0, None on the others.
        labels: `[samples]`.
        ids: their positions in the split `[samples]`.
        unreadable: names of samples that are left out, on every rank.
    """

    log_probs: NDArray[np.float32] | None
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    unreadable: list[str]


def predict_split(
    engine: Engine, batches: Iterable[EvalBatch], samples: int, exchange: Exchange, stop_now: Callable[[], bool]
) -> Found:
    """Every member's log-probabilities of the split.

    Raises:
        Stopped: all ranks agreed to stop; nothing has changed.
    """
    layout, device = exchange.layout, exchange.layout.device
    log_probs: NDArray[np.float32] | None = None
    labels = np.full(samples, -1, np.int64)
    unreadable: set[str] = set()
    engine.module.eval()
    try:
        for batch in batches:
            if stop_now():
                raise Stopped
            unreadable.update(batch.bad)
            with torch.inference_mode():
                logits = engine.forward(batch.x.to(device, non_blocking=True))
                found = torch.log_softmax(logits, -1).float().cpu()
            places = torch.stack([torch.where(batch.valid, batch.ids, -1), batch.labels])
            everyones, where = exchange.bring_to_first(found.clone()), exchange.bring_to_first(places)
            if everyones is None or where is None:
                continue
            if log_probs is None:
                log_probs = np.zeros((layout.members, samples, found.shape[1]), np.float32)
            for rank in range(layout.world):
                ids, known = where[rank].numpy()
                valid = ids >= 0
                log_probs[layout.member_of(rank), ids[valid]] = everyones[rank].numpy()[valid]
                labels[ids[valid]] = known[valid]
    finally:
        engine.module.train()
    names = sorted(set().union(*exchange.collect(unreadable)))
    read = labels >= 0
    return Found(None if log_probs is None else log_probs[:, read], labels[read], np.flatnonzero(read), names)
