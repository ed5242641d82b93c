"""Run folders as runs leave them, without a run."""

import functools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.states import RunState, states

HOLD = """
import sys
from dist_dash.runs.owner import OwnedFolder
folder = OwnedFolder(sys.argv[1])
folder.acquire()
print("held", flush=True)
sys.stdin.read()
"""
TRAIN = {"kind": "train", "step": 20, "epoch": 0.5, "loss": [1.0, 2.0], "accuracy": [0.5, 0.75]}
EVAL = {"kind": "eval", "step": 10, "epoch": 0.2, "ensemble": {"accuracy": 0.875, "nll": 0.25}}


@functools.cache
def dead() -> int:
    """The id of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def made(path: Path, **owner: object) -> OwnedFolder:
    """A run that was begun by an owner, of this host and process where nothing else is said."""
    folder = OwnedFolder(path)
    folder.checkpoints.mkdir(parents=True)
    folder.recipe.write_text("epochs: 1\n")
    (path / "owner.lock").touch()
    (path / "owner.json").write_text(
        json.dumps({"token": "t", "host": socket.gethostname(), "pid": os.getpid(), "job": "", **owner})
    )
    return folder


def quiet(folder: OwnedFolder, seconds: float = 4000) -> None:
    """Make the last sign of a run that old."""
    for path in (folder.path, folder.checkpoints, *([folder.metrics] if folder.metrics.exists() else [])):
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def state_of(path: Path) -> RunState:
    (found,) = states([path])
    return found


def said(folder: OwnedFolder) -> tuple[str, str]:
    found = state_of(folder.path)
    return found.state, found.why


def lines(*values: dict) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def submitted(path: Path, noted: str, **owner: object) -> OwnedFolder:
    folder = made(path, **owner) if owner else OwnedFolder(path)
    folder.note_job(noted, path / "slurm")
    return folder
