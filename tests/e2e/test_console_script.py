"""The installed command `dist-dash`: code in the current folder, and a reader that leaves early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.runs import SMALL, lines_of

MINE = """
from dist_dash.methods import SGD
class Mine(SGD):
    def update(self, member, batch, exchange):
        return {**super().update(member, batch, exchange), "mine": next(iter(batch)).x.sum() * 0 + 7}
"""
SCRIPT = "import sys; sys.path.remove(''); sys.argv[0] = 'dist-dash'; from dist_dash.commands.cli import entry; entry()"
"""What the console script does: unlike `python -m`, it does not look for modules in the current folder."""


def shell(folder: Path, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_method_in_the_current_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    arguments = ["train", *SMALL, "--engine=Torch", "--max_steps=2", "--members=1", "--method=mine.Mine", "--run=run"]
    process = shell(tmp_path, *arguments)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert [line["mine"] for line in lines_of(tmp_path / "run") if line["kind"] == "train"] == [[7.0], [7.0]]


HERE = [*SMALL, "--members=1", "--dry-run"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["submit", *HERE, "--run=run"], ["array", *HERE, "--sweep=seed=0..3"]]
)
def test_a_reader_that_leaves_early_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # before anything is written: head has read its line
    process = shell(tmp_path, *arguments, stdout=writer)
    os.close(writer)
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")
