"""Members trained alone and joined: the run that they would have been together, whoever joins them, however often."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_dash.commands.cli import main
from dist_dash.ensembles.ensemble import load_ensemble
from dist_dash.ensembles.join import join, join_if_complete, merged_lines
from dist_dash.errors import BadInput
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder
from tests.e2e.joined import QUICK, assert_joined, files
from tests.e2e.runs import finish
from tests.support.ranks import Ranks


@pytest.fixture
def run(alone: Path, tmp_path: Path) -> Path:
    """Three finished members to be joined."""
    return shutil.copytree(alone, tmp_path / "run")


def test_a_joined_run_is_the_run_of_members_trained_together(
    run: Path, together: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = files(run)
    assert main(["join", str(run)]) == 0
    table = capsys.readouterr().out
    assert all(f"member {i} " in table for i in range(3))
    assert_joined(run, together)
    assert {name: content for name, content in files(run).items() if name in members} == members
    environment = json.loads((run / "environment.json").read_text())
    known = json.loads((together / "environment.json").read_text())
    assert set(environment) - {"members"} == set(known)
    assert (environment["layout"]["members"], environment["layout"]["world"]) == (3, 3)
    assert [set(one) for one in environment["members"]] == [{*known, "host", "job"} - {"blake2b"}] * 3
    # It is one file each: what happens to one of the two does not happen to the other.
    ours, theirs = (p / "member_01.safetensors" for p in (run / "ensemble", run / "member_01/ensemble"))
    assert not ours.samefile(theirs)


def test_a_joined_run_is_good_for_whatever_a_run_is(run: Path, together: Path, tmp_path: Path) -> None:
    assert join(run)
    samples = np.random.default_rng(0).integers(0, 255, (20, 1, 8, 8), dtype=np.uint8)
    expected = load_ensemble(together).predict(samples)
    np.testing.assert_array_equal(load_ensemble(run).predict(samples).member_probs, expected.member_probs)
    np.savez(tmp_path / "x.npz", x=samples)
    assert main(["predict", str(run), str(tmp_path / "x.npz"), "--output", str(tmp_path / "p.npz")]) == 0
    before = json.loads((run / "evaluation.json").read_text())
    assert main(["evaluate", str(run)]) == 0
    after = json.loads((run / "evaluation.json").read_text())
    assert after["ensemble"] == pytest.approx(before["ensemble"], rel=1e-5)
    shutil.rmtree(run / "member_00")
    assert len(load_ensemble(run)) == 3
    finish(run, 3, 3, *QUICK)  # is left alone: it is done
    assert not (run / "checkpoints").exists()


def test_a_joined_run_is_joined_again_only_where_a_member_finished_anew(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert join(run)
    before = files(run)
    assert not join(run)
    assert join_if_complete(run)
    assert main(["join", str(run)]) == 0
    assert "is finished already" in capsys.readouterr().err
    assert files(run) == before
    member = OwnedFolder(RunFolder(run).member(1).path)
    shutil.copy(run / "member_02/predictions.npz", member.predictions)
    member.mark(member.done)
    assert join(run)
    rows = np.load(run / "predictions.npz")["log_probs"]
    np.testing.assert_array_equal(rows[1], rows[2])
    assert (run / "ensemble/member_01.safetensors").exists()


# -- several at once, and killed in the middle -------------------------------------------------------------------------


def finish_and_join(run: str) -> bool:
    """The end of one member's job; all of them reach it at once."""
    rank = int(os.environ["RANK"])
    member = OwnedFolder(RunFolder(run).member(rank).path)
    Path(run).with_name(f"at_{rank}").touch()
    while not all(Path(run).with_name(f"at_{other}").exists() for other in range(3)):
        time.sleep(0.001)
    member.mark(member.done)
    return join_if_complete(run)


@pytest.mark.parametrize("attempt", range(5))
def test_members_that_finish_at_once(attempt: int, run: Path, together: Path) -> None:
    for member in (OwnedFolder(RunFolder(run).member(i).path) for i in range(3)):
        member.mark(None)
    ranks = Ranks(3, finish_and_join, str(run))
    results = ranks.results()
    assert {kind for kind, _ in results} == {"value"}, [ranks.output(rank) for rank in range(3)]
    assert any(joined for _, joined in results)
    assert "".join(ranks.output(rank) for rank in range(3)).count("joined; everything is in") == 1
    assert_joined(run, together)


def join_until(run: str, renames: int) -> bool:
    """Join, but be killed after so many renames."""
    left, replace = [renames], Path.replace

    def counted(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign]
    return join(run)


def test_killed_anywhere_it_is_simply_joined_again(alone: Path, together: Path, tmp_path: Path) -> None:
    for renames in range(20):
        run = shutil.copytree(alone, tmp_path / f"{renames}/run")
        ((kind, value),) = Ranks(1, join_until, str(run), renames).results()
        if kind == "value":
            break
        assert (kind, value) == ("killed", signal.SIGKILL)
        assert not (run / "DONE").exists()
        assert join(run)
        assert_joined(run, together)
    assert renames >= 11  # owner, three members, their names, recipe, environment, metrics, predictions, scores, DONE


def test_a_join_that_breaks_says_so_until_it_is_done_again(
    run: Path, together: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            "dist_dash.ensembles.join.save_results", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        with pytest.raises(OSError, match="No space"):
            join(run)
    assert "No space left" in (run / "FAILED").read_text()
    assert not (run / "DONE").exists()
    assert join_if_complete(run)
    assert_joined(run, together)


def test_lines_that_not_every_member_has_are_left_out() -> None:
    def line(step: int, loss: float, **more: Any) -> dict[str, Any]:
        return {"kind": "train", "step": step, "epoch": step / 10, "loss": [loss], "timing": {"wait": [loss]}, **more}

    event = {"kind": "event", "step": 2, "epoch": 0.2, "text": "continuing"}
    first = [line(1, 0.1), line(2, 0.2), line(3, None)]
    second = [line(2, 0.4), event, line(3, 0.5, more=[1]), line(4, 0.6)]
    expected = {"loss": [0.2, 0.4], "timing": {"wait": [0.2, 0.4]}}
    assert merged_lines([first, second]) == [
        {"kind": "train", "step": 2, "epoch": 0.2, **expected},
        {**event, "text": "member 1: continuing"},
        {"kind": "train", "step": 3, "epoch": 0.3, "loss": [None, 0.5], "timing": {"wait": [None, 0.5]}},
    ]


def test_a_folder_that_another_process_owns(run: Path, together: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = OwnedFolder(run)
    owner.acquire()
    waiting = Ranks(1, join_if_complete, str(run))
    with monkeypatch.context() as patched:
        patched.setattr("dist_dash.ensembles.join.PATIENCE", 0.5)
        for attempt in (join, join_if_complete):
            with pytest.raises(BadInput, match="is in use by process"):
                attempt(run)
    assert waiting.processes[0].is_alive()
    assert not (run / "DONE").exists()
    owner.release()
    assert waiting.results() == [("value", True)]
    assert_joined(run, together)
