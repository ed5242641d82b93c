"""How often the host waits for the device, as torch itself sees it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch


class Waits:
    """What `counted` has seen so far."""

    def __init__(self) -> None:
        self.caught: list[warnings.WarningMessage] = []
        self.asked: list[str] = []

    @property
    def places(self) -> list[str]:
        """One entry a wait: where in Python it was."""
        seen = [w for w in self.caught if "called a synchronizing CUDA operation" in str(w.message)]
        return [f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in seen] + self.asked


@contextmanager
def counted() -> Iterator[Waits]:
    """Count the host's waits inside: what `set_sync_debug_mode` warns of (blocking copies, `.item()`), and explicit
    `synchronize` calls, of which it does not. Nothing sees a copy from pageable memory that the driver makes wait."""
    waits = Waits()

    def noting(owner: type | object, name: str):
        original = getattr(owner, name)

        def noted(*arguments: object, **options: object) -> object:
            waits.asked.append(f"{getattr(owner, '__name__', owner)}.{name}")
            return original(*arguments, **options)

        return patch.object(owner, name, noted)

    with (
        warnings.catch_warnings(record=True) as waits.caught,
        noting(torch.cuda, "synchronize"),
        noting(torch.cuda.Event, "synchronize"),
    ):
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            yield waits
            return
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
