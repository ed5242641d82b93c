"""Every random stream of a run, derived from the recipe's one seed by what it is for."""

from __future__ import annotations

import hashlib


def derived_seed(purpose: str, *parts: int) -> int:
    """A 63-bit seed for `purpose`, a pure function of its arguments and equal on every machine and Python version."""
    text = " ".join([purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
