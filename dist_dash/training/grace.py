"""Which signals torch's agent hands on to the ranks, and how long they may take to save then.

The latter where torch can be asked to wait: not in 2.11, whose agent kills the ranks after 30 seconds (a default
argument within it, no setting).
As a script (`python3 -m dist_dash.training.grace 300`) it quickly prints the words for torchrun's command line.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dist_dash.runs.preemption import stop_signals

GRACE = 300  # seconds


def grace_for(config: Callable[..., Any]) -> dict[str, Any]:
    """The argument for torch's `LaunchConfig`, where it takes one."""
    return {"shutdown_timeout": GRACE} if "shutdown_timeout" in inspect.signature(config).parameters else {}


def signals_to_handle() -> str:
    """The names as torch takes them: what this process was started to ignore, the agent ignores too."""
    return ",".join(number.name for number in stop_signals())


def torchrun_options(seconds: str) -> list[str]:
    """The words for torchrun, as far as it knows them; torch is looked at, not imported."""
    words, torch = ["--signals-to-handle", signals_to_handle()], importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return words
    source = (Path(torch.origin).parent / "distributed/run.py").read_text()
    return [*words, "--shutdown-timeout", seconds] if "shutdown-timeout" in source else words


if __name__ == "__main__":
    print(*torchrun_options(sys.argv[1]))
