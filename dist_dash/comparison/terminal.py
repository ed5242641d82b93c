"""A comparison on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dist_dash.comparison.cells import Cell, CellTable, TableRow
from dist_dash.comparison.grouping import Comparison
from dist_dash.comparison.markup import printable
from dist_dash.comparison.section_tables import tables
from dist_dash.comparison.verdict import verdict

NAME, GAP = 24, 2  # cells that names keep at least, where they need them, and cells between columns


def as_renderable(comparison: Comparison, width: int) -> Lines:
    """All sections: tables, notes, verdict.

    Args:
        comparison: what to show.
        width: of the terminal in cells; tables with more columns than fit are shown in parts.
    """
    parts: list[RenderableType] = []
    if comparison.title:
        parts += [Text(printable(comparison.title), "bold"), Text()]
    parts += [Text(printable(note), "yellow") for note in comparison.notes]
    for section in comparison.sections:
        if section.name:
            parts += [Text(), Text(printable(section.name), "bold reverse")]
        for table in tables(section):
            parts += [Text(), *(_grid(part, i) for i, part in enumerate(_split(table, width)))]
            parts += [Text(printable(line), "dim") for line in table.legend]
        parts += [Text(), *(Text(printable(f"Note: {note}"), "yellow") for note in section.notes)]
        parts += [Text(printable(f"• {sentence}")) for sentence in verdict(section)]
    return Lines(*parts)


def _grid(table: CellTable, part: int) -> Table:
    title = f"{table.title}{', continued' if part else ''}"
    grid = Table(title=Text(printable(title), "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.padding, grid.show_edge = (0, GAP - 1, 0, 0), False  # the other cell of a gap is the box's
    grid.add_column("", overflow="fold")
    for heading in table.headings[1:]:
        grid.add_column(Text(_folded(heading.text)), justify="right", no_wrap=True)
    for row in table.rows:
        grid.add_row(Text(printable(row.name)), *map(_entry, row.cells))
    return grid


def _folded(heading: str) -> str:
    return heading.replace("_", "_\n").replace(" ", "\n", 1)


def _lines(cell: Cell) -> list[str]:
    """A number, and below it its deviation or interval."""
    below = [f"±{cell.spread}"] if cell.spread else list(cell.interval or ())
    return [f"{cell.text}{cell.star}", *below]


def _entry(cell: Cell) -> Text:
    first, *below = _lines(cell)
    return Text.assemble((first, "bold" if cell.bold or cell.star else ""), *((f"\n{line}", "dim") for line in below))


def _split(table: CellTable, width: int) -> Iterator[CellTable]:
    """The table in parts that are no wider than the terminal; each has at least one column."""
    columns = [
        [*_folded(heading.text).split("\n"), *(line for row in table.rows for line in _lines(row.cells[i]))]
        for i, heading in enumerate(table.headings[1:])
    ]
    names = min(NAME, max(cell_len(printable(row.name)) for row in table.rows))
    widths = [GAP + max(map(cell_len, column)) for column in columns]
    for part in _filled(widths, width - names - GAP):
        headings = [table.headings[0], *(table.headings[i + 1] for i in part)]
        rows = [TableRow(row.name, [row.cells[i] for i in part]) for row in table.rows]
        yield CellTable(table.title, headings, rows, table.legend)


def _filled(widths: Sequence[int], room: int) -> list[list[int]]:
    found, left = [list[int]()], room
    for i, width in enumerate(widths):
        if width > left and found[-1]:
            found.append([])
            left = room
        found[-1].append(i)
        left -= width
    return found
