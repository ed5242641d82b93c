"""One picture of a report: what it shows in words, the figure, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class NotHere(Exception):
    """A picture cannot be drawn of this run; the text says why, in one sentence that the report shows in its place."""


@dataclass(frozen=True)
class Picture:
    """A figure with its caption and its data.

    Args:
        name: of its files: lower-case letters, digits, hyphens.
        title: a heading.
        caption: what is drawn, how it was computed (which data, how many samples, which settings), and how to read it.
        figure: drawn, not yet saved.
        data: columns of its CSV, of equal length: every number in the figure.
        findings: numbers that a reader takes away, by name: shown beside the figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    data: Mapping[str, Sequence[Any]]
    findings: Mapping[str, str] = field(default_factory=dict)
