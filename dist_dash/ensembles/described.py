"""What `ensemble.json` may hold: names and numbers, each of its type and in its range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt, Interval, Len

from dist_dash.errors import require
from dist_dash.recipe.components import Component
from dist_dash.recipe.typed import Allowed

Whole = Annotated[int, Interval(ge=1, le=2**31 - 1), Allowed("a whole number ≥ 1")]
Number = Annotated[float, Allowed("a number")]


@dataclass(frozen=True)
class DescribedMember:
    """A member.

    Args:
        file: its weights, in the same folder.
        architecture: of its network.
        weight: how much it counts.
        blake2b: checksum of the file; empty in earlier versions.
    """

    file: str
    architecture: Component
    weight: Annotated[float, Gt(0), Allowed("a positive, finite number")] = 1.0
    blake2b: str = ""

    def __post_init__(self) -> None:
        plain = "/" not in self.file and "\\" not in self.file and "\0" not in self.file and self.file.strip(".") != ""
        require(plain, "file", self.file, "the name of a file in the same folder")
        require(math.isfinite(self.weight), "weight", self.weight, "a positive, finite number")


@dataclass(frozen=True)
class DescribedEnsemble:
    """All of it.

    Args:
        format: of the file.
        members: in order.
        shape: of a sample.
        classes: how many.
        mean: of each channel.
        std: of each channel.
        uint8: whether samples are stored as bytes.
        class_names: where the data have them.
        values: least and greatest of the training samples, where these are floating point.
        data: the training data, see `DataFacts.as_json`.
    """

    format: int
    members: Annotated[tuple[DescribedMember, ...], Len(1)]
    shape: Annotated[tuple[Whole, ...], Len(1)]
    classes: Whole
    mean: Annotated[tuple[Number, ...], Len(1)]
    std: Annotated[tuple[Annotated[float, Gt(0), Allowed("a number > 0")], ...], Len(1)]
    uint8: bool
    class_names: tuple[str, ...] | None = None
    values: Annotated[tuple[Number, ...], Len(2, 2)] | None = None
    data: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        files = [member.file for member in self.members]
        require(len({*files}) == len(files), "members", files, "one file for each of them")
        names = self.class_names
        require(names is None or len(names) == self.classes, "class_names", names, f"{self.classes} names")
