"""What a data source says about itself, so that nobody needs to ask for its type."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Outline(NamedTuple):
    """What is known of a data set without reading it.

    Args:
        shape: of a sample as the net gets it, `(C, H, W)` or `(F,)`.
        classes: how many.
        uint8: whether samples are stored as bytes.
    """

    shape: tuple[int, ...]
    classes: int
    uint8: bool


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set once it is loaded; no pixel is decoded for it.

    Args:
        shape: of a sample as the net gets it, `(C, H, W)` or `(F,)`.
        classes: how many.
        class_names: their names, where the data have them.
        uint8: whether samples are stored as bytes.
        counts: samples per split, as the source gives them: before validation samples are cut off.
        bytes: that the samples take in memory; None where they are read when they are needed.
        digest: 128 bits in hexadecimal that change with the names of samples (their content, where they lie in memory),
            their labels, their number and the names of the classes, and with nothing else.
    """

    shape: tuple[int, ...]
    classes: int
    class_names: list[str] | None
    uint8: bool
    counts: dict[str, int]
    bytes: int | None
    digest: str

    def as_json(self) -> dict[str, object]:
        """What `ensemble.json` keeps of it: `digest counts class_names`."""
        return {"digest": self.digest, "counts": self.counts, "class_names": self.class_names}


def digest_of(classes: int, class_names: list[str] | None, contents: Iterable[Iterable[bytes | memoryview]]) -> str:
    """A digest of a data set.

    Args:
        classes: how many.
        class_names: their names, where the data have them.
        contents: for every split what distinguishes it from others, in pieces.
    """
    found = hashlib.blake2b(json.dumps([classes, class_names]).encode(), digest_size=16)
    for pieces in contents:
        own = hashlib.blake2b(digest_size=16)
        for piece in pieces:
            own.update(piece)
        found.update(own.digest())
    return found.hexdigest()
