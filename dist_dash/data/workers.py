"""One `DataLoader` around a function from keys to batches: workers that stop with their reader, errors in one line."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dist_dash.data.time_limit import Interrupted, TimeLimit
from dist_dash.errors import BadInput, RunFailed
from dist_dash.ranks.launched import STOP_SIGNALS

Key = TypeVar("Key")
Item = TypeVar("Item")


class _Items(Dataset, Generic[Key, Item]):
    def __init__(self, assemble: Callable[[Key], Item]) -> None:
        self.assemble = assemble

    def __getitem__(self, key: Key) -> Item | BadInput:
        try:
            return self.assemble(key)
        except BadInput as error:
            # Raised in a worker, it would arrive wrapped into that worker's traceback: it travels as a value instead.
            return error


class _Keys(Sampler[Key]):
    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)


def _unchanged(batch: Item) -> Item:
    return batch


def _start_worker(_: int) -> None:
    # The trainer agrees on a stop and then closes its workers; a signal sent to the whole group must not end them
    # before.
    for stop in STOP_SIGNALS:
        signal.signal(stop, signal.SIG_IGN)
    torch.set_num_threads(1)


def stream(
    assemble: Callable[[Key], Item],
    keys: Iterable[Key],
    workers: int,
    pin_memory: bool,
    limit: TimeLimit | None = None,
) -> Generator[Item, None, None]:
    """`assemble(key)` for each key, in order, computed ahead by `workers` processes (0: here).

    No global random state is used. Closing the generator, or dropping it, ends the workers. Raises the `BadInput` that
    `assemble` raised, `RunFailed` if a worker died or an item did not come in time, and `Interrupted` if a stop was
    asked for while it did not come.
    """
    limit = limit or TimeLimit()
    if not workers:
        assemble = partial(limit.call, assemble, what=lambda: "loader: the data have not answered")
    loader = DataLoader(
        _Items(assemble),
        batch_size=None,
        sampler=_Keys(keys),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        # Without one of its own the loader would draw its seed from the global generator, which a resume must find
        # untouched.
        generator=torch.Generator(),
    )
    batches = iter(loader)
    hang = False
    try:
        while True:
            try:
                # Not in this thread: a worker may hang while it hands its batch over.
                batch = limit.call(next, batches, what=partial(_late, batches)) if workers else next(batches)
            except StopIteration:
                return
            except (Interrupted, RunFailed):
                hang = True
                raise
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):
                    raise
                raise RunFailed(f"loader.workers: a worker died: {' '.join(str(error).split())}") from error
            if isinstance(batch, BadInput):
                raise batch
            yield cast(Item, batch)
    finally:
        # Waiting for the garbage collector is not enough: a traceback may hold this frame, and with it the workers.
        with _killing(getattr(batches, "_workers", [])) if hang else contextlib.nullcontext():
            shut_down = getattr(batches, "_shutdown_workers", None)
            if shut_down is not None:
                shut_down()
        for worker in getattr(batches, "_workers", []):
            if worker.is_alive():
                worker.kill()


def _late(batches: Any) -> str:
    number = batches._task_info[batches._rcvd_idx][0]
    return f"loader.workers: worker {number} (process {batches._workers[number].pid}) has delivered nothing"


@contextlib.contextmanager
def _killing(workers: Iterable[Any]) -> Iterator[None]:
    """End workers that may hang; torch, which waits seconds for each, finds them dead inside."""
    here = threading.current_thread() is threading.main_thread()
    # Torch's handler complains of dead workers.
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if here else None
    try:
        for worker in workers:
            worker.kill()
        yield
    finally:
        if here:
            signal.signal(signal.SIGCHLD, before)
