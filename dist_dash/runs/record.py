"""The record of a run while it trains: `metrics.jsonl` always, progress on the terminal, TensorBoard on request."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, SupportsFloat

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from dist_dash.errors import BadInput, RunFailed
from dist_dash.files import replacing
from dist_dash.ranks.exchange import Exchange
from dist_dash.runs.folder import record_line
from dist_dash.runs.progress import TrainingLine

PENDING = 100  # updates whose values are kept before they are summed
Names = tuple[str, ...]
TIMING = ("seconds", "wait", "transfer", "data", "peak_memory_mib")


class Window:
    """Means of a method's measurements over the updates since the last line.

    Values stay on the device until they are due: adding them costs little and never waits for the device.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._steps = exchange, 0
        self._timed = 0  # updates of this process; a window that began before a resume has more of them
        self._pending: list[tuple[Names, list[Tensor]]] = []  # not yet in the sums
        self._sums: dict[Names, tuple[int, Tensor]] = {}  # of updates that measured the same: how many, and the sums
        self._host_names, self._host_sums = list[str](), list[float]()
        self._host_pending: list[list[SupportsFloat]] = []

    def add(self, measured: Mapping[str, Tensor], skipped: Sequence[SupportsFloat], **on_host: SupportsFloat) -> None:
        """Add one update's values.

        What an update measures may depend on its number, and on nothing else. A mean is that of the updates that have
        measured the value.

        Args:
            measured: 0-dimensional tensors; where this rank trains k members `[k]`.
            skipped: whether each member of this rank has skipped it; the host knows it by the time it is due.
            on_host: numbers that the host knows as well, the same for all members of this rank.
        """
        if len(skipped) == 1:
            on_host = {"skipped": skipped[0], **on_host}
        else:
            device = self._exchange.layout.device
            numbers = [float(one) for one in skipped]
            measured = {**measured, "skipped": torch.tensor(numbers, dtype=torch.float64, device=device)}
        self._host_names = list(on_host)
        self._pending.append((tuple(measured), [value.detach() for value in measured.values()]))
        self._host_pending.append([*on_host.values()])
        self._steps += 1
        self._timed += 1
        if len(self._pending) == PENDING:
            self._sum_up()

    @property
    def empty(self) -> bool:
        """Whether nothing was measured since the last line."""
        return self._steps == 0

    def close(self) -> dict[str, list[float]]:
        """One value per member (mean over its replicas) for each measured name and timing; starts a new window."""
        self._sum_up()
        clock, layout, means = self._exchange.clock.read(), self._exchange.layout, self._means()
        seconds = [clock.get(name, 0.0) / max(1, self._timed) for name in ("total", *TIMING[1:4])]
        here, of_rank = layout.members_per_rank, [total / self._steps for total in self._host_sums]
        of_rank += [*seconds, _peak_memory_mib()]
        columns = [*means.values(), *([value] * here for value in of_rank)]
        own = torch.tensor(columns, dtype=torch.float64).T
        rows = torch.stack(self._exchange.collect(own)).reshape(-1, layout.replicas, here, own.shape[1]).mean(1)
        rows = rows.flatten(0, 1)
        names = [*means, *self._host_names, *TIMING]
        self._sums, self._host_sums, self._steps, self._timed = {}, [], 0, 0
        return {name: rows[:, i].tolist() for i, name in enumerate(names)}

    def states(self) -> list[dict[str, Any]]:
        """For each member of this rank the state with which a resumed run writes the same next line."""
        self._sum_up()
        here = self._exchange.layout.members_per_rank
        common = {"steps": self._steps, "host_names": self._host_names, "host_sums": self._host_sums}
        sums = [
            [[[*names], number, total if here == 1 else total[:, member].clone()] for names, (number, total) in groups]
            for member, groups in enumerate([self._sums.items()] * here)
        ]
        return [{**common, "sums": own} for own in sums]

    def load_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore what `states` returned."""
        first, device = states[0], self._exchange.layout.device
        self._steps, self._host_names = first["steps"], first["host_names"]
        self._host_sums = first["host_sums"]
        if "names" in first:  # a set of an earlier version: one member a rank, and every update measured the same
            sums = [] if first["sums"] is None else [[[first["names"], first["steps"], first["sums"]]]]
        else:
            sums = [state["sums"] for state in states]
        self._sums = {}
        for groups in zip(*sums, strict=True):
            names, number, _ = groups[0]
            totals = [total for _, _, total in groups]
            self._sums[tuple(names)] = number, (totals[0] if len(totals) == 1 else torch.stack(totals, 1)).to(device)

    def _sum_up(self) -> None:
        """Add the pending values, one update after the other: the sum does not depend on when it is made."""
        for names, values in self._pending:
            row = torch.stack([value.double() for value in values])
            number, total = self._sums.get(names, (0, None))
            self._sums[names] = (number + 1, row if total is None else total + row)
        for known in self._host_pending:
            before = self._host_sums or [0.0] * len(known)
            self._host_sums = [total + float(value) for total, value in zip(before, known, strict=True)]
        self._pending, self._host_pending = [], []

    def _means(self) -> dict[str, list[float]]:
        """Of each value, over the updates that measured it; one number for each member of this rank."""
        found: dict[str, tuple[int, Tensor]] = {}
        for names, (number, total) in self._sums.items():
            for name, value in zip(names, total.cpu().reshape(len(names), -1), strict=True):
                updates, before = found.get(name, (0, torch.zeros_like(value)))
                found[name] = (updates + number, before + value)
        return {name: (total / updates).tolist() for name, (updates, total) in found.items()}


class Recorder:
    """Rank 0's record of a run; the other ranks write nothing.

    Args:
        active: whether this is rank 0.
        metrics: the `metrics.jsonl` to append to.
        total_steps: for the progress display.
        progress: whether to show progress.
        tensorboard: folder for TensorBoard files; None for none.
    """

    def __init__(self, active: bool, metrics: Path, total_steps: int, progress: bool, tensorboard: Path | None) -> None:
        self._active, self._metrics = active, metrics
        self._console = _console()
        self._bar: Progress | None = None
        self._show = active and progress
        self._total = total_steps
        self._file: BinaryIO | None = None
        self._digest = _blake2b()
        self._open_board = _tensorboard(tensorboard) if active and tensorboard else None
        self._board: Any = None
        self._rewound = False
        if self._show and sys.stderr.isatty():
            self._bar = Progress(TrainingLine(self._console), console=self._console, transient=True)
            self._task = self._bar.add_task("", total=total_steps)
            self._bar.start()

    def say(self, text: str) -> None:
        """Print a line for the user, on stderr."""
        if self._active:
            say(text, self._console)

    def position(self) -> dict[str, Any]:
        """Flush `metrics.jsonl` to disk; returns its size in bytes and its checksum, which a checkpoint stores."""
        size = 0
        if self._file is not None:
            os.fsync(self._file.fileno())
            size = os.fstat(self._file.fileno()).st_size
        elif self._active and self._metrics.exists():
            size = self._metrics.stat().st_size
        return {"metrics_bytes": size, "metrics_blake2b": self._digest.hexdigest()}

    def rewind(self, metrics_bytes: int, metrics_blake2b: str | None = None) -> str:
        """Drop the lines that were written after `position` gave this: a resumed run writes them again.

        The file is replaced by a new one: a stale owner may still append to the old file, which nobody reads any more.

        Args:
            metrics_bytes: size of what stays.
            metrics_blake2b: its checksum; None where an earlier version did not note it.

        Returns:
            What is wrong with the record, of which whole lines stay then; empty where nothing is.
        """
        self._rewound = True
        if not self._active:
            return ""
        kept = old = self._metrics.read_bytes()[:metrics_bytes] if self._metrics.is_file() else b""
        intact = len(old) == metrics_bytes and metrics_blake2b in (None, _blake2b(old).hexdigest())
        if not intact:
            kept = b"".join(line + b"\n" for line in old.split(b"\n")[:-1] if record_line(line))
        with replacing(self._metrics) as new:
            new.write_bytes(kept)
        self._digest = _blake2b(kept)
        what = f"{self._metrics} is damaged: of its {metrics_bytes} bytes at this step"
        return "" if intact else f"{what}, {len(kept)} are left in whole lines, whose numbers may be wrong"

    def event(self, step: int, epoch: float, text: str) -> None:
        """Print and record that something has happened."""
        self.say(text)
        self.write("event", step, epoch, text=text)

    def write(self, kind: str, step: int, epoch: float, **values: Any) -> None:
        """Append one line: `{"kind", "step", "epoch", …}`; numbers that JSON lacks (NaN, ∞) become null."""
        if not self._active:
            return
        line = {"kind": kind, "step": step, "epoch": round(epoch, 6), **values}
        try:
            # Opened with the first line, not before: a run that starts over clears its folder in between.
            self._file = self._file or self._metrics.open("ab", buffering=0)
            text = (json.dumps(_finite(line), allow_nan=False) + "\n").encode()
            if self._file.write(text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._digest.update(text)
        except OSError as error:
            raise RunFailed(f"{self._metrics} cannot be written at step {step}: {error.strerror or error}") from error
        if self._open_board is not None:
            # The first line of a resumed run is of the checkpoint's step, whose values are there already.
            self._board = self._board or self._open_board(step + self._rewound)
            for name, number in _numbers_in(values, kind):
                self._board.add_scalar(name, number, step)

    def write_training(
        self, step: int, epoch: float, window: dict[str, list[float]], rate: float, samples: int
    ) -> None:
        """Append a `train` line and show it; timings have a key of their own: they alone differ between equal runs."""
        timing: dict[str, list[float]] = {name: window.pop(name) for name in TIMING}
        split = zip(*(timing[name] for name in TIMING[:4]), strict=True)
        timing["compute"] = [total - wait - transfer - data for total, wait, transfer, data in split]
        timing["samples_per_second"] = [samples / seconds for seconds in timing["seconds"]]
        self.write("train", step, epoch, **window, learning_rate=[rate] * len(timing["wait"]), timing=timing)
        if self._show:
            loss, accuracy = window["loss"], window["accuracy"]
            if self._bar is not None:
                self._bar.update(self._task, completed=step, loss=loss, accuracy=accuracy)
            else:
                figures = f"loss {_numbers(loss)}  accuracy {_numbers(accuracy)}"
                self.say(f"step {step}/{self._total}  epoch {epoch:.2f}  {figures}")

    def close(self) -> None:
        """End the display and close the files."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            self._file.close()
            self._file = None


def say(text: str, console: Console | None = None) -> None:
    """Print a line for the user on stderr; brackets in it are not markup."""
    (console or _console()).print(text, markup=False)


def _console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def _blake2b(content: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(content, digest_size=16)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values[:8]) + (" …" if len(values) > 8 else "")


def _numbers_in(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Every number in nested dictionaries and lists, by its path; members are numbered."""
    if isinstance(value, float | int):
        yield name, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _numbers_in(inner, f"{name}/{key:02d}" if isinstance(key, int) else f"{name}/{key}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _peak_memory_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError):  # Linux, where getrusage includes the parent's peak from before the fork
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _tensorboard(folder: Path) -> Callable[[int], Any]:
    """A function that opens the files at a step; the events of a resumed run from that step on are replaced."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadInput("record.tensorboard: the package is missing; pip install 'dist-dash[report]'") from error
    return lambda step: SummaryWriter(str(folder), purge_step=step)
