from pathlib import Path

import numpy as np
import pytest
from exported import export, images
from slurm_fakes import FakeSlurm


@pytest.fixture
def not_a_rank(monkeypatch, tmp_path):
    """A command typed into a shell, in an empty folder; torchrun's variables are not set."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run/ensemble").mkdir(parents=True)
    export(tmp_path / "run/ensemble")
    np.savez(tmp_path / "x.npz", x=images(7).numpy(), y=np.arange(7) % 5)
    return tmp_path / "run"


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    """A machine without Slurm, whatever this one has."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def fake(no_slurm, tmp_path, monkeypatch):
    """A Slurm without jobs, for a start."""
    found = FakeSlurm(tmp_path / "bin", monkeypatch)
    found.say("squeue")
    return found
