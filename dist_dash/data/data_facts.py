"""What a data source says about itself, so that nobody needs to ask for its type."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Outline(NamedTuple):
    """What is known of a data set without reading it.

    Args:
        shape: of a sample as the net gets it, `(C, H, W)` or `(F,)`.
        classes: how many.
        uint8: whether samples are stored as bytes.
        values: the least and the greatest of the training samples, where these are floating point and known.
    """

    shape: tuple[int, ...]
    classes: int
    uint8: bool
    values: tuple[float, float] | None = None


@dataclass(frozen=True)
class SplitFacts:
    """What is known of a split.

    Args:
        digest: 128 bits in hexadecimal that change with the names of samples (their content, where they lie in memory),
            their order and their labels, and with nothing else.
        per_class: samples of each class.
        names: for each class 32 bits that change with the names of its samples; None where they lie in memory.
    """

    digest: str
    per_class: list[int]
    names: list[str] | None


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set once it is loaded; no pixel is decoded for it.

    Args:
        shape: of a sample as the net gets it, `(C, H, W)` or `(F,)`.
        classes: how many.
        class_names: their names, where the data have them.
        uint8: whether samples are stored as bytes.
        splits: as the source gives them: before validation samples are cut off.
        bytes: that the samples take in memory; None where they are read when they are needed.
    """

    shape: tuple[int, ...]
    classes: int
    class_names: list[str] | None
    uint8: bool
    splits: dict[str, SplitFacts]
    bytes: int | None

    @property
    def counts(self) -> dict[str, int]:
        """Samples per split."""
        return {name: sum(split.per_class) for name, split in self.splits.items()}

    @property
    def digest(self) -> str:
        """128 bits in hexadecimal that change with the splits and with the names of the classes."""
        names = json.dumps([self.classes, self.class_names]).encode()
        return digest_of([names, *(bytes.fromhex(split.digest) for split in self.splits.values())])

    def as_json(self) -> dict[str, Any]:
        """What `ensemble.json` and the manifests of checkpoints keep of it: `digest counts class_names splits`."""
        splits = {name: asdict(split) for name, split in self.splits.items()}
        return {"digest": self.digest, "counts": self.counts, "class_names": self.class_names, "splits": splits}


def digest_of(pieces: Iterable[bytes | memoryview]) -> str:
    """128 bits of all pieces, in hexadecimal."""
    found = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()
