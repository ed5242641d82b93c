"""A network's buffers during training: batch-norm statistics move when the member says so, and never otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_dash.models import Normalise


class Buffers:
    """Holds all buffers of a network still, except inside `moving()`.

    A batch norm is held by `track_running_stats = False`: in training mode it normalises by the batch as ever, but
    updates neither its statistics nor its counter, also where activation checkpointing runs it again in a backward.
    Whatever else a forward writes into buffers is copied back.

    Args:
        module: the network; a buffer that it registers later is not seen.
    """

    def __init__(self, module: nn.Module) -> None:
        modules = list(module.modules())
        self._norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
        tracking = [m for m in modules if getattr(m, "track_running_stats", False)]
        self.statistics = [b for m in tracking for b in m.buffers(recurse=False) if b.is_floating_point()]
        """Running means and variances: what replicas, which see different samples, average after every update."""
        constant = [m for m in modules if isinstance(m, Normalise)]
        held = {id(b) for m in (*self._norms, *constant) for b in m.buffers(recurse=False)}
        self._others = [b for b in module.buffers() if id(b) not in held]
        constants = {id(b) for m in constant for b in m.buffers(recurse=False)}
        self._all = [b for b in module.buffers() if id(b) not in constants]
        self._kept = [b.clone() for b in self._all]
        self._track(False)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Inside, a forward in training mode moves the statistics."""
        self._track(True)
        try:
            yield
        finally:
            self._track(False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a forward leaves every buffer as it was, to the bit."""
        before = [b.clone() for b in self._others]
        try:
            yield
        finally:
            if before:
                torch._foreach_copy_(self._others, before)

    def keep(self) -> None:
        """Remember all buffers as they are now."""
        if self._all:
            torch._foreach_copy_(self._kept, self._all)

    def restore(self) -> None:
        """Make all buffers what they were at the last `keep`."""
        if self._all:
            torch._foreach_copy_(self._all, self._kept)

    def _track(self, on: bool) -> None:
        for norm in self._norms:
            norm.track_running_stats = on
