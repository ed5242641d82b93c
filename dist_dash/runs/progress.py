"""How far something has come, on a terminal: one line on stderr that fits its width; elsewhere nothing is shown."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LEAST_BAR, MOST_BAR = 10, 40  # letters


def tracked(rounds: Sequence[int], what: str) -> Iterator[int]:
    """The rounds, with a bar while they are gone through."""
    if not sys.stderr.isatty():
        yield from rounds
        return
    columns = [TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(rounds, description=what)


class TrainingLine(ProgressColumn):
    """A training run in one line: step, what is left, the members' mean and spread.

    Args:
        console: that it is shown on.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        """The line, for the width that the terminal has now."""
        figures: dict[str, Sequence[float]] = {
            name: task.fields[name] for name in ("loss", "accuracy") if name in task.fields
        }
        width, left = self._console.width, task.time_remaining
        return Text(training_line(width, int(task.completed), int(task.total or 0), left, figures), no_wrap=True)


def training_line(width: int, step: int, total: int, seconds: float | None, figures: dict[str, Sequence[float]]) -> str:
    """A training run in one line of at most `width` letters; from 60 on all is there.

    Args:
        width: of the terminal.
        step: updates done.
        total: of all.
        seconds: that are left; None where nobody knows.
        figures: one value per member, by name.
    """
    head = f"step {step}/{total}"
    left = "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))
    short = {"accuracy": "acc"}
    rows = (
        [head, *(f"{name} {_spread(values, ' ± ')}" for name, values in figures.items()), f"{left} left"],
        [head, *(f"{short.get(name, name)} {_spread(values, '±')}" for name, values in figures.items()), left],
        [head, *(f"{short.get(name, name)} {_number(statistics.fmean(v))}" for name, v in figures.items()), left],
    )
    lines = ["  ".join(row) for row in rows]
    line = next((one for one in lines if len(one) <= width), lines[-1][:width])
    room = min(width - len(line) - 2, MOST_BAR)
    if room < LEAST_BAR or not total:
        return line
    done = room * step // total
    return line.replace(head, f"{head}  {'━' * done}{'╌' * (room - done)}", 1)


def _spread(values: Sequence[float], sign: str) -> str:
    """Mean and standard deviation over the members; of one, its value."""
    mean = _number(statistics.fmean(values))
    return mean if len(values) < 2 else f"{mean}{sign}{_number(statistics.stdev(values))}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"
