"""How long ranks may take to save after a signal, where torch can be asked to wait: not in 2.11.

There, torch's agent waits 30 seconds (a default argument within it, no setting) before it kills the ranks.
As a script (`python3 -m dist_dash.training.grace 300`) it quickly prints the words for torchrun's command line.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

GRACE = 300  # seconds


def grace_for(config: Callable[..., Any]) -> dict[str, Any]:
    """The argument for torch's `LaunchConfig`, where it takes one."""
    return {"shutdown_timeout": GRACE} if "shutdown_timeout" in inspect.signature(config).parameters else {}


def torchrun_options(seconds: str) -> list[str]:
    """The words for torchrun, where it knows them; torch is looked at, not imported."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return []
    source = (Path(torch.origin).parent / "distributed/run.py").read_text()
    return ["--shutdown-timeout", seconds] if "shutdown-timeout" in source else []


if __name__ == "__main__":
    print(*torchrun_options(sys.argv[1]))
