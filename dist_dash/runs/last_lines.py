"""The end of a `metrics.jsonl` that may be large, torn, or still being written."""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

TAIL, MOST = 2**16, 2**20  # bytes at the end of the file: read at first, and at most


@functools.lru_cache(maxsize=4096)  # a live view asks every other second
def last_lines(metrics: Path, version: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """The last line of each kind, and the last of all as `newest`.

    Args:
        metrics: the file.
        version: what changes with it: inode, size, time.

    Raises:
        OSError: it cannot be read.
    """
    window = TAIL
    with metrics.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while True:
            start = max(0, size - window)
            file.seek(start)
            # What stands before the first line break is the end of a line, what stands after the last one is torn.
            whole = file.read(size - start).split(b"\n")[1 if start else 0 : -1]
            found: dict[str, dict[str, Any]] = {}
            for line in map(parsed, reversed(whole)):
                if isinstance(line.get("kind"), str):
                    found.setdefault("newest", line)
                    found.setdefault(line["kind"], line)
                if {"train", "eval"} <= found.keys():
                    return found
            if start == 0 or window >= MOST:
                return found
            window *= 4


def summarised(lines: dict[str, dict[str, Any]]) -> dict[str, float]:
    """`loss` and `accuracy`, means over the members, `ensemble_accuracy` and `ensemble_nll`; those that there are."""
    train, ensemble = lines.get("train", {}), lines.get("eval", {}).get("ensemble")
    found = {name: _mean(train[name]) for name in ("loss", "accuracy") if isinstance(train.get(name), list)}
    if isinstance(ensemble, dict):
        found |= {f"ensemble_{name}": _mean([ensemble[name]]) for name in ("accuracy", "nll") if name in ensemble}
    return found


def last_words(log: Path) -> str:
    """The last line that a run printed, without the program's name."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1].removeprefix("dist-dash: ") if lines else "it said nothing"


def parsed(text: str | bytes) -> dict[str, Any]:
    """A JSON object; empty where the text is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _mean(values: list[Any]) -> float:
    """NaN where one of them is none: what a member could not measure must not hide behind the others."""
    return statistics.fmean(v if isinstance(v, int | float) else math.nan for v in values) if values else math.nan
