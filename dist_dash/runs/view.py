"""The states of the runs below a folder as a table, as JSON, or live. Needs no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dist_dash.errors import BadInput
from dist_dash.runs.states import UNDER_WAY, Answers, RunState, find_runs, states

PATIENCE = 10.0  # seconds for which a live view believes what Slurm said
STYLES = {"done": "green", "running": "cyan", "queued": "", "stopped": "yellow", "failed": "red", "new": "dim"}


def as_json(runs: Iterable[RunState]) -> list[dict[str, Any]]:
    """The states for programs; numbers that JSON lacks (NaN, ∞) become null."""
    entries = [{**dataclasses.asdict(run), "path": str(run.path)} for run in runs]
    for entry in entries:
        entry["metrics"] = {k: v if math.isfinite(v) else None for k, v in entry["metrics"].items()}
    return entries


def table(runs: Sequence[RunState], reasons: bool = True) -> Table:
    """The states for people: one row per run, named from the folder that holds them all; no column that says nothing.

    Args:
        runs: in the order of the rows.
        reasons: whether there is a column for them, which is the widest by far.
    """
    columns = {
        "step": [_progress(run) for run in runs],
        "loss": [_number(run, "loss", ".4f") for run in runs],
        "accuracy": [_number(run, "accuracy", ".2%") for run in runs],
        "ensemble\naccuracy": [_number(run, "ensemble_accuracy", ".2%") for run in runs],
        "job": [run.job for run in runs],
        "why": [run.why for run in runs] if reasons else [],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("run", overflow="fold")
    shown.add_column("state", no_wrap=True)
    for name in kept:
        justify: Any = "left" if name in ("job", "why") else "right"
        shown.add_column(name, justify=justify, no_wrap=name != "why", overflow="fold")
    for i, (run, name) in enumerate(zip(runs, _names(runs), strict=True)):
        state = Text(run.state + (f",\ncontinued {run.continued}×" if run.continued else ""), STYLES[run.state])
        shown.add_row(_plain(name), state, *(_plain(cells[i]) for cells in kept.values()))
    return shown


def summary(runs: Iterable[RunState]) -> str:
    """How many runs are in which state, in one line."""
    counts, always = Counter(run.state for run in runs), ("done", "running", "queued", "failed")
    return ", ".join(f"{counts[s]} {s}" for s in (*always, "stopped", "new") if s in always or counts[s])


def watch(runs: Path | Sequence[Path], seconds: float = 2.0) -> int:
    """Show the states until no run waits or runs any more, or until Ctrl-C, which leaves the runs alone.

    Args:
        runs: run folders, or a folder in which they are looked for again and again.
        seconds: between two looks. Where stdout is no terminal, a line is printed whenever the counts change.

    Returns:
        The exit status, 0.

    Raises:
        BadInput: there is no such folder, or no run in it.
    """
    answers, console, said = Answers(PATIENCE), Console(), ""
    live = Live(console=console, auto_refresh=False) if sys.stdout.isatty() else None
    with contextlib.suppress(KeyboardInterrupt), live or contextlib.nullcontext():
        while True:
            now = states(find_runs(runs) if isinstance(runs, Path) else runs, answers)
            over = not any(run.state in UNDER_WAY for run in now)
            if live is not None:
                live.update(_view(now, console) if over else _fitting(now, console), refresh=True)
            elif summary(now) != said:
                said = summary(now)
                print(said, flush=True)
            if over:
                break
            time.sleep(seconds)
    return 0


def show_runs(folder: str, in_json: bool, watching: bool) -> int:
    """Print or watch the states of the runs below a folder; returns the exit status, 0."""
    if in_json and watching:
        raise BadInput("watch: not allowed with --json; it must be one of the two")
    if watching:
        return watch(Path(folder))
    found = states(find_runs(Path(folder)))
    if in_json:
        print(json.dumps(as_json(found)))
    else:
        console = Console()
        console.print(_view(found, console))
    return 0


def _view(runs: Sequence[RunState], console: Console, last: str = "") -> Group:
    """The table, the reasons below it where they do not fit into it, and the last line: how many are in which state."""
    whole, last_line = table(runs), Text(last or summary(runs))
    if console.measure(whole, options=console.options.update(max_width=10_000)).maximum <= console.width:
        return Group(whole, last_line)
    reasons = [_plain(f"{name}: {run.why}") for run, name in zip(runs, _names(runs), strict=True) if run.why]
    return Group(table(runs, reasons=False), *reasons, last_line)


def _fitting(runs: Sequence[RunState], console: Console) -> Group:
    """A view of as many runs as the terminal has room for, those that wait or run before the others."""
    view, shown = _view(runs, console), list(runs)
    while len(shown) > 1 and len(console.render_lines(view)) > console.height:
        shown = sorted(shown, key=lambda run: run.state not in UNDER_WAY)[: len(shown) * 4 // 5]
        view = _view(shown, console, f"{summary(runs)}; {len(runs) - len(shown)} of them are not shown")
    return view


def _names(runs: Sequence[RunState]) -> list[str]:
    paths = [run.path.absolute() for run in runs]
    above = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [os.path.relpath(path, above) for path in paths]


def _progress(run: RunState) -> str:
    if run.step is None:
        return ""
    return str(run.step) if run.total_steps is None else f"{run.step}/{run.total_steps}"


def _number(run: RunState, name: str, how: str) -> str:
    return format(run.metrics[name], how) if name in run.metrics else ""


def _plain(words: str) -> Text:
    """Words as they are: brackets are no markup, and what cannot be printed does not reach the terminal."""
    return Text("".join(c if c.isprintable() else "�" for c in words))
