"""Runs that were really trained, compared: every figure against the files that the runs wrote."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from dist_dash.commands.compare import compare_command
from dist_dash.runs.process import guarded
from tests.e2e.runs import finish, lines_of

QUICK = ["--engine=Torch", "--max_steps=12", "--record.every=3", "--checkpoints.every_steps=0"]
METHODS = {"SGD": ["--method=SGD"], "DASH": ["--method=DASH", "--method.rho_div=0.2"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds, two members."""
    folder = tmp_path_factory.mktemp("compared")
    for method, arguments in METHODS.items():
        for seed in (0, 1):
            finish(folder / f"{method}-s{seed}", 2, 2, *QUICK, *arguments, f"--seed={seed}")
    return folder


def compared(*arguments: Any) -> int:
    return guarded(lambda: compare_command([str(argument) for argument in arguments]))


def evaluation(folder: Path, method: str, seed: int) -> dict[str, Any]:
    return json.loads((folder / f"{method}-s{seed}/evaluation.json").read_text())


def test_real_runs_are_compared_in_what_they_wrote(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(folder, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    (section,) = content["sections"]
    assert section["name"] == "20 % label noise"
    assert [group["name"] for group in section["groups"]] == ["DASH", "SGD"]
    assert section["baselines"] == ["SGD"]
    figures = {name for name, value in evaluation(folder, "SGD", 0)["ensemble"].items() if value is not None}
    assert {"accuracy", "nll", "brier", "ece", "top5"} <= figures
    for group in section["groups"]:
        files = [evaluation(folder, group["name"], seed) for seed in (0, 1)]
        for name in figures:
            values = [file["ensemble"][name] for file in files]
            found = group["metrics"][f"ensemble.{name}"]
            assert found["values"] == {"0": values[0], "1": values[1]}
            assert found["mean"] == pytest.approx(statistics.mean(values))
            assert found["sd"] == pytest.approx(statistics.stdev(values))
        kl = group["metrics"]["diversity.kl"]["values"]["1"]
        assert kl == files[1]["diversity"]["kl"]
    for name in figures:
        metric = f"ensemble.{name}"
        difference = section["differences"]["DASH"]["SGD"][metric]
        pairs = [
            evaluation(folder, "DASH", s)["ensemble"][name] - evaluation(folder, "SGD", s)["ensemble"][name]
            for s in (0, 1)
        ]
        assert difference["n"] == 2
        assert difference["mean"] == pytest.approx(statistics.mean(pairs), abs=1e-12)
        assert difference["low"] <= min(pairs) + 1e-12
        assert difference["high"] >= max(pairs) - 1e-12


def test_the_cost_is_that_of_the_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(folder, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    medians = {(row["group"], row["metric"]): float(row["median"]) for row in rows if row["metric"].startswith("cost.")}
    steps = {}
    for method in METHODS:
        runs = []
        for seed in (0, 1):
            lines = [line for line in lines_of(folder / f"{method}-s{seed}") if line["kind"] == "train"]
            assert [line["step"] for line in lines] == [3, 6, 9, 12]
            seconds = [max(line["timing"]["seconds"]) for line in lines]
            runs.append((statistics.median(seconds[1:]), sum(3 * s for s in seconds) * 2 / 3600))
        steps[method] = statistics.median(step for step, _ in runs)
        assert medians[method, "cost.step_seconds"] == pytest.approx(steps[method])
        assert medians[method, "cost.device_hours"] == pytest.approx(statistics.median(hours for _, hours in runs))
    assert medians["DASH", "cost.relative_step_time"] == pytest.approx(steps["DASH"] / steps["SGD"])
    assert medians["SGD", "cost.relative_step_time"] == 1.0
    assert medians["SGD", "cost.peak_memory_mib"] > 50


def test_a_run_that_was_stopped_is_left_out_or_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in ("SGD-s0", "DASH-s0", "DASH-s1"):
        shutil.copytree(folder / run, tmp_path / run)
    (tmp_path / "DASH-s1/DONE").rename(tmp_path / "DASH-s1/CONTINUE")
    assert compared(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "Left out, not finished" in shown
    assert "One seed only" in shown
    runs = [tmp_path / name for name in ("SGD-s0", "DASH-s0", "DASH-s1")]
    assert compared(*runs) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{runs[2]} is not finished" in captured.err
    assert compared(*runs, "--partial") == 0
