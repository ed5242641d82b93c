"""A stale owner: a life of a job that Slurm has given up while it was starting must not change its successor's run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_dash.commands.cli import main
from tests.e2e.runs import SMALL, assert_same_run, finish, lines_of, start, step_of, until
from tests.support.ranks import Ranks


def life(run: Path, number: int, *arguments: str) -> Ranks:
    environment = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": str(number)}
    return Ranks(2, main, ["train", *SMALL, f"--run={run}", "--members=2", *arguments], environment=environment)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_stale_owner_that_was_still_loading_data(fresh: bool, tmp_path: Path) -> None:
    undisturbed, run, sign = tmp_path / "undisturbed", tmp_path / "run", tmp_path / "sign"
    slow = ["--data=tests.e2e.doubles.SlowLoading", f"--data.sign={sign}"]
    finish(undisturbed, 2, 2, *slow)
    sign.touch()
    stale = life(run, 0, *slow, *(["--fresh"] if fresh else []))
    until((run / "owner.json").exists, stale)
    successor = life(run, 1, *slow, *(["--fresh"] if fresh else []))
    assert successor.results() == [("value", 0)] * 2, successor.output()
    left = {path: path.stat().st_ino for path in run.rglob("*")}
    sign.unlink()
    assert stale.results() == [("value", 1)] * 2
    assert "was taken over by" in stale.output().replace("\n", "")
    assert {path: path.stat().st_ino for path in run.rglob("*")} == left, "nothing gone, new, or replaced"
    assert [line["step"] for line in lines_of(run) if line["kind"] == "train"] == list(range(1, 31))
    assert_same_run(run, undisturbed)


def test_fresh_is_meant_for_the_first_life(tmp_path: Path) -> None:
    undisturbed, run, sign = tmp_path / "undisturbed", tmp_path / "run", tmp_path / "sign"
    held = ["--engine=tests.e2e.faults.HeldDeepSpeed", f"--engine.sign={sign}"]
    finish(undisturbed, 2, 2)
    sign.write_text("0.5 12")
    first = start(run, 2, 2, *held)
    until(lambda: step_of(run) >= 12, first)
    first.signal(15)
    first.results()
    sign.write_text("0.5 7")
    again = life(run, 0, *held, "--fresh")
    until(lambda: 7 <= step_of(run) < 12, again)
    again.signal(15)
    assert again.results() == [("value", 75)] * 2
    sign.unlink()
    last = life(run, 1, *held, "--fresh")
    assert last.results() == [("value", 0)] * 2
    assert any("continuing" in line.get("text", "") for line in lines_of(run))
    assert_same_run(run, undisturbed)
