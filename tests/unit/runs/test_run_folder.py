import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_dash.errors import BadInput, RunFailed
from dist_dash.files import only_one, read_json, replacing, write_atomically
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.states import find_runs

NO_FLOCK = """
import errno, fcntl, os
def flock(*_):
    raise OSError(getattr(errno, os.environ["FLOCK"]), "flock")
fcntl.flock = flock
"""
HOLD = """
import sys
from dist_dash.runs.owner import OwnedFolder
folder = OwnedFolder(sys.argv[1])
folder.acquire("42.0")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_run(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that owns `tmp_path/run` until its input is closed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def without_flock(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock, for this process and those that it starts."""

    def flock(*_: object) -> None:
        raise OSError(getattr(errno, request.param), "flock")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch/sitecustomize.py").write_text(NO_FLOCK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "patch"), prepend=os.pathsep)
    monkeypatch.setenv("FLOCK", request.param)


@pytest.mark.usefixtures("without_flock")
def test_a_run_without_flock_is_owned_by_one_and_continued(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    process: subprocess.Popen = request.getfixturevalue("other_run")
    folder = OwnedFolder(tmp_path / "run")
    with pytest.raises(BadInput, match=f"is in use by process {process.pid} on "):
        folder.acquire()
    folder.recipe.touch()
    assert find_runs(tmp_path) == [folder.path]
    process.stdin.close()
    process.wait()
    assert find_runs(tmp_path) == [folder.path]
    folder.acquire()
    folder.mark(folder.to_continue)
    folder.release()
    folder.owner_file.unlink()
    folder.checkpoints.mkdir()  # a run without its owner's file is still one
    assert find_runs(tmp_path) == [folder.path]
    with folder.held():
        folder.check_owner()


@pytest.mark.usefixtures("without_flock")
def test_the_lock_of_a_killed_run_is_free_without_flock(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    process: subprocess.Popen = request.getfixturevalue("other_run")
    process.kill()
    process.wait()
    assert (tmp_path / "run/owner.lock").exists()
    with OwnedFolder(tmp_path / "run").held() as folder:
        folder.check_owner()


@pytest.mark.usefixtures("without_flock")
def test_one_command_at_a_time_without_flock(tmp_path: Path) -> None:
    for _ in range(2):
        command = tmp_path, "study.lock", "study"
        with only_one(*command), pytest.raises(BadInput, match="in use by another"), only_one(*command):
            pass
    assert not (tmp_path / "study.lock").exists()


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_a_folder_in_use_is_refused_and_its_owner_named(tmp_path, other_run):
    folder = OwnedFolder(tmp_path / "run")
    before = names(tmp_path)
    with pytest.raises(BadInput) as caught:
        folder.acquire()
    text = str(caught.value)
    assert "\n" not in text
    assert str(tmp_path / "run") in text
    assert f"process {other_run.pid} on " in text
    assert "job 42.0" in text
    assert names(tmp_path) == before


def test_the_lock_of_a_killed_run_is_free(tmp_path, other_run):
    other_run.kill()
    other_run.wait()
    folder = OwnedFolder(tmp_path / "run")
    folder.acquire()
    folder.check_owner()
    assert folder.owner()["pid"] == os.getpid() != other_run.pid
    folder.release()


def test_a_folder_given_up_can_be_owned_again(tmp_path):
    first, second = OwnedFolder(tmp_path / "run"), OwnedFolder(tmp_path / "run")
    first.acquire()
    with pytest.raises(BadInput, match="in use"):
        second.acquire()
    write_atomically(first.recipe, "epochs: 1\n")
    first.release()
    second.acquire()  # holds a run's files, and is known as a run's
    second.check_owner()
    second.release()


def test_a_takeover_is_noticed(tmp_path):
    folder = OwnedFolder(tmp_path / "run")
    folder.acquire()
    folder.check_owner()
    owner = {"token": "another", "host": "node7", "pid": 12, "job": "9.1"}
    (tmp_path / "run/owner.json").write_text(json.dumps(owner))
    with pytest.raises(RunFailed, match=r"taken over by process 12 on node7, job 9\.1") as caught:
        folder.check_owner()
    assert "\n" not in str(caught.value)
    folder.release()


@pytest.mark.parametrize("content", [None, "", "{}", "{"])
def test_an_owner_file_that_is_gone_or_torn_counts_as_a_takeover(tmp_path, content):
    folder = OwnedFolder(tmp_path / "run")
    folder.acquire()
    file = tmp_path / "run/owner.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(RunFailed, match="no longer owns"):
        folder.check_owner()
    folder.release()


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match=f"{tmp_path} holds files that are not a run's"):
        OwnedFolder(tmp_path).acquire()
    assert names(tmp_path) == {"thesis.tex"}


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        OwnedFolder(tmp_path / "run").acquire()


def test_an_empty_or_new_folder_is_usable(tmp_path):
    for path in (tmp_path, tmp_path / "deep/new"):
        OwnedFolder(path).check_usable()
    assert names(tmp_path) == set()


class Broken(Exception):
    pass


@pytest.mark.parametrize("existing", [None, "old"])
def test_a_write_that_breaks_leaves_nothing_half_written(tmp_path, existing):
    target = tmp_path / "result.json"
    if existing is not None:
        target.write_text(existing)
    before = names(tmp_path)

    def write() -> None:
        with replacing(target) as temporary:
            assert temporary.parent == tmp_path  # a rename across file systems is no rename
            temporary.write_text("half")
            assert not target.exists() or target.read_text() == existing
            raise Broken

    with pytest.raises(Broken):
        write()
    assert names(tmp_path) == before
    assert existing is None or target.read_text() == existing


def test_a_write_replaces_the_old_content(tmp_path):
    target = tmp_path / "result.json"
    for text in ("a longer first text", "short", ""):
        write_atomically(target, text)
        assert target.read_text() == text
        assert names(tmp_path) == {"result.json"}


def test_a_write_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append("fsync"))
    monkeypatch.setattr(Path, "replace", lambda self, target: order.append("rename"))
    write_atomically(tmp_path / "x", "text")
    assert order == ["fsync", "rename", "fsync"]


def test_markers_exclude_each_other(tmp_path):
    folder = OwnedFolder(tmp_path)
    for marker in (folder.done, folder.to_continue, None, folder.to_continue, folder.done):
        folder.mark(marker)
        assert [m for m in (folder.done, folder.to_continue) if m.exists()] == ([marker] if marker else [])
    assert folder.done.name == "DONE"
    assert folder.to_continue.name == "CONTINUE"


def test_clearing_removes_a_runs_files_and_nothing_else(tmp_path):
    folder = OwnedFolder(tmp_path / "run")
    folder.acquire()
    for directory in (folder.checkpoints / "step_00000010", folder.ensemble, folder.tensorboard):
        directory.mkdir(parents=True)
        (directory / "file").write_text("x")
    for file in (folder.recipe, folder.environment, folder.metrics, folder.predictions, folder.evaluation, folder.done):
        file.write_text("x")
    (tmp_path / "run/notes.txt").write_text("mine")
    folder.clear()
    assert names(tmp_path / "run") == {"notes.txt", "owner.lock", "owner.json"}
    folder.check_owner()
    folder.release()


@pytest.mark.parametrize("content", [None, "{", "\xff"])
def test_unreadable_json_is_named(tmp_path, content):
    file = tmp_path / "evaluation.json"
    if content is not None:
        file.write_bytes(content.encode("latin1"))
    with pytest.raises(BadInput, match=f"^run: {file} is missing or unreadable") as caught:
        read_json(file, "run")
    assert "\n" not in str(caught.value)
