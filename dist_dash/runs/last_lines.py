"""The end of a file that a run writes: `metrics.jsonl`, which may be large, torn or still growing; and its log."""

from __future__ import annotations

import functools
import math
import os
import statistics
from pathlib import Path
from typing import Any

from dist_dash.files import parse_object

TAIL, MOST = 2**16, 2**20  # bytes at the end of the file: read at first, and at most


@functools.lru_cache(maxsize=4096)  # a live view asks every other second
def last_lines(metrics: Path, version: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """The last line of each kind, and the last of all as `newest`.

    Args:
        metrics: the file.
        version: inode, size and time of the file: a change of the file changes them.

    Raises:
        OSError: it cannot be read.
    """
    window = TAIL
    with metrics.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while True:
            start = max(0, size - window)
            file.seek(start)
            # Before the first line break stands the end of a line; after the last one, a line that is not complete.
            whole = file.read(size - start).split(b"\n")[1 if start else 0 : -1]
            found: dict[str, dict[str, Any]] = {}
            for line in map(parse_object, reversed(whole)):
                if isinstance(line.get("kind"), str):
                    found.setdefault("newest", line)
                    found.setdefault(line["kind"], line)
                if {"train", "eval"} <= found.keys():
                    return found
            if start == 0 or window >= MOST:
                return found
            window *= 4


def summarised(lines: dict[str, dict[str, Any]]) -> dict[str, float]:
    """`loss` and `accuracy`, means over the members, `ensemble_accuracy` and `ensemble_nll`; those that exist."""
    train, ensemble = lines.get("train", {}), lines.get("eval", {}).get("ensemble")
    found = {name: _mean(train[name]) for name in ("loss", "accuracy") if isinstance(train.get(name), list)}
    if isinstance(ensemble, dict):
        found |= {f"ensemble_{name}": _mean([ensemble[name]]) for name in ("accuracy", "nll") if name in ensemble}
    return found


def last_line(log: Path) -> str:
    """The last line that a run printed, without the program's name."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1].removeprefix("dist-dash: ") if lines else "it printed nothing"


def _mean(values: list[Any]) -> float:
    """NaN where one of the values is not a number: a non-finite member must not hide behind the others."""
    return statistics.fmean(v if isinstance(v, int | float) else math.nan for v in values) if values else math.nan
