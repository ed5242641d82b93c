"""A table as cells, which the terminal, Markdown, LaTeX and a page each write in their own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One entry.

    Args:
        text: what is read.
        value: the number behind it, in full; None for words.
        key: what the number is, as `evaluation.json` names it.
        spread: its standard deviation, without the sign ±; empty without one.
        interval: low and high end; None without one.
        beside: another number that is read with the text; empty without one.
        bold: the best of its column, significantly better than the second best.
        kind: `better`, `worse`, `more`, `less` or `marked`: a difference whose interval excludes 0; else empty.
        words: whether it is a text that may be broken into lines.
    """

    text: str
    value: Any = None
    key: str = ""
    spread: str = ""
    interval: tuple[str, str] | None = None
    beside: str = ""
    bold: bool = False
    kind: str = ""
    words: bool = False

    @property
    def star(self) -> str:
        """The mark of a difference whose interval excludes 0."""
        return "*" * (self.kind == "marked")


@dataclass(frozen=True)
class Heading:
    """Heading of a column: its text, what it means, and whether the cells below it hold words."""

    text: str
    meaning: str = ""
    words: bool = False


@dataclass(frozen=True)
class TableRow:
    """A named row; `kind` is `main`, `last` or empty."""

    name: str
    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class CellTable:
    """Rows with names.

    Args:
        title: what it shows.
        headings: of the names and of every column of cells.
        rows: with as many cells as headings, less one.
        legend: how to read it, in sentences.
        spans: headings above those of so many columns each.
    """

    title: str
    headings: Sequence[Heading]
    rows: Sequence[TableRow]
    legend: Sequence[str] = ()
    spans: Sequence[tuple[str, int]] = ()
