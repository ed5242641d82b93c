"""What follows a job's step: the whole table of decisions, the count of attempts, the command that the script runs."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_fakes import shown
from submitit.core.utils import DelayedSubmission

from dist_dash.cluster import requeue
from dist_dash.cluster.job import TrainJob
from dist_dash.cluster.requeue import AGAIN, FRUITLESS, Verdict, clear_results, decide
from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.slurm import SlurmJob

ROOT = Path(__file__).parents[3]
SAMPLE = Path(__file__).parents[1] / "sample.yaml"
MINE = "5.1"
RUNNING = SlurmJob("RUNNING", 1)
MARKERS = ["", "DONE", "FAILED", "CONTINUE SIGUSR2", "CONTINUE SIGTERM", "CONTINUE SIGINT", "CONTINUE"]
STATES = ["RUNNING", "COMPLETING", "CANCELLED", "PENDING", "NODE_FAIL", "UNKNOWN"]
JOBS = [None, *(SlurmJob(*facts) for facts in itertools.product(STATES, (0, 1, 2), (False, True)))]
STOPPED = 128 + signal.SIGUSR2  # before it could listen
STATUSES = [0, 1, 2, 75, AGAIN, 137, STOPPED]
FULL = "CUDA out of memory on rank 3"


@pytest.fixture
def folder(tmp_path):
    return OwnedFolder(tmp_path / "run")


def own(folder: OwnedFolder, job: str) -> None:
    """A life of a job has begun to write here."""
    folder.acquire(job)
    folder.recipe.touch()  # or the folder would go again
    folder.release()


def leave(folder: OwnedFolder, marker: str) -> None:
    name, _, why = marker.partition(" ")
    folder.mark({"DONE": folder.done, "FAILED": folder.failed, "CONTINUE": folder.to_continue}.get(name), why)


def saved(folder: OwnedFolder, step: int) -> None:
    (folder.checkpoints / f"step_{step:08d}").mkdir(parents=True)


def judge(folder: OwnedFolder, status: int = 1, job: SlurmJob | None = RUNNING, attempts: int = 3) -> Verdict:
    return decide(folder, status, job, MINE, attempts)


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", MARKERS)
def test_the_whole_table(marker, folder):
    own(folder, MINE)
    leave(folder, marker)
    for status, job in itertools.product(STATUSES, JOBS):
        verdict, case = judge(folder, status, job), (marker, status, job)
        counted = (folder.jobs / "attempts.json").exists()
        (folder.jobs / "attempts.json").unlink(missing_ok=True)
        assert verdict.status in (0, 1, 2, 75, AGAIN), case
        assert verdict.why, case
        assert "\n" not in verdict.why, case
        preempted, expected = job is not None and job.preempted, False
        if marker == "DONE":
            assert verdict == Verdict(0, "finished"), case
        elif job is not None and (job.state != "RUNNING" or job.restarts != 1):
            assert verdict.status == (status if status in (2, 75) else 1), case
            assert f"the job is {job.state} (restarts: {job.restarts})" in verdict.why, case
        elif marker.startswith("CONTINUE"):
            again = "SIGUSR2" in marker or preempted
            expected = "SIGUSR2" in marker and not preempted
            assert verdict.status == (AGAIN if again else 75), case
            assert marker.partition(" ")[2] in verdict.why, case
        elif status == 2:
            assert verdict == Verdict(2, "bad input: see above"), case
        elif preempted:
            assert verdict == Verdict(AGAIN, "preempted while it was starting"), case
        elif status == STOPPED:
            expected = True
            assert verdict == Verdict(AGAIN, "asked to stop while it was starting"), case
        else:
            expected = True
            assert verdict.status == AGAIN, case
            assert verdict.why.startswith("attempt 1 of 3 since step 0 failed: "), case
        assert counted == expected, case
    assert [m for m in (folder.done, folder.failed, folder.to_continue) if m.exists()] == (
        [folder.path / marker.partition(" ")[0]] if marker else []
    )


@pytest.mark.parametrize(("variable", "again"), [("SIGUSR1,SIGTERM", {"SIGUSR1", "SIGTERM"}), ("", set())])
def test_which_signals_ask_for_the_requeue_is_the_site_s_choice(variable, again, folder, monkeypatch):
    monkeypatch.setenv("DIST_DASH_REQUEUE_SIGNALS", variable)
    own(folder, MINE)
    for name in ("SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        assert judge(folder, 128 + signal.Signals[name], attempts=99).why.startswith("asked to stop") == (name in again)
        leave(folder, f"CONTINUE {name}")
        assert judge(folder, 75).status == (AGAIN if name in again else 75)
        leave(folder, "")


def test_what_is_said_of_a_failure(folder):
    own(folder, MINE)
    assert judge(folder, 137).why.endswith(": the step ended with exit status 137 (killed)")
    assert judge(folder, 1).why.endswith(": the step ended with exit status 1")
    leave(folder, f"FAILED {FULL}")
    assert judge(folder, 1, attempts=9).why == f"attempt 3 of 9 since step 0 failed: {FULL}"


def test_only_the_one_verdict_asks_for_a_requeue(folder):
    """A step may end with the very status that asks the script to requeue."""
    assert judge(folder, AGAIN, SlurmJob("CANCELLED", 1)).status == 1
    assert judge(folder, AGAIN, attempts=1).status == 1
    assert judge(folder, 0, attempts=1).status == 1  # no DONE: it did not finish
    assert judge(folder, 137, attempts=1).status == 1


def test_a_stop_while_starting_is_no_failure(folder):
    own(folder, MINE)
    assert judge(folder, 1, attempts=2).status == AGAIN
    for status, job in [(STOPPED, RUNNING), (STOPPED, None), (137, SlurmJob("RUNNING", 1, True))] * 4:
        assert judge(folder, status, job, attempts=2).status == AGAIN
    assert "given up after 2 attempts" in judge(folder, 1, attempts=2).why


# -- what an earlier life has left -------------------------------------------------------------------------------------


def of_an_earlier_life(marker: Path) -> None:
    os.utime(marker, (1e9, 1e9))


@pytest.mark.parametrize("again", [True, False])
def test_an_end_of_an_earlier_life_is_this_one_s_if_the_step_went_well(again, folder):
    """A member that is joined again is finished; a run that was to start over, and died before, is not."""
    own(folder, "4.0")
    leave(folder, "DONE")
    of_an_earlier_life(folder.done)
    if again:
        own(folder, MINE)
    assert judge(folder, 0) == Verdict(0, "finished")
    assert judge(folder, 0, SlurmJob("COMPLETING", 1)) == Verdict(0, "finished")
    assert judge(folder, 2) == Verdict(2, "bad input: see above")
    assert judge(folder, 1, SlurmJob("CANCELLED", 1)).status == 1
    assert judge(folder, STOPPED).status == AGAIN
    assert [judge(folder, 1, attempts=2).status for _ in range(2)] == [AGAIN, 1]
    assert (folder.done.exists(), folder.failed.exists()) == (not again, again)  # another job's run is its own affair


@pytest.mark.parametrize("status", STATUSES)
def test_an_end_of_this_life_is_one_whatever_came_after_it(status, folder):
    own(folder, MINE)
    leave(folder, "DONE")
    assert judge(folder, status) == Verdict(0, "finished")


@pytest.mark.parametrize("marker", ["CONTINUE SIGUSR2", "CONTINUE SIGTERM"])
@pytest.mark.parametrize("owner", ["5.0", MINE, "4.0", ""])
def test_a_stop_of_an_earlier_life_is_not_taken_for_one_of_this(marker, owner, folder):
    """Or a job whose ranks cannot even start would be requeued for ever."""
    own(folder, "5.0")
    leave(folder, marker)
    of_an_earlier_life(folder.to_continue)
    own(folder, owner)
    assert judge(folder, 2) == Verdict(2, "bad input: see above")
    whys = [judge(folder, 1, attempts=2) for _ in range(2)]
    assert [v.status for v in whys] == [AGAIN, 1]
    assert "attempt 1 of 2" in whys[0].why
    assert "given up after 2 attempts" in whys[1].why


def test_a_failure_of_an_earlier_life_is_not_repeated(folder):
    own(folder, "5.0")
    leave(folder, f"FAILED {FULL}")
    of_an_earlier_life(folder.failed)
    for owner in ("5.0", MINE):
        own(folder, owner)
        assert judge(folder, 1, attempts=9).why.endswith("the step ended with exit status 1")


def test_without_an_owner_a_marker_is_taken_at_its_word(folder):
    folder.path.mkdir()
    leave(folder, "CONTINUE SIGUSR2")
    assert judge(folder, 75).status == AGAIN
    (folder.path / "owner.json").write_text("{")
    assert judge(folder, 75).status == AGAIN


@pytest.mark.parametrize(("owner", "ours"), [(MINE, True), ("5.0", True), ("5.2", False), ("6.0", False), ("", False)])
def test_who_may_say_that_a_run_has_failed(owner, ours, folder):
    """The run may be another job's by now; its markers are its own affair."""
    own(folder, owner)
    leave(folder, f"FAILED {FULL}")
    assert judge(folder, 1, attempts=1).status == 1
    said = folder.failed.read_text()
    assert said.count("\n") == 1
    assert ("given up after 1 attempts" in said) is ours
    leave(folder, "CONTINUE SIGTERM")
    of_an_earlier_life(folder.to_continue)
    judge(folder, 1, attempts=1)
    assert folder.to_continue.exists() is not ours


# -- attempts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_attempts_without_progress_are_counted(attempts, folder):
    own(folder, MINE)
    saved(folder, 20)
    verdicts = [judge(folder, 1, attempts=attempts) for _ in range(attempts)]
    assert [v.status for v in verdicts] == [AGAIN] * (attempts - 1) + [1]
    for number, verdict in enumerate(verdicts[:-1], 1):
        assert f"attempt {number} of {attempts} since step 20 failed" in verdict.why
    words = f"given up after {attempts} attempts in a row that got no further than step 20"
    assert verdicts[-1].why.endswith(words)
    assert folder.failed.read_text() == f"{verdicts[-1].why}\n"
    # Submitted again by hand, it has as many attempts again.
    assert judge(folder, 1, attempts=attempts).status == (AGAIN if attempts > 1 else 1)


def test_progress_starts_the_count_anew(folder):
    own(folder, MINE)
    for step in range(5, 50, 5):
        saved(folder, step)
        assert judge(folder, 1, attempts=2).status == AGAIN
    assert judge(folder, 1, attempts=2).status == 1


def counts(folder: OwnedFolder) -> dict[str, int] | None:
    file = folder.jobs / "attempts.json"
    return json.loads(file.read_text()) if file.exists() else None


def test_failures_and_stops_are_counted_apart(folder):
    own(folder, MINE)
    saved(folder, 7)
    assert judge(folder, 1, attempts=2).status == AGAIN
    assert counts(folder) == {"step": 7, "failures": 1, "stops": 0}
    leave(folder, "CONTINUE SIGUSR2")
    for stops in range(1, 6):
        assert judge(folder, 75, attempts=2) == Verdict(AGAIN, "stopped by SIGUSR2, saved")
        assert counts(folder) == {"step": 7, "failures": 1, "stops": stops}
    leave(folder, "")
    assert "given up after 2 attempts" in judge(folder, 1, attempts=2).why


def test_a_time_limit_that_is_too_short(folder):
    """Or the job would be requeued for ever, and never get anywhere."""
    own(folder, MINE)
    saved(folder, 20)
    for _ in range(2):  # submitted again by hand, it has as many stops again
        leave(folder, "CONTINUE SIGUSR2")
        verdicts = [judge(folder, 75, attempts=1) for _ in range(FRUITLESS)]
        assert verdicts[:-1] == [Verdict(AGAIN, "stopped by SIGUSR2, saved")] * 9
        why = "stopped 10 times in a row at step 20: the time limit is too short"
        assert verdicts[-1] == Verdict(1, why)
        assert folder.failed.read_text() == f"{why}\n"
        assert not folder.to_continue.exists()
        assert counts(folder) is None


def test_stops_with_progress_between_them_are_not_counted(folder):
    own(folder, MINE)
    leave(folder, "CONTINUE SIGUSR2")
    for step in range(1, 4):
        saved(folder, step)
        assert [judge(folder, 75).status for _ in range(FRUITLESS - 1)] == [AGAIN] * (FRUITLESS - 1)
    assert judge(folder, 75).status == 1


@pytest.mark.parametrize("why", ["SIGUSR2", "SIGTERM"])
def test_who_makes_room_may_do_so_for_ever(why, folder):
    own(folder, MINE)
    leave(folder, f"CONTINUE {why}")
    for _ in range(2 * FRUITLESS):
        assert judge(folder, 75, SlurmJob("RUNNING", 1, True)) == Verdict(AGAIN, f"preempted ({why}), saved")
    assert counts(folder) is None


def test_a_folder_of_nobody_s_is_not_said_to_have_failed(folder):
    folder.path.mkdir()
    leave(folder, "CONTINUE SIGUSR2")
    assert [judge(folder, 75).status for _ in range(FRUITLESS)] == [AGAIN] * 9 + [1]
    assert not folder.failed.exists()


def test_a_reason_that_a_rank_gave_is_kept(folder):
    own(folder, MINE)
    leave(folder, f"FAILED {FULL}")
    assert judge(folder, 1, attempts=1).why.startswith(f"{FULL}; given up after 1 attempts")
    assert folder.failed.read_text().startswith(f"{FULL}; given up")
    assert counts(folder) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"step": 0}',
        b'{"failures": 2}',
        b'{"step": 0, "failures": 2}',
        b'{"failures": 2, "stops": 2}',
        b'{"step": 0, "failures": "x", "stops": 0}',
        b'{"step": 0, "failures": 2, "stops": null}',
        b'{"step": 0, "failures": [1], "stops": 0}',
    ],
)
def test_a_garbled_count_starts_anew(content, folder):
    folder.jobs.mkdir(parents=True)
    (folder.jobs / "attempts.json").write_bytes(content)
    assert judge(folder, 1).why.startswith("attempt 1 of 3")
    assert judge(folder, 1).why.startswith("attempt 2 of 3")


def test_a_run_that_never_began_is_counted_too(folder):
    folder.note_job("5", folder.jobs)
    assert [judge(folder, 127).status for _ in range(3)] == [AGAIN, AGAIN, 1]
    folder.check_usable()  # to be submitted again


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "gone"),
    [
        ("123_4", {"123_4_0_result.pkl", "123_4_11_result.pkl"}),
        ("123_40", {"123_40_0_result.pkl"}),
        ("12", {"12_0_result.pkl"}),
        ("", set()),
        ("7", set()),
    ],
)
def test_only_the_results_of_the_job_are_cleared(job, gone, tmp_path):
    names = {"123_4_0_result.pkl", "123_4_11_result.pkl", "123_40_0_result.pkl", "12_0_result.pkl"}
    names |= {"123_4_submitted.pkl", "123_4_0_log.out", "12_submitted.pkl"}
    for name in names:
        (tmp_path / name).touch()
    clear_results(tmp_path, job)
    assert {path.name for path in tmp_path.iterdir()} == names - gone


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def life(monkeypatch):
    """The variables of a batch script."""
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    return monkeypatch


def submitted(logs: Path, name: str, run: Path, attempts: int = 3, joins: Path | None = None) -> None:
    """What submitit left for the ranks."""
    logs.mkdir(parents=True, exist_ok=True)
    job = TrainJob(str(run), ("--members=2",), attempts, None if joins is None else str(joins))
    DelayedSubmission(job).dump(logs / f"{name}_submitted.pkl")


def facts(**said: object) -> str:
    return shown(5, **{"restarts": 1, **said})


def test_the_run_is_named(life, folder, capsys):
    own(folder, MINE)
    arguments = ["--run", str(folder.path), "--status=1", "--attempts=2", "--facts", facts()]
    assert requeue.main(arguments) == AGAIN
    assert capsys.readouterr().err == (
        "dist-dash: requeued: attempt 1 of 2 since step 0 failed: the step ended with exit status 1\n"
    )
    assert requeue.main(arguments) == 1
    assert capsys.readouterr().err.startswith("dist-dash: the step ended with exit status 1; given up")


def test_the_run_is_the_pickled_job_s(life, folder, capsys):
    logs = folder.jobs
    submitted(logs, "5", folder.path, attempts=1)
    (logs / "5_0_result.pkl").touch()
    assert requeue.main([f"--logs={logs}", "--status=137", f"--facts={facts()}"]) == 1
    assert "given up after 1 attempts" in capsys.readouterr().err
    assert (logs / "5_0_result.pkl").exists()
    own(folder, MINE)
    leave(folder, "CONTINUE SIGTERM")
    assert requeue.main([f"--logs={logs}", "--status=75", f"--facts={facts()}"]) == 75
    assert (logs / "5_0_result.pkl").exists()
    preempted = facts(preempted="2026-11-21T11:27:27")
    assert requeue.main([f"--logs={logs}", "--status=75", f"--facts={preempted}"]) == AGAIN
    assert not (logs / "5_0_result.pkl").exists()


def test_a_task_of_an_array_is_judged_by_its_own_job(life, tmp_path, capsys):
    life.setenv("SLURM_ARRAY_JOB_ID", "100")
    life.setenv("SLURM_ARRAY_TASK_ID", "4")
    done, failing, logs = tmp_path / "done", tmp_path / "failing", tmp_path / "slurm"
    submitted(logs, "100_40", done)
    submitted(logs, "100_4", failing)
    leave_done = OwnedFolder(done)
    leave_done.path.mkdir()
    leave_done.mark(leave_done.done)
    for name in ("100_4_0_result.pkl", "100_40_0_result.pkl"):
        (logs / name).touch()
    said = shown(5, "100_4", restarts=1)
    assert requeue.main([f"--logs={logs}", "--status=1", f"--facts={said}"]) == AGAIN
    assert sorted(path.name for path in logs.glob("*result*")) == ["100_40_0_result.pkl"]
    life.setenv("SLURM_ARRAY_TASK_ID", "40")
    assert requeue.main([f"--logs={logs}", "--status=1", f"--facts={said}"]) == 0
    assert capsys.readouterr().err.endswith("dist-dash: finished\n")


# -- the join of members that were trained alone -----------------------------------------------------------------------


@pytest.fixture
def member(life, tmp_path):
    """One of two that are trained alone, by the job."""
    found = OwnedFolder(tmp_path / "both/member_00")
    submitted(tmp_path / "logs", "5", found.path, joins=tmp_path / "both")
    own(found, MINE)
    return found


@pytest.fixture
def joined(monkeypatch):
    """The folders that were to be joined."""
    found = []
    monkeypatch.setattr("dist_dash.ensembles.join.join_if_complete", found.append)
    return found


def ends(member: OwnedFolder, status: int, **said: object) -> int:
    logs = member.path.parents[1] / "logs"
    return requeue.main([f"--logs={logs}", f"--status={status}", f"--facts={facts(**said)}"])


@pytest.mark.parametrize("status", [0, 1, 137])
def test_a_member_that_has_finished_is_joined_with_the_others(status, member, joined, capsys):
    leave(member, "DONE")
    assert ends(member, status) == 0
    assert joined == [member.path.parent]
    assert capsys.readouterr().err == "dist-dash: finished\n"


@pytest.mark.parametrize(
    ("marker", "status", "said", "verdict"),
    [
        ("", 1, {}, AGAIN),
        ("", 0, {}, AGAIN),
        ("", 2, {}, 2),
        ("", 1, {"state": "CANCELLED"}, 1),
        ("", STOPPED, {}, AGAIN),
        (f"FAILED {FULL}", 1, {}, AGAIN),
        ("CONTINUE SIGUSR2", 75, {}, AGAIN),
        ("CONTINUE SIGTERM", 75, {}, 75),
    ],
)
def test_a_member_that_has_not_is_not_joined(marker, status, said, verdict, member, joined):
    leave(member, marker)
    assert ends(member, status, **said) == verdict
    assert joined == []


def test_an_end_of_long_ago_is_joined_only_if_the_step_went_well(member, joined):
    leave(member, "DONE")
    of_an_earlier_life(member.done)
    assert (ends(member, 1), joined) == (AGAIN, [])
    assert (ends(member, 0), joined) == (0, [member.path.parent])


def test_a_member_waits_for_the_others(member, capsys):
    alone = ["--method=SGD", "--members=2", "--member=0"]
    member.recipe.write_text(parse_command([f"--config={SAMPLE}", *alone]).as_yaml(2))
    leave(member, "DONE")
    before = sorted(member.path.parent.rglob("*"))
    assert ends(member, 0) == 0
    assert capsys.readouterr().err == "dist-dash: finished\n"
    assert sorted(member.path.parent.rglob("*")) == before


def test_a_join_that_fails_is_reported_and_can_be_tried_again(member, joined, monkeypatch):
    def refuse(path: Path) -> None:
        raise BadInput("run: they do not belong together")

    leave(member, "DONE")
    with monkeypatch.context() as patch:
        patch.setattr("dist_dash.ensembles.join.join_if_complete", refuse)
        with pytest.raises(BadInput, match="they do not belong together"):
            ends(member, 0)
    assert member.done.exists()
    assert (ends(member, 0), joined) == (0, [member.path.parent])


@pytest.mark.parametrize("named", [True, False])
def test_a_run_of_all_members_has_nothing_to_join(named, life, folder, joined):
    submitted(folder.jobs, "5", folder.path)
    own(folder, MINE)
    leave(folder, "DONE")
    assert requeue.main(["--status=0", f"--run={folder.path}" if named else f"--logs={folder.jobs}"]) == 0
    assert joined == []


# -- the command again -------------------------------------------------------------------------------------------------


def test_without_facts_the_folder_decides(life, folder):
    for lines in ([], ["--facts="]):
        own(folder, MINE)
        leave(folder, "CONTINUE SIGUSR2")
        assert requeue.main([f"--run={folder.path}", "--status=75", *lines]) == AGAIN


def test_a_life_that_slurm_has_given_up_requeues_nothing(life, folder, capsys):
    own(folder, "5.2")
    assert requeue.main([f"--run={folder.path}", "--status=1", f"--facts={facts(restarts=2)}"]) == 1
    assert "no requeue by this life of it" in capsys.readouterr().err
    assert not folder.failed.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--status=1"], "requeue: give --logs or --run"),
        (["--run=x"], "the following arguments are required: --status; see `python -m dist_dash.cluster.requeue --h"),
        (["--run=x", "--status=x"], "argument --status: invalid int value: 'x'; see `python -m"),
        (["--run=x", "--status=1", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["--logs=gone", "--status=1"], "requeue: gone/5_submitted.pkl cannot be read (No such file or directory)"),
        (["--logs=torn", "--status=1"], "requeue: torn/5_submitted.pkl cannot be read (EOFError)"),
        (["--logs=foreign", "--status=1"], "requeue: foreign/5_submitted.pkl cannot be read (AssertionError)"),
    ],
)
def test_bad_input_is_one_line(arguments, words, life, tmp_path):
    life.chdir(tmp_path)
    for name, content in (("torn", b""), ("foreign", b"\x80\x04N.")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "5_submitted.pkl").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        requeue.main(arguments)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_a_garbled_restart_count(life, folder):
    life.setenv("SLURM_RESTART_COUNT", "one")
    with pytest.raises(BadInput, match="SLURM_RESTART_COUNT is 'one'"):
        requeue.main([f"--run={folder.path}", "--status=1"])


def test_the_module_is_what_the_script_runs(life, folder):
    submitted(folder.jobs, "5", folder.path)
    command = [sys.executable, "-X", "importtime", "-m", "dist_dash.cluster.requeue"]
    done = subprocess.run(
        [*command, "--logs", str(folder.jobs), "--status=1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == AGAIN
    lines = done.stderr.splitlines()
    said = [line for line in lines if not line.startswith("import time:")]
    assert said == ["dist-dash: requeued: attempt 1 of 3 since step 0 failed: the step ended with exit status 1"]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "submitit.core.utils" in imported
    assert "torch" not in imported
    done = subprocess.run([*command[:1], *command[3:]], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
