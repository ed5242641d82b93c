"""A comparison as Markdown and as LaTeX. Names are untrusted: they are escaped, and shown as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len

from dist_dash.comparison.cells import Cell, CellTable
from dist_dash.comparison.grouping import Comparison
from dist_dash.comparison.section import Section
from dist_dash.comparison.section_tables import tables
from dist_dash.comparison.verdict import verdict

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line break it would be its argument
    "]": "{]}",
    "*": "{*}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "√": r"$\surd$",
    "—": "---",
    "–": "--",
    "…": r"\ldots{}",
    "•": r"\textbullet{}",
    "�": "?",
}


def printable(words: str) -> str:
    """A text on one line, with � in place of characters that cannot be printed."""
    return "".join(c if c.isprintable() else "�" for c in words)


# -- Markdown ----------------------------------------------------------------------------------------------------------


def as_markdown(comparison: Comparison) -> str:
    """All sections as GitHub-flavoured Markdown with aligned columns: first the verdict, then the tables."""
    blocks = [f"# {in_markdown(comparison.title or 'Comparison')}"]
    blocks += [f"> {in_markdown(note)}" for note in comparison.notes]
    for section in comparison.sections:
        if section.name:
            blocks.append(f"## {in_markdown(section.name)}")
        blocks.append("\n".join(f"- {in_markdown(sentence)}" for sentence in verdict(section)))
        if section.notes:
            blocks.append("\n".join(f"- Note: {in_markdown(note)}" for note in section.notes))
        for table in tables(section):
            blocks += [f"### {in_markdown(table.title)}", _markdown_table(table)]
            blocks += ["\n".join(map(in_markdown, table.legend))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def in_markdown(words: str) -> str:
    """A text, escaped so that Markdown shows it literally."""
    escaped = re.sub(r"([\\`*\[\]<>|&~$])", r"\\\1", printable(words))
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    return re.sub(r"^(\s*)([#+\-]|\d+[.)])(?=\s)", _kept, escaped)


def _kept(begins: re.Match[str]) -> str:
    """Escape what would begin a heading or a list."""
    mark = begins[2]
    return f"{begins[1]}{mark[:-1]}\\{mark[-1]}"


def _markdown_table(table: CellTable) -> str:
    rows = [[in_markdown(heading.text) for heading in table.headings]]
    rows += [[in_markdown(row.name), *map(_in_markdown, row.cells)] for row in table.rows]
    widths = [max(3, *(cell_len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_aligned(row, widths) for row in rows]
    return "\n".join([lines[0], _aligned(rule, widths), *lines[1:]])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        " " * (width - cell_len(cell)) + cell if i else cell + " " * (width - cell_len(cell))
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return f"| {' | '.join([first, *others])} |"


def _in_markdown(cell: Cell) -> str:
    value = f"**{cell.text}**" if cell.bold else cell.text
    mark = r"\*" if cell.star else ""
    spread = f" ± {cell.spread}" if cell.spread else ""
    interval = f" [{cell.interval[0]}, {cell.interval[1]}]" if cell.interval else ""
    return f"{value}{mark}{spread}{interval}"


# -- LaTeX -------------------------------------------------------------------------------------------------------------


def as_latex(comparison: Comparison) -> str:
    """All sections' tables for `\\input`: `booktabs` and `graphicx` are needed, nothing else."""
    blocks = [r"% \usepackage{booktabs,graphicx} in the preamble; what is wider than a line is shrunk to it."]
    blocks += [f"% {printable(note)}" for note in comparison.notes]
    for section in comparison.sections:
        blocks += [f"% {printable(note)}" for note in (*section.notes, *verdict(section))]
        blocks += [_latex_table(comparison, section, table) for table in tables(section)]
    return "\n".join(blocks) + "\n"


def in_latex(words: str) -> str:
    """A text, escaped so that LaTeX sets it literally."""
    return "".join(LATEX.get(c, c) for c in printable(words))


def _latex_table(comparison: Comparison, section: Section, table: CellTable) -> str:
    where = ", ".join(filter(None, [comparison.title, section.name]))
    caption = in_latex(f"{table.title}{f' ({where})' if where else ''}. {' '.join(table.legend)}")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
        r"\toprule",
        _latex_row([in_latex(heading.text) for heading in table.headings]),
        r"\midrule",
        *(_latex_row([in_latex(row.name), *map(_in_latex, row.cells)]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _in_latex(cell: Cell) -> str:
    value = rf"$\mathbf{{{cell.text}}}$" if cell.bold else _latex_number(cell.text)
    mark = "$^{*}$" if cell.star else ""
    spread = rf" $\pm$ {_latex_number(cell.spread)}" if cell.spread else ""
    low, high = map(_latex_number, cell.interval or ("", ""))
    interval = f" {{[}}{low}, {high}{{]}}" if cell.interval else ""
    return f"{value}{mark}{spread}{interval}"


def _latex_number(value: str) -> str:
    """A number with a mathematical minus sign."""
    return f"${value}$" if re.fullmatch(r"[+-]?\d+(\.\d+)?", value) else in_latex(value)
