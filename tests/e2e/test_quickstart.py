"""The README's first command, in a clone: trains, shows the table, goes on after Ctrl-C, skips the set-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ranks import LIMIT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    if not list(Path(sys.prefix).glob(".installed-dev-*")):
        pytest.skip("needs the environment that tests/run.sh makes")
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_quickstart(clone: Path) -> None:
    command = ["bash", "launch/quickstart.sh"]
    output = clone / "output"
    with output.open("w") as file:
        first = subprocess.Popen(command, cwd=clone, stdout=file, stderr=file, start_new_session=True)
        end = time.monotonic() + LIMIT
        while "step 100/" not in output.read_text():
            assert first.poll() is None, output.read_text()
            assert time.monotonic() < end, output.read_text()
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
        assert first.wait(LIMIT) != 0
    run = clone / "runs/quickstart"
    assert "setup: installing" not in output.read_text()
    assert (run / "CONTINUE").exists(), output.read_text()

    second = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert "continuing runs/quickstart at step" in second.stderr
    for row in ("member 0", "member 1", "member 2", "member mean", "ensemble", "accuracy", "NLL", "Brier", "ECE"):
        assert row in second.stdout
    assert "everything is in runs/quickstart" in second.stderr
    assert (run / "DONE").exists()
