"""A comparison printed and written, for people, papers and programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from dist_dash.comparison.grouping import Comparison, load_comparison
from dist_dash.comparison.machine_readable import as_csv, as_json
from dist_dash.comparison.markup import as_latex, as_markdown
from dist_dash.comparison.terminal import as_renderable
from dist_dash.errors import require
from dist_dash.files import check_writable, replacing
from dist_dash.runs.process import FINISHED
from dist_dash.runs.record import say

WIDTH = 120  # where stdout is no terminal
FORMATS: dict[str, Callable[[Comparison], str]] = {
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
    "json": lambda comparison: json.dumps(as_json(comparison), indent=1, allow_nan=False) + "\n",
}
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}


def compare(
    runs: Sequence[str],
    partial: bool,
    baselines: Sequence[str],
    equivalent: bool | None,
    form: str,
    outputs: Sequence[str],
) -> int:
    """Compare, print, write; returns the exit status, 0.

    Args:
        runs: finished runs, or folders of them.
        partial: whether runs that are not finished are left out; they are refused otherwise.
        baselines: names of groups that the others are compared with.
        equivalent: whether to ask how many plain members are as good; None: where that is quick.
        form: what is printed: `terminal` or one of `FORMATS`.
        outputs: files to write; the suffix says the format.

    Raises:
        BadInput: what is given cannot be compared, or cannot be written to; nothing was written.
    """
    paths = [_checked(Path(path)) for path in outputs]
    comparison = load_comparison([Path(run) for run in runs], partial, baselines, equivalent)
    with contextlib.ExitStack() as all_or_none:
        for path in paths:
            all_or_none.enter_context(replacing(path)).write_text(FORMATS[SUFFIXES[path.suffix]](comparison))
    if form == "terminal":
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(as_renderable(comparison, console.width))
    else:
        sys.stdout.write(FORMATS[form](comparison))
        for note in comparison.notes:  # a CSV has no room for them
            say(f"compare: {note}")
    for path in paths:
        say(f"compare: wrote {path}")
    return FINISHED


def _checked(path: Path) -> Path:
    """Refuse before the work what could not be written after it."""
    require(path.suffix in SUFFIXES, "output", str(path), f"a file that ends in {', '.join(SUFFIXES)}")
    check_writable(path, "output")
    return path
