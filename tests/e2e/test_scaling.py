"""A scaling study on this machine: killed, continued, stopped, repeated; run by the script as a user types it."""

from __future__ import annotations

import csv
import json
import signal
import sys
import time
from pathlib import Path

import psutil

from tests.e2e.runs import lines_of
from tests.e2e.test_launch import LIGHT, ROOT, Launched
from tests.support.ranks import LIMIT

STEPS = 12


def command(folder: Path, *options: str) -> list[str]:
    """Updates take 50 ms more while a file lies beside the folder."""
    hold = ["--engine=tests.e2e.faults.Held", f"--engine.sign={folder.with_name('hold')}"]
    light = [word for word in LIGHT if not word.startswith(("--max_steps", "--record", "--checkpoints"))]
    network = ["--model=MLP", "--model.hidden=16", "--optimizer=SGD", "--optimizer.lr=0.05", "--loader.batch_size=32"]
    short = ["--executor=here", f"--steps={STEPS}", "--warm-up=4", "--repeats=1", f"--folder={folder}"]
    return [sys.executable, str(ROOT / "slurm/scaling_study.py"), *short, *options, *light, *network, *hold]


def until_step(launched: Launched, run: Path, step: int) -> None:
    """Until a run has come that far; it goes on slowly."""
    run.parent.with_name("hold").write_text(f"0.5 {step}")
    end = time.monotonic() + LIMIT
    while not any(line.get("step", 0) >= step for line in lines_of(run)):
        assert time.monotonic() < end, launched.output
        time.sleep(0.02)
    launched.look()


def files(folder: Path) -> dict[Path, int]:
    """What the runs have written, and when."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("m*/*") if path.is_file()}


def test_a_study_survives_its_death_and_is_not_run_twice(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    names = ["m1_r1_b32_1", "m1_r2_b32_1", "m2_r1_b32_1", "m2_r2_b32_1"]
    study = command(folder, "--members=1,2", "--replicas=1,2", "--scaling=weak")
    with Launched(*study, PYTHONPATH=str(ROOT)) as launched:
        until_step(launched, folder / names[1], 5)  # the end of the block kills it and its ranks
    first = files(folder / names[0])
    assert (folder / names[0] / "DONE").exists()
    assert not (folder / names[1] / "DONE").exists()

    (tmp_path / "hold").unlink()
    with Launched(*study, PYTHONPATH=str(ROOT)) as launched:
        assert launched.wait() == 0, launched.output
        assert "4 points, 4 runs, 3 to do; in " in launched.output
        assert "2 × 2" in launched.output
    assert files(folder / names[0]) == first
    for name in names:
        assert [line["step"] for line in lines_of(folder / name) if line["kind"] == "train"] == [*range(1, STEPS + 1)]
        assert (folder / name / "DONE").exists()
        layout = json.loads((folder / name / "environment.json").read_text())["layout"]
        assert f"m{layout['members']}_r{layout['replicas']}_b32_1" == name
    content = json.loads((folder / "scaling.json").read_text())
    assert [(row["members"], row["replicas"], row["updates"]) for row in content["rows"]] == [
        (m, r, STEPS - 4) for m in (1, 2) for r in (1, 2)
    ]
    assert all(0 < row["step_seconds_p10"] <= row["step_seconds"] <= row["step_seconds_p90"] for row in content["rows"])
    alone, _, pair, _ = content["rows"]
    assert (alone["efficiency"], alone["waiting_share"], alone["transfer_share"]) == (1.0, 0.0, 0.0)
    assert 0 < pair["waiting_share"] + pair["transfer_share"] < 1
    assert content["environment"]["packages"]["torch"]
    with (folder / "scaling.csv").open() as file:
        assert [row["efficiency"] for row in csv.DictReader(file)] == [
            str(row["efficiency"]) for row in content["rows"]
        ]

    before = files(folder)
    with Launched(*study, "--json", PYTHONPATH=str(ROOT)) as launched:
        assert launched.wait() == 0, launched.output
        assert "4 runs, 0 to do" in launched.output
        assert f"{json.dumps(content['rows'])}}}\n" in launched.output
    assert files(folder) == before


def test_a_signal_ends_the_study_and_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with Launched(*command(folder, "--members=2"), PYTHONPATH=str(ROOT)) as launched:
        until_step(launched, folder / "m2_r1_b32_1", 3)
        launched.signal(signal.SIGTERM)
        assert launched.wait() == 75, launched.output
        assert "scaling: SIGTERM: stopping; run the same command to continue" in launched.output
        assert "nothing to show yet; not finished: m2_r1_b32_1 (stopped: SIGTERM)" in launched.output
        assert "Traceback" not in launched.output
    assert (folder / "m2_r1_b32_1/CONTINUE").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]


def test_what_only_the_data_can_tell_ends_the_study(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    refused = command(folder, "--members=1", "--repeats=3")
    with Launched(*refused, "--loader.batch_size=4096", PYTHONPATH=str(ROOT)) as launched:
        assert launched.wait() == 2, launched.output
        last = launched.output.splitlines()[-1]
    assert last.startswith("dist-dash: loader.batch_size: 4096 ")
    assert last.endswith("(run m1_r1_b4096_1)")
    assert not (folder / "m1_r1_b4096_2").exists()
