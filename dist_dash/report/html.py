"""HTML from templates: every value is escaped where it is put in."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dist_dash.comparison.cells import CellTable
from dist_dash.files import replacing


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("dist_dash.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"], environment.filters["in_parts"] = with_code, in_parts
    return environment


WIDE = 118  # characters, of the widest letters of the page, that fit beside each other on a laptop's screen


def in_parts(table: CellTable, most: int = WIDE) -> list[CellTable]:
    """A wide table as several with a part of its columns each, so that nobody has to scroll sideways.

    Headings over several columns and texts stay whole: such a table is not divided.
    """
    if table.spans or any(cell.words for row in table.rows for cell in row.cells):
        return [table]
    names, *widths = [_width(table, column) for column in range(len(table.headings))]
    count = max(1, -(-sum(widths) // (most - names)))
    size = -(-len(widths) // count)
    if count == 1:
        return [table]
    starts = range(0, len(widths), size)
    return [
        CellTable(
            f"{table.title} ({number} of {len(starts)})",
            [table.headings[0], *table.headings[1 + start : 1 + start + size]],
            [replace(row, cells=row.cells[start : start + size]) for row in table.rows],
        )
        for number, start in enumerate(starts, 1)
    ]


def _width(table: CellTable, column: int) -> int:
    """Characters of a column and the space beside it; headings and names are broken into lines."""
    if column == 0:
        return 2 + min(27, max((len(row.name) for row in table.rows), default=0))
    cells = [row.cells[column - 1] for row in table.rows]
    texts = [text for cell in cells for text in (cell.text, f"± {cell.spread}", cell.beside)]
    texts += [f"[{cell.interval[0]}, {cell.interval[1]}]" for cell in cells if cell.interval is not None]
    return 2 + max(map(len, [*texts, *table.headings[column].text.replace("_", " ").split()]))


def page(template: str, **values: Any) -> str:
    """One page with its style in it.

    Args:
        template: name of a file in `templates/`.
        values: what it shows.
    """
    loader = _templates().loader
    assert loader is not None
    css, *_ = loader.get_source(_templates(), "style.css")
    return _templates().get_template(template).render(**values, css=Markup(css))


def with_code(sentence: str) -> Markup:
    """A sentence, escaped, with what stands between backticks as code."""
    parts = str(sentence).split("`")
    if len(parts) % 2 == 0:
        return escape(sentence)
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(part) if index % 2 else escape(part) for index, part in enumerate(parts))


def write_page(path: Path, content: str) -> None:
    """Write a page atomically, in UTF-8 whatever the locale; characters that are no Unicode are replaced."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "replace"))


def name_of(path: Path) -> str:
    """The name of a folder; bytes that are no Unicode are replaced."""
    return os.fsencode(path.resolve().name).decode("utf-8", "replace")


def relative(place: Path, page: Path) -> str:
    """Where a page finds a file or a folder, as a relative address."""
    return quote(os.fsencode(os.path.relpath(place.resolve(), page.resolve().parent)))
