"""The object that submitit pickles: light, frozen at submission, and polite to submitit and to the script around it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cloudpickle
import pytest
from submitit.core.utils import DelayedSubmission

from dist_dash.cluster import job as job_module
from dist_dash.cluster.job import FOLLOWED, TrainJob
from dist_dash.cluster.submission import frozen_arguments
from dist_dash.errors import RunFailed
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import StopRequest

ROOT = Path(__file__).parents[3]
SAMPLE = Path(__file__).parents[1] / "sample.yaml"
ALONE = (f"--config={SAMPLE}", "--method=SGD", "--members=3", "--member=2")
TASK = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_JOB_ID": "5",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_NODEID": "0",
}


def task(logs: Path, rank: int = 0, **further: str) -> dict[str, str]:
    return {**TASK, "SUBMITIT_FOLDER": str(logs), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), **further}


@pytest.fixture(autouse=True)
def environment(tmp_path):
    """A rank of a Slurm job, whose changes to the environment are undone."""
    logs = tmp_path / "logs"
    logs.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_")) and k != FOLLOWED}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    with mock.patch.dict(os.environ, {**kept, **task(logs)}, clear=True):
        yield logs


# -- the pickle --------------------------------------------------------------------------------------------------------


def test_it_is_pickled_by_its_name():
    """Code in the pickle would go on living in jobs that wait, whatever is mended meanwhile."""
    job = TrainJob("/shared/run", ("--members=2",), 7, "/shared")
    pickled = cloudpickle.dumps(job)
    assert cloudpickle.loads(pickled) == job
    assert b"dist_dash.cluster.job" in pickled
    assert len(pickled) < 300
    assert not [word for word in (b"_train", b"guarded", b"checkpoint") if word in pickled]


def test_it_is_unpickled_without_torch(tmp_path):
    DelayedSubmission(TrainJob(str(tmp_path), ())).dump(tmp_path / "5_submitted.pkl")
    code = "import sys; from submitit.core.utils import DelayedSubmission as D; print(D.load(sys.argv[1]).function.run)"
    code += "; print({'torch', 'jsonargparse', 'deepspeed'} & set(sys.modules))"
    command = [sys.executable, "-c", code, str(tmp_path / "5_submitted.pkl")]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == f"{tmp_path}\nset()\n"


def test_submitit_starts_the_same_again():
    job = TrainJob("/shared/run", ("--members=2",), 7)
    assert job.checkpoint().function == job


# -- the recipe as it was ----------------------------------------------------------------------------------------------


def test_the_recipe_is_copied(tmp_path):
    recipe, folder = tmp_path / "my recipe.v2.yaml", tmp_path / "run/slurm"
    recipe.write_text(SAMPLE.read_text())
    for words in (["--config", str(recipe)], [f"--config={recipe}"]):
        (frozen,) = frozen_arguments(words, folder)
        copy = Path(frozen.removeprefix("--config="))
        assert copy.parent == folder
        assert copy.name.startswith("my recipe.v2-")
        assert copy.read_text() == recipe.read_text()
    assert list(folder.iterdir()) == [copy]
    before = parse_command([frozen])
    recipe.write_text(SAMPLE.read_text().replace("epochs: 20", "epochs: 3"))
    assert parse_command([frozen]).as_yaml() == before.as_yaml()
    (anew,) = frozen_arguments([f"--config={recipe}"], folder)
    assert anew != frozen
    assert parse_command([anew]).recipe.epochs == 3
    recipe.unlink()
    assert parse_command([frozen]).recipe.epochs == 20


def test_several_recipes_keep_their_order(tmp_path):
    for name, epochs in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "r.yaml").write_text(f"epochs: {epochs}\n")
    words = [f"--config={SAMPLE}", "--config", str(tmp_path / "a/r.yaml"), f"--config={tmp_path / 'b/r.yaml'}"]
    frozen = frozen_arguments([*words, "--seed=4"], tmp_path / "logs")
    assert parse_command(frozen).recipe.epochs == 2
    assert len({*frozen}) == 4
    assert frozen[-1] == "--seed=4"
    assert parse_command([frozen[0], frozen[2], frozen[1]]).recipe.epochs == 1


@pytest.mark.parametrize("words", [["--run", "runs/a"], ["--run=runs/a"], ["--fresh"], ["--run=", "--fresh"]])
def test_what_the_submission_has_dealt_with_is_left_out(words, tmp_path):
    given = ["--seed", "3", *words, "--members=2", "--method.rho_div", "0.1"]
    assert frozen_arguments(given, tmp_path) == ("--seed", "3", "--members=2", "--method.rho_div", "0.1")
    assert list(tmp_path.glob("*.yaml")) == []


def test_a_recipe_on_the_command_line_needs_no_copy(tmp_path):
    text = "{epochs: 1, seed: 7}" + " " * 5000
    assert frozen_arguments(["--config", text], tmp_path / "run") == (f"--config={text}",)
    assert not (tmp_path / "run").exists()


# -- one call ----------------------------------------------------------------------------------------------------------


def ending(monkeypatch, status: int | BaseException):
    """Make training end at once."""

    def end(*_: object) -> int:
        if isinstance(status, BaseException):
            raise status
        return status

    monkeypatch.setattr(TrainJob, "_train", end)
    monkeypatch.setattr(job_module, "leave", sys.exit)  # os._exit would end the tests


def outcome(job: TrainJob) -> object:
    try:
        return job()
    except SystemExit as error:
        return error.code
    except KeyError as error:  # what nobody foresaw is submitit's to write down
        return error


@pytest.mark.parametrize("status", [0, 1, 2, 75, RunFailed("x"), KeyError("x")])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_result_of_an_earlier_life_is_gone_before_anything_else(rank, status, environment, monkeypatch, tmp_path):
    for other in (0, 1):
        (environment / f"5_{other}_result.pkl").touch()
    monkeypatch.setenv("SLURM_PROCID", str(rank))
    ending(monkeypatch, status)
    assert outcome(TrainJob(str(tmp_path / "run"), ())) == (1 if isinstance(status, Exception) else status)
    assert [path.name for path in environment.iterdir()] == [f"5_{1 - rank}_result.pkl"]


def called(monkeypatch, *arguments: str, run: str = "/shared/run", **fields: object):
    """What training would be called with."""
    calls = []
    monkeypatch.setattr("dist_dash.training.train.train", lambda *given: calls.append(given) or 0)
    monkeypatch.setattr("dist_dash.ensembles.join.join_if_complete", lambda path: calls.append(path))
    assert TrainJob(run, arguments, **fields)() == 0
    return calls


def test_it_trains_as_the_rank_that_srun_made_it(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    ((command, layout, stop),) = called(monkeypatch, f"--config={SAMPLE}", "--members=2")
    assert (layout.rank, layout.world, layout.members, layout.job) == (1, 2, 2, "5.0")
    assert command.run == Path("/shared/run")
    assert isinstance(stop, StopRequest)


def test_started_again_it_does_not_start_over(monkeypatch, tmp_path):
    """A recipe may hold `fresh`, and a run folder that is not the job's."""
    (tmp_path / "r.yaml").write_text(f"{SAMPLE.read_text()}fresh: true\nrun: elsewhere\n")
    assert parse_command([f"--config={tmp_path / 'r.yaml'}"]).fresh
    ((command, _, _),) = called(monkeypatch, f"--config={tmp_path / 'r.yaml'}", "--members=2")
    assert (command.fresh, command.run) == (False, Path("/shared/run"))


def test_the_last_member_to_finish_joins_them_all(monkeypatch):
    (_, layout, _), joined = called(monkeypatch, *ALONE, joins="/shared")
    assert (layout.identity, layout.ensemble_members, joined) == (2, 3, Path("/shared"))
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert len(called(monkeypatch, *ALONE, joins="/shared")) == 1


def test_followed_by_the_script_it_leaves_the_join_to_it(monkeypatch):
    """Srun would end a rank that stays so much longer than the others."""
    monkeypatch.setenv(FOLLOWED, "1")
    assert len(called(monkeypatch, *ALONE, joins="/shared")) == 1


@pytest.mark.parametrize("status", [75, 1])
def test_a_member_that_has_not_finished_joins_nothing(status, monkeypatch, tmp_path):
    joined = []
    monkeypatch.setattr("dist_dash.training.train.train", lambda *given: status)
    monkeypatch.setattr("dist_dash.ensembles.join.join_if_complete", joined.append)
    monkeypatch.setattr(job_module, "leave", sys.exit)
    job = TrainJob(str(tmp_path / "run"), ALONE, joins="/shared")
    assert (outcome(job), joined) == (status, [])


def test_the_script_has_a_job_join(monkeypatch):
    joined = []
    monkeypatch.setattr("dist_dash.ensembles.join.join_if_complete", joined.append)
    TrainJob("/shared/run", ()).join()
    TrainJob("/shared/member_00", (), joins="/shared").join()
    assert joined == [Path("/shared")]


def test_bad_input_is_reported_by_one_rank(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(job_module, "leave", sys.exit)
    for rank, lines in ((0, 1), (1, 0)):
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        with pytest.raises(SystemExit) as caught:
            TrainJob(str(tmp_path / "run"), (f"--config={SAMPLE}", "--epochs=0"))()
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("dist-dash: epochs: ") == lines


# -- a stop ------------------------------------------------------------------------------------------------------------

STOPPED = """
import os, sys
from pathlib import Path
from dist_dash.cluster.job import TrainJob
from dist_dash.runs.owner import OwnedFolder
from submitit.core.submission import process_job
run, logs, why, status = sys.argv[1:]

def stopped(self, environment):
    folder = OwnedFolder(run)
    folder.mark(folder.to_continue, why)
    return int(status)

TrainJob._train = stopped
process_job(logs)
"""


def stopped(tmp_path: Path, why: str, status: int = 75, **variables: str) -> tuple[int, list[str]]:
    """How submitit's process ends when its ranks were stopped; and what it asked of scontrol."""
    logs, tools, run = tmp_path / "logs", tmp_path / "bin", tmp_path / "run"
    tools.mkdir()
    run.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tools / "scontrol").chmod(0o755)
    submission = DelayedSubmission(TrainJob(str(run), ()))
    submission.set_timeout(60, 3)
    submission.dump(logs / "5_submitted.pkl")
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(run), str(logs), why, str(status)],
        env={**os.environ, **variables, "PATH": f"{tools}:{os.environ['PATH']}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert not list(logs.glob("*_result.pkl")), "nobody is to take it for finished"
    assert DelayedSubmission.load(logs / "5_submitted.pkl").function == submission.function
    asked = tmp_path / "asked"
    return done.returncode, asked.read_text().splitlines() if asked.exists() else []


def test_followed_by_the_script_it_leaves_the_requeue_to_it(tmp_path):
    assert stopped(tmp_path, "SIGUSR2", **{FOLLOWED: "1"}) == (75, [])


def test_an_executor_of_the_user_s_own_requeues(tmp_path):
    status, asked = stopped(tmp_path, "SIGUSR2")
    assert asked == ["requeue 5"]
    assert status != 0


@pytest.mark.parametrize(
    ("why", "status", "variables"),
    [
        ("SIGUSR2", 75, {"SLURM_PROCID": "1"}),  # rank 0 does
        ("SIGTERM", 75, {}),  # for good
        ("SIGUSR2", 1, {}),  # the marker is an earlier life's
    ],
)
def test_nobody_requeues(why, status, variables, tmp_path):
    assert stopped(tmp_path, why, status, **variables) == (status, [])


def test_submitit_s_handler_is_back_when_the_ranks_have_saved(monkeypatch, tmp_path):
    """It is asked by the signal that it has a handler for, once training listens no more."""
    heard = []
    run = OwnedFolder(tmp_path / "run")
    run.path.mkdir()

    def saves(command, layout, stop):
        assert signal.getsignal(signal.SIGUSR2) is not handler
        run.mark(run.to_continue, "SIGUSR2")
        return 75

    def handler(number, frame):
        heard.append(number)

    monkeypatch.setattr("dist_dash.training.train.train", saves)
    before = signal.signal(signal.SIGUSR2, handler)
    try:
        for expected in ([signal.SIGUSR2], []):
            heard.clear()
            with pytest.raises(SystemExit) as caught:
                TrainJob(str(run.path), (f"--config={SAMPLE}",))()
            assert (caught.value.code, heard) == (75, expected)
            monkeypatch.setenv(FOLLOWED, "1")
    finally:
        signal.signal(signal.SIGUSR2, before)
