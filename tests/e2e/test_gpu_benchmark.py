"""The command for GPU machines, tried without one: every part runs, reports and fails alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = {
    "exchange": ["NCCL, one rank: two collectives", "2 ranks on one GPU, gather: an exchange"],
    "steps": ["bare SAM: images/s", "SGD / bare SGD", "SAM / bare SAM", "DASH joint / SAM", "DASH separate / SAM"],
    "waits": ["DASH separate: waits of the host per update", "training loop, SGD: waits of the host per update"],
    "perturbation": ["|‖realised ε‖ / ‖ε‖ − 1|, bf16", "weights restored to the bit"],
    "resume": ["resume, Torch: both runs", "resume, DeepSpeed: both runs"],
    "suite": ["tests/gpu"],
    "compiled": ["DASH separate: compiled / not", "time to compile"],
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def benchmark(out: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, str]]]:
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), "--tiny", "--out", str(out), *options]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, capture_output=True, text=True, env=variables)
    return ended, json.loads((out / "gpu.json").read_text())["rows"]


def test_every_part_runs_without_a_gpu(tmp_path: Path) -> None:
    ended, rows = benchmark(tmp_path, "--device", "cpu", "--patience", "5")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for part, wanted in ROWS.items():
        assert set(wanted) <= {row["what"] for row in rows if row["part"] == part}
    assert {row["verdict"] for row in rows} <= {"", "ok"}
    assert "worst: ok" in ended.stdout.splitlines()[-1]


def test_a_part_that_fails_says_why_and_the_others_run(tmp_path: Path) -> None:
    ended, rows = benchmark(tmp_path, "--device", "cuda", "--only", "exchange", "suite")
    assert ended.returncode == 1
    assert [(row["part"], row["verdict"], row["note"]) for row in rows] == [
        ("exchange", "FAILED", "torch sees no GPU"),
        ("suite", "FAILED", "torch sees no GPU"),
    ]
