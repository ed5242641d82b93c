"""Who may take a run folder over from whom, and what a stale owner that was overtaken can still do."""

import json
from pathlib import Path

import pytest

from dist_dash.errors import BadInput, RunFailed
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.record import Recorder
from dist_dash.runs.states import states


def owned(path: Path, job: str = "") -> OwnedFolder:
    folder = OwnedFolder(path)
    folder.acquire(job)
    return folder


@pytest.mark.parametrize(
    ("theirs", "ours", "over", "taken"),
    [
        ("42.0", "42.1", [], True),  # requeued: the lock is an earlier life's
        ("42.9", "42.10", [], True),
        ("42.1", "42.0", [], False),  # a stale owner does not take it back
        ("42.1", "42.1", [], False),  # two steps of one job
        ("42.0", "43.0", ["42"], True),  # submitted again, by hand
        ("42.0", "43.0", [], False),
        ("", "43.0", ["42"], False),  # somebody's laptop
        ("42.0", "", [], False),
        ("42.0", "", ["42"], True),
        ("42.x", "42.1", ["42"], False),
        ("4.0", "42.1", [], False),
    ],
)
def test_a_folder_whose_lock_is_held(tmp_path, theirs, ours, over, taken):
    stale, successor = owned(tmp_path / "run", theirs), OwnedFolder(tmp_path / "run")
    if not taken:
        with pytest.raises(BadInput, match="in use"):
            successor.acquire(ours, lambda job: job in over)
        stale.check_owner()
        return
    successor.acquire(ours, lambda job: job in over)
    successor.check_owner()
    with pytest.raises(RunFailed, match="was taken over by"):
        stale.check_owner()
    third = OwnedFolder(tmp_path / "run")
    with pytest.raises(BadInput, match="in use"):  # the successor's lock holds, although the stale owner keeps its own
        third.acquire()
    stale.release()
    with pytest.raises(BadInput, match="in use"):
        third.acquire()
    successor.release()


def test_a_stale_owner_leaves_no_failure_marker(tmp_path):
    stale = owned(tmp_path / "run", "42.0")
    owned(tmp_path / "run", "42.1")
    with pytest.raises(RunFailed), stale.noting_failure():
        raise RunFailed("a peer is gone")
    assert not stale.failed.exists()


def test_a_failure_is_noted_in_one_line_and_bad_input_is_not(tmp_path):
    folder = owned(tmp_path / "run")
    with pytest.raises(BadInput), folder.noting_failure():
        raise BadInput("data.path: gone")
    assert not folder.failed.exists()
    with pytest.raises(RuntimeError), folder.noting_failure():
        raise RuntimeError("out of memory\n  at layer 3")
    assert folder.failed.read_text() == "RuntimeError: out of memory at layer 3\n"
    folder.mark(None)
    assert not folder.failed.exists()


def test_how_often_a_run_was_continued_outlives_its_owners(tmp_path):
    first = owned(tmp_path / "run", "42.0")
    first.note_continued()
    first.recipe.touch()  # else nothing was written, and the folder goes again
    first.release()
    second = owned(tmp_path / "run", "42.1")
    second.note_continued()
    assert (second.owner()["continued"], second.owner()["job"]) == (2, "42.1")
    second.clear()
    assert second.owner()["continued"] == 0
    second.check_owner()


def test_a_folder_that_is_not_shared(tmp_path):
    owner, elsewhere = owned(tmp_path / "run"), OwnedFolder(tmp_path / "other/run")
    elsewhere.token = owner.token
    with pytest.raises(BadInput, match="it must be on a file system that all nodes share"):
        elsewhere.check_shared(patience=0.1)
    same = OwnedFolder(tmp_path / "run")
    same.token = owner.token
    same.check_shared(patience=0)


def test_a_stale_owners_record_is_not_its_successors(tmp_path):
    """The line that a stale owner writes after its successor has begun goes to a file that nobody reads."""
    file = tmp_path / "metrics.jsonl"
    stale, successor = (Recorder(True, file, 10, False, None) for _ in range(2))
    for step in (1, 2, 3):
        stale.write("train", step, 0.0)
    position = len(file.read_text().splitlines(True)[0]) * 2
    successor.rewind(position)
    stale.write("train", 4, 0.0)
    assert stale.position()["metrics_bytes"] != successor.position()["metrics_bytes"] == position
    successor.write("train", 3, 0.0)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]
    stale.close()
    successor.close()


def test_a_full_disk_is_named_and_the_torn_line_dropped_by_the_next(tmp_path, monkeypatch):
    recorder = Recorder(True, tmp_path / "metrics.jsonl", 10, False, None)
    recorder.write("train", 1, 0.0)
    kept = recorder.position()
    real = recorder._file
    assert real is not None

    class Full:
        def write(self, text: bytes) -> int:
            return real.write(text[:5])

    monkeypatch.setattr(recorder, "_file", Full())
    with pytest.raises(RunFailed, match=r"metrics\.jsonl cannot be written at step 2: No space left on device"):
        recorder.write("train", 2, 0.0)
    later = Recorder(True, tmp_path / "metrics.jsonl", 10, False, None)
    assert later.rewind(**kept) == ""
    later.write("train", 2, 0.0)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize(
    ("damaged", "left"),
    [
        (lambda text: text, [1, 2]),
        (lambda text: text + b"more", [1, 2]),
        (lambda text: text[:-3], [1]),
        (lambda text: text.replace(b"1", b"7", 1), [7, 2]),
        (lambda text: b"\xff garbage\n[]\n" + text[text.index(b"\n") + 1 :], [2]),
        (lambda text: b"", []),
    ],
)
def test_a_damaged_record_is_cut_to_whole_lines_and_named(damaged, left, tmp_path):
    file = tmp_path / "metrics.jsonl"
    recorder = Recorder(True, file, 10, False, None)
    for step in (1, 2):
        recorder.write("train", step, 0.0)
    kept = recorder.position()
    recorder.close()
    intact = damaged(file.read_bytes()).startswith(file.read_bytes())
    file.write_bytes(damaged(file.read_bytes()))
    later = Recorder(True, file, 10, False, None)
    assert bool(later.rewind(**kept)) != intact
    later.write("train", 3, 0.0)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [*left, 3]
    again = Recorder(True, file, 10, False, None)
    assert again.rewind(**later.position()) == ""
    later.close()


@pytest.mark.parametrize("odd", [None, 7, -1.5, "x", [1], {"a": 1}, True, 10**30])
@pytest.mark.parametrize("field", ["token", "host", "pid", "job", "continued"])
def test_an_owner_of_odd_types_does_no_harm(tmp_path, field, odd):
    run = tmp_path / "run"
    first = owned(run)
    first.recipe.write_text("a: 1\n")
    first.release()
    (run / "owner.json").write_text(json.dumps({**json.loads((run / "owner.json").read_text()), field: odd}))
    assert states([run])[0].state in ("failed", "running")
    second = owned(run, "42.0")
    second.note_continued()
    second.clear()
    second.release()
