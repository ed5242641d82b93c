"""Large arrays a few samples at a time, on all cores: what is being worked on fits the processor's cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

VALUES = 2**17  # in a block: a megabyte in float64
MOST_THREADS = 8  # each works on blocks of its own, so that memory grows with them
_LARGER = 32_000_000  # bytes; from 32 MiB on, glibc does not learn


def blocks_of(samples: int, width: int) -> list[slice]:
    """The samples in consecutive blocks; a function of its arguments alone, never of the machine.

    Args:
        samples: how many there are.
        width: values per sample.
    """
    size = max(1, VALUES // width)
    return [slice(first, min(first + size, samples)) for first in range(0, samples, size)]


def in_blocks(samples: int, width: int, work: Callable[[int, slice], None]) -> None:
    """Call `work(number, samples of the block)` for every block, in any order; its results go where it puts them."""
    blocks = blocks_of(samples, width)
    threads = min(cores(), MOST_THREADS, len(blocks))
    if len(blocks) > 1:
        _keep_freed_memory()
    if threads < 2:
        for number, rows in enumerate(blocks):
            work(number, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(len(blocks)), blocks))  # numpy lets go of the interpreter's lock


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep what a block frees for the next one.

    glibc gives arrays of this size back to the system, which has to clear every page anew, until a larger one has been
    freed: it then takes such sizes for usual. Half of the time went into that.
    """
    np.empty(_LARGER, np.uint8)


def cores() -> int:
    """The processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1
