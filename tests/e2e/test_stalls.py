"""A file system that does not answer: a stop works all the same, and the deadline says who waits for what."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from dist_dash.runs.owner import OwnedFolder
from tests.e2e.runs import assert_same_run, finish, start, step_of, until
from tests.e2e.test_faults import complaints, sets

EPOCH = 42  # updates


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder / "run", 2, 2, *on_disk(folder, "train", 0))
    return folder / "run"


def on_disk(folder: Path, split: str, workers: int) -> list[str]:
    data = ["--data=tests.e2e.faults.OnDisk", f"--data.sign={folder / 'sign'}", f"--data.split={split}"]
    return ["--engine=Torch", f"--max_steps={EPOCH + 8}", f"--loader.workers={workers}", *data]


@pytest.mark.parametrize(("split", "workers"), [("train", 1), ("test", 0)])
def test_a_stop_works_while_one_rank_waits_for_its_samples(
    split: str, workers: int, tmp_path: Path, undisturbed: Path
) -> None:
    run, sign, arguments = tmp_path / "run", tmp_path / "sign", on_disk(tmp_path, split, workers)
    if split == "test":
        sign.write_text("1")  # the evaluation after the first epoch
    ranks = start(run, 2, 2, *arguments)
    until(lambda: step_of(run) >= (12 if split == "train" else EPOCH), ranks)
    sign.write_text("1")
    last = -1

    def stands_still() -> bool:
        nonlocal last
        before, last = last, step_of(run)
        signal.sigtimedwait([], 1.0)
        return before == last

    until(stands_still, ranks)
    ranks.signal(signal.SIGTERM, [0])  # which waits for the other one
    assert ranks.results() == [("value", 75)] * 2, ranks.output(0)
    assert (run / "CONTINUE").read_text() == "SIGTERM\n"
    assert sets(run)[-1] == last + (split == "train")  # the update whose samples were there is made
    sign.unlink()
    finish(run, 2, 2, *arguments)
    assert_same_run(run, undisturbed)


def test_the_deadline_names_the_rank_whose_samples_do_not_come(tmp_path: Path) -> None:
    run, sign = tmp_path / "run", tmp_path / "sign"
    ranks = start(run, 2, 2, *on_disk(tmp_path, "train", 1), "--checks.deadline=5")
    until(lambda: step_of(run) >= 5, ranks)
    sign.write_text("1")
    assert ranks.results() == [("value", 1)] * 2
    who = r"loader\.workers: worker 0 \(process \d+\) has delivered nothing for 5 s \(checks\.deadline\)"
    assert [len(complaints(ranks, rank)) for rank in (0, 1)] == [1, 1]
    assert re.fullmatch(rf"dist-dash: {who} \(rank 1, member 1\)", complaints(ranks, 0)[0])
    assert re.fullmatch(rf"dist-dash: rank 1: {who}", complaints(ranks, 1)[0])


@pytest.mark.parametrize("stopped", [True, False])
def test_data_that_cannot_be_loaded_in_time(stopped: bool, tmp_path: Path) -> None:
    run, sign, arguments = tmp_path / "run", tmp_path / "sign", [*on_disk(tmp_path, "before", 0), "--max_steps=2"]
    sign.write_text("1")
    ranks = start(run, 2, 2, *arguments, f"--checks.deadline={300 if stopped else 5}")
    if stopped:
        until(lambda: OwnedFolder(run).owner(), ranks)
        ranks.signal(signal.SIGTERM, [0])
        assert ranks.results() == [("value", 75)] * 2, ranks.output(0)
        assert (run / "CONTINUE").read_text() == "SIGTERM\n"
        sign.unlink()
        finish(run, 2, 2, *arguments)
    else:
        assert ranks.results() == [("value", 1)] * 2
        late = r"data: their source has given nothing for 5 s \(checks\.deadline\)"
        assert re.fullmatch(rf"dist-dash: ({late} \(rank 1, member 1\)|.*missing: member 1 .*)", *complaints(ranks, 0))
        assert re.fullmatch(rf"dist-dash: rank 1: ({late}|.*missing: member 1 .*)", *complaints(ranks, 1))


@pytest.mark.parametrize("stopped", [True, False])
def test_a_checkpoint_that_cannot_be_read_in_time(stopped: bool, tmp_path: Path, undisturbed: Path) -> None:
    run, arguments = tmp_path / "run", on_disk(undisturbed.parent, "train", 0)
    shutil.copytree(undisturbed, run)
    (run / "DONE").unlink()
    part = run / f"checkpoints/step_{sets(run)[-1]:08d}/member_01/replica_00.pt"
    kept = part.rename(tmp_path / "kept")
    os.mkfifo(part)
    ranks = start(run, 2, 2, *arguments, "--checks.deadline=300" if stopped else "--checks.deadline=3")
    if stopped:
        until(lambda: OwnedFolder(run).owner()["pid"] == ranks.processes[0].pid, ranks)  # both ranks listen
        ranks.signal(signal.SIGTERM)
    assert ranks.results() == [("value", 75 if stopped else 1)] * 2, ranks.output(0)
    if stopped:
        assert (run / "CONTINUE").read_text() == "SIGTERM\n"
    else:
        assert re.search(rf"the file system of {part.parents[1]} has not answered for 3 s", complaints(ranks, 0)[0])
    part.unlink()
    kept.rename(part)
    finish(run, 2, 2, *arguments)
    assert_same_run(run, undisturbed)
