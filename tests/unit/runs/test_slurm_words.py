"""What Slurm's commands print, in their own words (22.05), and what is understood of it."""

import pytest
from slurm_fakes import FakeSlurm, shown

from dist_dash.errors import BadInput
from dist_dash.runs import slurm
from dist_dash.runs.slurm import SlurmJob

FORGOTTEN = "slurm_load_jobs error: Invalid job id specified\n"
UNREACHABLE = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
# An array of six, at most two at once: the tasks that wait share the array's own id.
QUEUE = (
    "100|100_4|PENDING|JobArrayTaskLimit",
    "100|100_5|PENDING|JobArrayTaskLimit",
    "200|200|PENDING|job requeued in held state",
    "101|100_2|RUNNING|None",
    "102|100_3|COMPLETING|None",
    "300|300|PENDING|ReqNodeNotAvail, UnavailableNodes:n1",
)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return FakeSlurm(tmp_path / "bin", monkeypatch)


def test_a_cluster_is_known_by_sbatch(fake, monkeypatch, tmp_path):
    assert slurm.available()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not slurm.available()
    with pytest.raises(BadInput, match="squeue is not on PATH"):
        slurm.queue(["1"])


# -- queue -------------------------------------------------------------------------------------------------------------


def test_the_queue_tells_the_named_jobs_by_their_names(fake):
    fake.say("squeue", *QUEUE)
    assert slurm.queue(["100_2", "100_5", "200", "100_9", "999"]) == {
        "100_2": SlurmJob("RUNNING", reason="None"),
        "100_5": SlurmJob("PENDING", reason="JobArrayTaskLimit"),
        "200": SlurmJob("PENDING", reason="job requeued in held state"),
    }
    assert slurm.queue(["300"])["300"].reason == "ReqNodeNotAvail, UnavailableNodes:n1"


def test_one_question_for_all_jobs(fake):
    fake.say("squeue", *QUEUE)
    slurm.queue([f"{n}" for n in range(1000)])
    assert len(fake.asked("squeue")) == 1


def test_nothing_is_asked_for_no_jobs(fake):
    fake.say("squeue")
    fake.say("sacct")
    assert (slurm.queue([]), slurm.ended([])) == ({}, {})
    assert fake.asked("squeue") + fake.asked("sacct") == []


def test_a_task_is_found_by_the_id_that_it_knows_itself(fake):
    fake.say("squeue", *QUEUE)
    assert slurm.queue(["102"]) == {"102": SlurmJob("COMPLETING", reason="None")}


def test_an_array_stands_for_its_tasks(fake):
    fake.say("squeue", *QUEUE)
    assert {"100_2", "100_3", "100_4", "100_5"} <= set(slurm.queue(["100"]))


def test_an_id_is_not_taken_for_the_beginning_of_another(fake):
    fake.say("squeue", "1000|1000|RUNNING|None", "1001|1000_10|RUNNING|None")
    assert slurm.queue(["100", "1000_1", "10"]) == {}


def test_lines_that_are_no_rows_are_passed_over(fake):
    fake.say("squeue", "CLUSTER: rosa", *QUEUE)
    assert set(slurm.queue(["200"])) == {"200"}


def test_a_filter_of_the_user_does_not_hide_jobs(fake, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    fake.say("squeue", *QUEUE)
    assert "filtered" not in slurm.ask("squeue")


def test_a_controller_that_does_not_answer_is_quoted(fake):
    fake.say("squeue", error=UNREACHABLE, status=1)
    with pytest.raises(BadInput) as caught:
        slurm.queue(["1"])
    assert str(caught.value) == "Slurm: Unable to contact slurm controller (connect failure)"


def test_a_command_that_hangs_is_given_up(fake, monkeypatch, tmp_path):
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\nexec /bin/sleep 20\n")
    (tmp_path / "bin/squeue").chmod(0o755)
    monkeypatch.setattr(slurm, "TIMEOUT", 0.2)
    with pytest.raises(BadInput, match="squeue did not answer"):
        slurm.queue(["1"])


# -- the accounting ----------------------------------------------------------------------------------------------------


def test_the_accounting_tells_how_jobs_ended(fake):
    fake.say(
        "sacct",
        "10|10|CANCELLED by 1000|0:0",
        "11|11|FAILED|3:0",
        "12|12|FAILED|0:9",
        "13|13|TIMEOUT|0:0",
        "14|14|NODE_FAIL|1:0",
        "15|15|OUT_OF_MEMORY|0:125",
    )
    ended = slurm.ended([str(n) for n in range(10, 17)])
    assert {name: job.state for name, job in ended.items()} == {
        "10": "CANCELLED",
        "11": "FAILED",
        "12": "FAILED",
        "13": "TIMEOUT",
        "14": "NODE_FAIL",
        "15": "OUT_OF_MEMORY",
    }
    assert (ended["11"].reason, ended["12"].reason) == ("exit status 3", "signal 9")


def test_tasks_that_never_started_share_a_line_of_the_accounting(fake):
    fake.say("sacct", "100_1|101|COMPLETED|0:0", "100_[0-3,8-12:2%7]|100|CANCELLED by 0|0:0", "100_2|102|FAILED|1:0")
    names = [f"100_{n}" for n in (0, 1, 2, 3, 4, 7, 8, 9, 10, 12)]
    assert {name: job.state for name, job in slurm.ended(names).items()} == {
        "100_0": "CANCELLED",
        "100_1": "COMPLETED",
        "100_2": "FAILED",
        "100_3": "CANCELLED",
        "100_8": "CANCELLED",
        "100_10": "CANCELLED",
        "100_12": "CANCELLED",
    }
    (question,) = fake.asked("sacct")
    assert question.endswith("-j 100")


def test_the_accounting_knows_a_task_by_its_own_id(fake):
    fake.say("sacct", "100_1|101|TIMEOUT|0:0")
    assert slurm.ended(["101"]) == {"101": SlurmJob("TIMEOUT", reason="exit status 0")}


@pytest.mark.parametrize("installed", [True, False])
def test_without_accounting_nothing_is_known(fake, installed):
    if installed:
        fake.say("sacct", error="Slurm accounting storage is disabled\n", status=1)
    assert slurm.ended(["1"]) == {}


# -- one job -----------------------------------------------------------------------------------------------------------


def test_a_job_is_read(fake):
    fake.say("scontrol", shown(7, restarts=2, preempted="2026-11-21T11:30:00", reason="Preempted"))
    assert slurm.job("7") == SlurmJob("RUNNING", restarts=2, preempted=True, reason="Preempted")
    assert fake.asked("scontrol") == ["show job -o 7"]


def test_words_of_the_user_are_not_taken_for_facts(fake):
    fake.say(
        "scontrol",
        shown(7, name="x JobState=FAILED Restarts=9 PreemptTime=1", comment="Restarts=9 JobState=DONE PreemptTime=1"),
    )
    assert slurm.job("7") == SlurmJob("RUNNING", reason="None")


def test_the_id_of_an_array_names_one_of_its_tasks(fake):
    fake.say("scontrol", shown(102, "100_1"), shown(100, "100_5", state="FAILED"), shown(1001, "100_2"))
    assert slurm.job("100").state == "FAILED"
    assert slurm.is_over("100")


@pytest.mark.parametrize(
    ("out", "error"), [((), FORGOTTEN), (("Job 100_7 not found",), ""), (("Job 100 not found",), "")]
)
def test_a_job_that_is_forgotten_is_none(fake, out, error):
    fake.say("scontrol", *out, error=error, status=1)
    assert slurm.job("100_7") is None
    assert slurm.is_over("100_7")


def test_a_job_is_not_over_as_long_as_nobody_can_tell(fake):
    fake.say("scontrol", error=UNREACHABLE, status=1)
    with pytest.raises(BadInput, match="Unable to contact"):
        slurm.job("1")
    assert not slurm.is_over("1")


@pytest.mark.parametrize(
    ("state", "over"),
    [
        ("RUNNING", False),
        ("COMPLETING", False),
        ("SUSPENDED", False),
        ("RESIZING", False),
        ("PENDING", True),
        ("NODE_FAIL", True),
        ("COMPLETED", True),
        ("CANCELLED", True),
    ],
)
def test_which_jobs_are_over(fake, state, over):
    fake.say("scontrol", shown(7, state=state))
    assert slurm.is_over("7") is over


def test_bytes_that_are_no_text_do_no_harm(fake, tmp_path):
    (tmp_path / "said").write_bytes(shown(7, comment="caf").encode() + b"\xe9\n")
    (tmp_path / "bin/scontrol").write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path}/said\n")
    (tmp_path / "bin/scontrol").chmod(0o755)
    assert slurm.job("7").state == "RUNNING"


def test_what_a_job_has_noted_about_itself(fake):
    fake.say("scontrol", shown(7, comment="dist-dash: n1 does not see /scratch/run; it must"))
    assert slurm.comment("7") == "dist-dash: n1 does not see /scratch/run; it must"
    fake.say("scontrol", error=FORGOTTEN, status=1)
    assert slurm.comment("7") == ""


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_limits_of_the_configuration(fake):
    fake.say("scontrol", "KillWait = 5 sec", "MaxArraySize            = 1001", "MaxJobCount = (null)", "XMaxTasks = 3")
    assert [slurm.limit(name) for name in ("MaxArraySize", "KillWait", "MaxJobCount", "MaxTasks")] == [
        1001,
        5,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (
            "sbatch: error: invalid partition specified: nowhere\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "invalid partition specified: nowhere; Invalid partition name specified",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available\n",
            "Requested node configuration is not available",
        ),
        ("srun: error: Unable to allocate resources: Invalid qos specification\n", "Invalid qos specification"),
        ("sbatch: error: Memory limit\n\nsbatch: error: Batch job submission failed: Memory limit\n", "Memory limit"),
        (FORGOTTEN, "Invalid job id specified"),
        ("squeue: fatal: Unable to process configuration file\n", "Unable to process configuration file"),
        ("sbatch: unrecognized option '--nonsense'\n", "unrecognized option '--nonsense'"),
        ("", ""),
    ],
)
def test_complaints_are_shortened(words, kept):
    assert slurm.shortened(words) == kept


def test_a_silent_refusal_names_the_command(fake):
    fake.say("scontrol", status=1)
    with pytest.raises(BadInput, match=r"^Slurm: scontrol refused$"):
        slurm.limit("MaxArraySize")
