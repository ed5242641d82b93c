"""Every random number of the data, a pure function of (seed, epoch, sample id): no generator is carried along."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# One purpose, one stream: drawing more for one purpose never shifts the numbers of another.
AUGMENT, ORDER, MIXUP, LABEL_NOISE, VALIDATION, TRAIN_PIXELS, TEST_PIXELS, PATTERNS, TEST_CUT = range(9)

_WORD = 2**64 - 1


def sample_rng(seed: int, epoch: int, sample_id: int, stream: int = AUGMENT) -> np.random.Generator:
    """The generator that belongs to one sample in one epoch.

    Philox maps a 128-bit key and a 256-bit counter to random bits. The key is (seed mod 2^64, stream); the counter
    starts at (0, 0, epoch, sample_id), lowest word first, and drawing raises its low words only: two different
    quadruples never share a number, and none of them depends on what was drawn before.
    """
    key = np.array([seed & _WORD, stream], dtype=np.uint64)
    counter = np.array([0, 0, epoch, sample_id], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of an epoch: a read-only permutation of 0 … n-1, int64 `[n]`, a pure function of (seed, epoch, n)."""
    permutation = sample_rng(seed, epoch, 0, ORDER).permutation(n)
    permutation.flags.writeable = False
    return permutation
