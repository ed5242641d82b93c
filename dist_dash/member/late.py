"""A truth that the device decides: the host need not wait for it, and learns it when it asks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Late:
    """Whether something is so, as far as the device has come; asking waits for the device.

    Args:
        on_device: a 0-dimensional bool; its copy to the host is queued at once.
        wait: waits for an event.
    """

    def __init__(self, on_device: Tensor, wait: Callable[[torch.cuda.Event], None]) -> None:
        self.on_device, self._wait = on_device, wait
        self._on_host = torch.empty((), dtype=torch.bool, pin_memory=on_device.is_cuda)
        self._on_host.copy_(on_device, non_blocking=True)
        self._done: torch.cuda.Event | None = None
        if on_device.is_cuda:
            self._done = torch.cuda.Event()
            self._done.record()

    def __bool__(self) -> bool:
        if self._done is not None:
            self._wait(self._done)
            self._done = None
        return bool(self._on_host)

    def __float__(self) -> float:
        return float(bool(self))


class Not:
    """The contrary."""

    def __init__(self, other: Late) -> None:
        self._other = other

    def __bool__(self) -> bool:
        return not self._other


Truth = bool | Late | Not


class SkipCount:
    """Updates in a row that were skipped, where the last of them may not be known yet."""

    def __init__(self, known: int = 0) -> None:
        self.known = known
        """Without a wait: where the device decides, without the last update."""
        self._unknown: list[bool | Late] = []

    def add(self, skipped: bool | Late) -> None:
        """Another update; where the device decides, the host is one update ahead of it, and never more."""
        self._unknown.append(skipped)
        self.look(but=int(isinstance(skipped, Late)))

    def look(self, but: int = 0) -> int:
        """How many there are; waits for all updates but the last `but`."""
        while len(self._unknown) > but:
            self.known = self.known + 1 if self._unknown.pop(0) else 0
        return self.known
