"""What each run is doing: by its folder, by this host, by Slurm."""

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs_by_hand import HOLD, TRAIN, dead, lines, made, quiet, said, state_of, submitted

from dist_dash.errors import BadInput
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.states import states

pytestmark = pytest.mark.usefixtures("no_slurm")


# -- states by the folder and this host --------------------------------------------------------------------------------


def test_markers_tell_how_a_run_ended(tmp_path):
    folder = made(tmp_path / "run", pid=dead())
    folder.mark(folder.to_continue, "SIGUSR2")
    assert said(folder) == ("stopped", "SIGUSR2")
    folder.mark(folder.failed, "member 1: 20 updates skipped")
    assert said(folder) == ("failed", "member 1: 20 updates skipped")
    folder.mark(folder.done)
    assert said(folder) == ("done", "")


def test_a_run_that_is_killed_ended_without_a_word(tmp_path):
    folder = made(tmp_path / "run", pid=dead())
    folder.metrics.write_text(lines(TRAIN))
    quiet(folder)
    sign = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.metrics.stat().st_mtime))
    assert said(folder) == ("failed", f"ended without a message (last sign of life {sign})")


def test_a_folder_that_nobody_ever_owned_is_new(tmp_path):
    folder = OwnedFolder(tmp_path / "copied")
    folder.checkpoints.mkdir(parents=True)
    folder.recipe.touch()
    assert said(folder) == ("new", "")
    folder.note_job("12", tmp_path)
    assert said(folder) == ("new", "submitted as job 12, which no Slurm here knows")


@pytest.mark.parametrize("job", ["", "77.0"])
def test_a_run_on_another_host_lives_as_long_as_it_gives_signs(tmp_path, job):
    folder = made(tmp_path / "run", host="another", job=job)
    quiet(folder)
    assert said(folder)[0] == "failed"
    folder.metrics.write_text(lines(TRAIN))
    assert said(folder) == ("running", "")
    quiet(folder)
    assert said(folder)[0] == "failed"
    os.utime(folder.checkpoints)  # steps may be slow, and lines rare
    assert said(folder) == ("running", "")
    folder.mark(folder.to_continue, "SIGTERM")
    assert said(folder) == ("stopped", "SIGTERM")


@pytest.mark.parametrize(
    "owner", ["", "{", "[]", '{"host": 1, "pid": "x", "job": []}', '{"pid": 0, "continued": "two"}']
)
def test_a_torn_owner_file_does_no_harm(tmp_path, owner):
    folder = made(tmp_path / "run")
    (folder.path / "owner.json").write_text(owner)
    quiet(folder)
    found = state_of(folder.path)
    assert found.state in ("new", "failed")
    assert (found.job, found.continued) == ("", 0)


@pytest.mark.parametrize("pid", [-1, 0, 10**30, True, None])
def test_a_number_that_no_process_can_have(tmp_path, pid):
    assert said(made(tmp_path / "run", pid=pid))[0] == "failed"


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_a_held_lock_reads_as_running_and_stays_held(tmp_path):
    path = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        folder = OwnedFolder(path)
        folder.mark(folder.failed, "an earlier life's")
        assert said(folder) == ("running", "")
        with pytest.raises(BadInput, match="in use"):
            folder.acquire()
        process.kill()
    assert said(folder)[0] == "failed"


def facts(file: Path) -> tuple:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode


def test_the_look_at_the_lock_disturbs_nobody(tmp_path):
    folder = made(tmp_path / "run")
    lock = folder.path / "owner.lock"
    before = facts(lock)
    assert said(folder)[0] == "failed"  # the process lives and has let go of the lock
    assert facts(lock) == before
    other = OwnedFolder(folder.path)
    other.acquire()
    other.release()
    lock.unlink()
    assert said(folder)[0] == "failed"
    assert not lock.exists()


def test_who_looks_as_well_is_not_taken_for_an_owner(tmp_path):
    folder = made(tmp_path / "run")
    with (folder.path / "owner.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert said(folder)[0] == "failed"
        fcntl.flock(file, fcntl.LOCK_EX)
        assert said(folder) == ("running", "")


def test_the_lock_is_left_alone_where_the_owner_cannot_live(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("touched the lock"))
    owners = {"dead": ({"pid": dead()}, "failed"), "elsewhere": ({"host": "another"}, "running")}
    for name, (owner, state) in owners.items():
        assert [found.state for found in states([made(tmp_path / name, **owner).path])] == [state]
    done = made(tmp_path / "done")
    done.mark(done.done)
    assert [found.state for found in states([done.path])] == ["done"]


def test_a_run_that_ends_during_the_look_has_not_failed(tmp_path, monkeypatch):
    folder = made(tmp_path / "run")

    def ends(*_):
        folder.mark(folder.done)

    monkeypatch.setattr(fcntl, "flock", ends)
    assert said(folder) == ("done", "")


# -- states by Slurm ---------------------------------------------------------------------------------------------------


def test_the_queue_is_asked_once_for_all_runs(tmp_path, fake):
    fake.say(
        "squeue",
        "123|123_4|PENDING|JobArrayTaskLimit",
        "130|123_3|RUNNING|None",
        "131|123_2|COMPLETING|None",
        "140|140|SUSPENDED|None",
        "141|141|CONFIGURING|None",
    )
    jobs = {"a": "123_4", "b": "123_3", "c": "123_2", "d": "140", "e": "141"}
    for name, job in jobs.items():
        submitted(tmp_path / name, job)
    found = states([tmp_path / name for name in jobs])
    assert [(run.state, run.job) for run in found] == [
        ("queued", "123_4"),
        ("running", "123_3"),
        ("running", "123_2"),
        ("running", "140"),
        ("queued", "141"),
    ]
    assert [run.why for run in found] == ["JobArrayTaskLimit", "", "", "", ""]
    assert len(fake.asked("squeue")) == 1
    assert fake.asked("sacct") == []


def test_slurm_is_not_asked_where_no_run_has_a_job(tmp_path, fake):
    finished = submitted(tmp_path / "done", "9", pid=dead())
    finished.mark(finished.done)
    states([finished.path, made(tmp_path / "local", pid=dead()).path])
    assert fake.asked("squeue") == []


def test_a_requeued_run_waits_with_its_step_and_count(tmp_path, fake):
    fake.say("squeue", "130|123_3|PENDING|BeginTime")
    folder = submitted(tmp_path / "run", "123_3", host="n1", job="130.0", continued=1)
    folder.metrics.write_text(lines(TRAIN))
    folder.environment.write_text('{"total_steps": 600}')
    folder.mark(folder.to_continue, "SIGUSR2")
    found = state_of(folder.path)
    assert (found.state, found.why, found.step, found.total_steps, found.continued) == (
        "queued",
        "BeginTime",
        20,
        600,
        1,
    )
    fake.say("squeue", "130|123_3|RUNNING|None")  # the marker is the last life's until this one has begun
    assert said(folder) == ("running", "")


def test_done_is_done_whatever_the_queue_says(tmp_path, fake):
    fake.say("squeue", "9|9|COMPLETING|None")
    folder = submitted(tmp_path / "run", "9", host="n1", job="9.0")
    folder.mark(folder.done)
    assert said(folder) == ("done", "")


def test_a_run_that_was_not_submitted_is_known_by_its_owners_job(tmp_path, fake):
    folder = made(tmp_path / "run", host="n1", job="130.2")
    fake.say("squeue", "130|123_3|RUNNING|None")
    found = state_of(folder.path)
    assert (found.state, found.job) == ("running", "130")
    folder.mark(folder.failed, "a rank was lost")  # and the job, somebody's shell, goes on
    assert said(folder) == ("failed", "a rank was lost")
    fake.say("squeue", "130|123_3|PENDING|BeginTime")
    assert said(folder) == ("queued", "BeginTime")


def test_the_job_that_is_in_the_queue_is_the_one_that_is_named(tmp_path, fake):
    folder = submitted(tmp_path / "run", "100", host="n1", job="200.0")
    fake.say("squeue", "200|200|RUNNING|None")
    assert state_of(folder.path).job == "200"
    folder.mark(folder.done)
    assert state_of(folder.path).job == "100"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("50|50|TIMEOUT|0:0", "TIMEOUT"),
        ("50|50|OUT_OF_MEMORY|0:125", "OUT_OF_MEMORY"),
        ("50|50|CANCELLED by 0|0:0", "CANCELLED"),
        ("50|50|NODE_FAIL|1:0", "NODE_FAIL"),
        ("50|50|FAILED|2:0", "FAILED, exit status 2"),
        ("50|50|FAILED|0:9", "FAILED, signal 9"),
    ],
)
def test_the_accounting_explains_what_the_folder_does_not(tmp_path, fake, monkeypatch, row, why):
    monkeypatch.chdir(tmp_path)
    fake.say("sacct", row)
    folder = submitted(tmp_path / "run", "50", host="n1", job="50.0")
    folder.metrics.write_text(lines(TRAIN))  # fresh, but Slurm knows better
    assert said(folder) == ("failed", f"{why}; see run/slurm")
    (folder.jobs / "50_0_log.out").touch()
    assert said(folder) == ("failed", f"{why}; see run/slurm/50_0_log.out")
    monkeypatch.chdir(tmp_path / "empty")
    assert said(folder)[1].endswith(f"; see {tmp_path}/run/slurm/50_0_log.out")


def test_the_accounting_is_asked_for_the_unexplained_alone(tmp_path, fake):
    fake.say("sacct", "100_[0-3%1]|100|CANCELLED by 0|0:0")
    fake.say("squeue", "100|100_3|PENDING|Priority")
    stopped = submitted(tmp_path / "stopped", "100_1", host="n1", job="101.0")
    stopped.mark(stopped.to_continue, "SIGTERM")
    lost, waits = submitted(tmp_path / "lost", "100_2"), submitted(tmp_path / "waits", "100_3")
    found = states([stopped.path, waits.path])
    assert [run.state for run in found] == ["stopped", "queued"]
    assert fake.asked("sacct") == []
    assert [run.state for run in states([stopped.path, waits.path, lost.path])] == ["stopped", "queued", "failed"]
    assert len(fake.asked("sacct")) == 1


def test_the_newest_job_explains(tmp_path, fake):
    fake.say("sacct", "100|100|TIMEOUT|0:0", "99|99|OUT_OF_MEMORY|0:0")
    assert said(submitted(tmp_path / "a", "99", host="n1", job="100.0"))[1].startswith("TIMEOUT")
    assert said(submitted(tmp_path / "b", "100", host="n1", job="99.0"))[1].startswith("TIMEOUT")


@pytest.mark.parametrize("rows", [[], ["50|50|COMPLETED|0:0"]])
def test_a_job_that_is_gone_without_a_word(tmp_path, fake, rows):
    fake.say("sacct", *rows)
    never = submitted(tmp_path / "never", "50")
    assert said(never) == ("failed", f"job 50 ended before the run began; see {never.jobs}")
    begun = submitted(tmp_path / "begun", "50", host="n1", job="50.0")
    begun.metrics.write_text(lines(TRAIN))
    state, why = said(begun)
    assert state == "failed"
    assert re.fullmatch(
        rf"ended without a message \(last sign of life [-0-9]+ [0-9:]+\); see {re.escape(str(begun.jobs))}", why
    )


def test_a_run_goes_on_outside_of_the_job_that_it_was_submitted_to(tmp_path, fake):
    fake.say("sacct", "50|50|TIMEOUT|0:0")
    folder = submitted(tmp_path / "run", "50", host="n1", job="")
    assert said(folder) == ("running", "")
    quiet(folder)
    assert said(folder)[0] == "failed"


def test_other_users_jobs_are_not_missed_in_the_queue(tmp_path, fake, monkeypatch):
    folder = submitted(tmp_path / "run", "50", host="n1", job="50.0")
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert said(folder) == ("running", "")
    quiet(folder)
    assert said(folder)[0] == "failed"
    fake.say("sacct", "50|50|RUNNING|0:0")
    assert said(folder) == ("running", "")
    for word in ("PENDING", "REQUEUED", "CONFIGURING"):
        fake.say("sacct", f"50|50|{word}|0:0")
        assert said(folder) == ("queued", "")


def test_what_is_known_is_said_while_slurm_does_not_answer(tmp_path, fake):
    fake.say("squeue", error="slurm_load_jobs error: Unable to contact slurm controller\n", status=1)
    fake.say("sacct", "1|1|TIMEOUT|0:0")
    why = "Slurm: Unable to contact slurm controller"
    assert said(submitted(tmp_path / "waits", "1")) == ("queued", why)
    assert said(submitted(tmp_path / "runs", "1", host="n1", job="1.0")) == ("running", why)
    assert said(submitted(tmp_path / "local", "1", pid=dead()))[0] == "failed"
    stopped = submitted(tmp_path / "stopped", "1", host="n1", job="1.0")
    stopped.mark(stopped.to_continue, "SIGTERM")
    assert said(stopped) == ("stopped", "SIGTERM")
    assert fake.asked("sacct") == []


def test_job_files_that_hold_something_else_are_not_asked_about(tmp_path, fake):
    folder = made(tmp_path / "run", pid=dead())
    folder.jobs.mkdir()
    for noted in ('{"job": "1; rm -r /"}', '{"job": ["1"], "logs": 3}', '{"job": null}', "[1]", "{"):
        folder.job.write_text(noted)
        assert said(folder)[0] == "failed"
    assert fake.asked("squeue") == []


def test_a_job_that_ends_between_two_questions_has_not_failed(tmp_path, fake):
    folder = submitted(tmp_path / "run", "5", host="n1", job="5.0")
    script = tmp_path / "bin/squeue"  # gone from the queue, because it is done
    script.write_text(f"#!/bin/sh\n: > {folder.done}\n")
    assert said(folder) == ("done", "")
