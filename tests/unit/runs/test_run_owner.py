"""Who may take a run folder over from whom, and what a ghost that was overtaken can still do."""

import json
from pathlib import Path

import pytest

from dist_dash.errors import BadInput, RunFailed
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.record import Recorder


def owned(path: Path, job: str = "") -> RunFolder:
    folder = RunFolder(path)
    folder.acquire(job)
    return folder


@pytest.mark.parametrize(
    ("theirs", "ours", "over", "taken"),
    [
        ("42.0", "42.1", [], True),  # requeued: the lock is an earlier life's
        ("42.9", "42.10", [], True),
        ("42.1", "42.0", [], False),  # a ghost does not take it back
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
    ghost, successor = owned(tmp_path / "run", theirs), RunFolder(tmp_path / "run")
    if not taken:
        with pytest.raises(BadInput, match="in use"):
            successor.acquire(ours, lambda job: job in over)
        ghost.check_owner()
        return
    successor.acquire(ours, lambda job: job in over)
    successor.check_owner()
    with pytest.raises(RunFailed, match="was taken over by"):
        ghost.check_owner()
    third = RunFolder(tmp_path / "run")
    with pytest.raises(BadInput, match="in use"):  # the successor's lock holds, although the ghost keeps its own
        third.acquire()
    ghost.release()
    with pytest.raises(BadInput, match="in use"):
        third.acquire()
    successor.release()


def test_a_ghost_leaves_no_word_of_its_failure(tmp_path):
    ghost = owned(tmp_path / "run", "42.0")
    owned(tmp_path / "run", "42.1")
    with pytest.raises(RunFailed), ghost.noting_failure():
        raise RunFailed("a peer is gone")
    assert not ghost.failed.exists()


def test_a_failure_is_noted_in_one_line_and_bad_input_is_not(tmp_path):
    folder = owned(tmp_path / "run")
    with pytest.raises(BadInput), folder.noting_failure():
        raise BadInput("data.path: gone")
    assert not folder.failed.exists()
    with pytest.raises(RuntimeError), folder.noting_failure():
        raise RuntimeError("out of memory\n  at layer 3")
    assert folder.failed.read_text() == "out of memory at layer 3\n"
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
    owner, elsewhere = owned(tmp_path / "run"), RunFolder(tmp_path / "other/run")
    elsewhere.token = owner.token
    with pytest.raises(BadInput, match="it must be on a file system that all nodes share"):
        elsewhere.check_shared(patience=0.1)
    same = RunFolder(tmp_path / "run")
    same.token = owner.token
    same.check_shared(patience=0)


def test_a_ghosts_record_is_not_its_successors(tmp_path):
    """The line that a ghost writes after its successor has begun lands in a file that is nobody's."""
    file = tmp_path / "metrics.jsonl"
    ghost, successor = (Recorder(True, file, 10, False, None) for _ in range(2))
    for step in (1, 2, 3):
        ghost.write("train", step, 0.0)
    position = len(file.read_text().splitlines(True)[0]) * 2
    successor.rewind(position)
    ghost.write("train", 4, 0.0)
    assert ghost.position() != successor.position() == position
    successor.write("train", 3, 0.0)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]
    ghost.close()
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
    later.rewind(kept)
    later.write("train", 2, 0.0)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
