"""How a tensor crosses one group: directly (CPU, NCCL), or through pinned host memory (several ranks on one GPU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
Guard = Callable[[Callable[[], Any]], Any]


class Transfer:
    """A collective that was started; `landed()`, then `wait()` for the result on the device of its source."""

    def __init__(self, finish: Callable[[], Tensor], landed: Callable[[], None] = lambda: None) -> None:
        self.wait, self.landed = finish, landed


class Transport:
    """Collectives on one process group of `size` ranks.

    Args:
        group: the process group; None for a group of one.
        size: ranks in the group; a group of one transfers nothing.
        backend: `nccl`, or `gloo`: device tensors are then staged in pinned host memory.
        guard: runs a collective and turns its failure into a message that names who is missing.
    """

    def __init__(self, group: dist.ProcessGroup | None, size: int, backend: str, guard: Guard) -> None:
        self.group, self.size, self._backend, self._guard = group, size, backend, guard

    def all_gather(self, values: Tensor) -> Transfer:
        """Start collecting every rank's `values` (equal shapes) as `[size, …]`, in rank order."""
        if self.size == 1:
            return Transfer(lambda: values.unsqueeze(0))
        # 2.13 renamed the call and warns at the old name; 2.11 knows the old name only.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

        def collective(source: Tensor, asynchronous: bool) -> tuple[Tensor, Any]:
            shape = (self.size, *source.shape)
            out = torch.empty(shape, dtype=source.dtype, device=source.device, pin_memory=source.is_pinned())
            work = gather(out.flatten(0, 1) if source.dim() else out, source, group=self.group, async_op=asynchronous)
            return out, work

        return self._start(values, collective)

    def all_reduce(self, values: Tensor) -> Transfer:
        """Start summing `values` over the ranks; `values` itself is left alone."""
        if self.size == 1:
            return Transfer(lambda: values)

        def collective(source: Tensor, asynchronous: bool) -> tuple[Tensor, Any]:
            # Page-locked where the source is: `clone` would give ordinary memory, for whose copy back the device waits.
            out = torch.empty(source.shape, dtype=source.dtype, device=source.device, pin_memory=source.is_pinned())
            out.copy_(source)
            return out, dist.all_reduce(out, group=self.group, async_op=asynchronous)

        return self._start(values, collective)

    def sum_(self, values: Tensor) -> Transfer:
        """Start summing `values` (contiguous) over the ranks in place: nothing may touch them until they have come."""
        if self.size == 1:
            return Transfer(lambda: values)

        def collective(source: Tensor, asynchronous: bool) -> tuple[Tensor, Any]:
            return source, dist.all_reduce(source, group=self.group, async_op=asynchronous)

        summed = self._start(values, collective)
        return Transfer(lambda: values if (out := summed.wait()) is values else values.copy_(out), summed.landed)

    def _start(self, values: Tensor, collective: Callable[[Tensor, bool], tuple[Tensor, Any]]) -> Transfer:
        if values.device.type == "cuda" and self._backend == "gloo":
            return self._start_staged(values, collective)
        out, work = self._guard(lambda: collective(values.contiguous(), True))

        def finish() -> Tensor:
            self._guard(work.wait)
            return out

        return Transfer(finish)

    def _start_staged(self, values: Tensor, collective: Callable[[Tensor, bool], tuple[Tensor, Any]]) -> Transfer:
        # gloo reads host memory: the collective runs once the copy has landed, while the device goes on with the
        # backward that was queued meanwhile.
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def finish() -> Tensor:
            out, _ = self._guard(lambda: collective(host, False))
            return out.to(values.device, non_blocking=True)

        return Transfer(finish, copied.synchronize)
