"""A network's buffers during training: batch-norm statistics move when the member says so, and never otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_dash.models import Normalise


class Buffers:
    """Holds the buffers of a network still where asked, and brings them back after a skipped step.

    Args:
        module: the network; a buffer that it registers later is not seen.
    """

    def __init__(self, module: nn.Module) -> None:
        modules = list(module.modules())
        tracking = [m for m in modules if getattr(m, "track_running_stats", False)]
        self.statistics = [b for m in tracking for b in m.buffers(recurse=False) if b.is_floating_point()]
        """Running means and variances: what replicas, which see different samples, average after every update."""
        norms = [m for m in tracking if isinstance(m, _BatchNorm)]
        # While it is held, a batch norm works on buffers that nobody reads: it does exactly what it does otherwise, so
        # that activation checkpointing, which runs it again in a backward, finds the same tensors saved.
        self._scratch = [(m, {n: b.clone() for n, b in m.named_buffers(recurse=False)}) for m in norms]
        constants = {id(b) for m in modules if isinstance(m, Normalise) for b in m.buffers(recurse=False)}
        self._all = [b for b in module.buffers() if id(b) not in constants]
        of_norms = {id(b) for m in norms for b in m.buffers(recurse=False)}
        self._others = [b for b in self._all if id(b) not in of_norms]
        self._remembered, self._latest = _Copy(self._all), _Copy(self._all)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, neither a forward nor a backward changes a buffer; a batch norm in evaluation mode reads its own."""
        swapped = [(m._buffers, scratch) for m, scratch in self._scratch if m.training]
        before = [(b, b._version, b.clone()) for b in self._others]
        own = [{name: buffers[name] for name in scratch} for buffers, scratch in swapped]
        for buffers, scratch in swapped:
            buffers.update(scratch)
        try:
            yield
        finally:
            for (buffers, _), real in zip(swapped, own, strict=True):
                buffers.update(real)
            changed = [(b, value) for b, version, value in before if b._version != version]
            _copy([value for _, value in changed], [b for b, _ in changed])

    def note(self) -> None:
        """Copy all buffers; `keep` makes the copy the one that `restore` brings back."""
        _copy(self._all, self._latest.tensors)

    def keep(self) -> None:
        """Take the buffers as they were at `note` as those of the last update that moved the weights."""
        self._remembered, self._latest = self._latest, self._remembered

    def remember(self) -> None:
        """`note` and `keep` at once: what is restored after the next skipped update are the present buffers."""
        self.note()
        self.keep()

    def restore(self) -> None:
        """Make all buffers what they were at the last `note` that was kept."""
        _copy(self._remembered.tensors, self._all)

    def settle(self, skipped: Tensor) -> None:
        """`restore` where the 0-dimensional bool `skipped` is true, else `keep`: the device decides."""
        for remembered, latest in zip(self._remembered.flat, self._latest.flat, strict=True):
            remembered.copy_(torch.where(skipped, remembered, latest))
        self.restore()


class _Copy:
    """A copy of tensors; those of a type lie in one flat tensor, so that one call can choose between two copies."""

    def __init__(self, originals: list[Tensor]) -> None:
        self.flat, found = list[Tensor](), dict[int, Tensor]()
        for dtype in dict.fromkeys(tensor.dtype for tensor in originals):
            places = [i for i, tensor in enumerate(originals) if tensor.dtype is dtype]
            self.flat.append(torch.cat([originals[i].reshape(-1) for i in places]))
            parts = self.flat[-1].split([originals[i].numel() for i in places])
            found |= {i: part.view(originals[i].shape) for i, part in zip(places, parts, strict=True)}
        self.tensors = [found[i] for i in range(len(originals))]


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    """One call for all of a type: of mixed types each tensor is a call of its own on a GPU."""
    types = [source.dtype for source in sources]
    for dtype in dict.fromkeys(types):
        of_type = [i for i, other in enumerate(types) if other is dtype]
        torch._foreach_copy_([targets[i] for i in of_type], [sources[i] for i in of_type])
