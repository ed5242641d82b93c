"""The batch scripts: compared with what they were, and run by a shell that has doubles of Slurm's commands.

Where a script is meant to change: set DIST_DASH_WRITE_GOLDEN=1, run this file, then look at what git shows.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

from dist_dash.cluster.job import TrainJob
from dist_dash.cluster.sbatch import JobBatch
from dist_dash.cluster.site import Site
from dist_dash.commands.cli import main
from dist_dash.errors import BadInput
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder

GOLDEN = Path(__file__).with_name("golden")
SAMPLE = Path(__file__).parents[1] / "sample.yaml"
BASH = shutil.which("bash") or "bash"
SYSTEM = "/usr/local/bin:/usr/bin:/bin"

GPUS = """
partition: gpu
account: 00123
qos: high
constraint: "a100|h100"
reservation: workshop
exclude: n[13,27]
nodes: 2
gpus_per_node: 4
gpus_as: gres
cpus_per_task: 8
mem_gb: 480.5
time: 1-12:00:00
warning: 300
modules: [cuda/12.4, "gcc (12)"]
setup: [ulimit -n 65536]
environment:
  NCCL_SOCKET_IFNAME: ib0
  GREETING: it's $HOME
  OMP_NUM_THREADS: 4
container: apptainer exec --nv image.sif
python: /opt/env/bin/python
sbatch: {mail-type: END, exclusive: true, comment: a b}
srun: [--mpi=none, "--label=a b"]
"""
RECIPE = f"--config={SAMPLE}"
CASES = {
    "cpu": ["submit", RECIPE, "--nodes=2", "--tasks-per-node=2", "--members=4", "--run=cpu"],
    "gpu": ["submit", RECIPE, "--site=site.yaml", "--run=gpu"],
    "array": ["array", RECIPE, "--sweep=seed=0..4", "--parallel=2", "--folder=sweep", "--time=90"],
    "scatter": ["array", RECIPE, "--sweep=method=SGD,DASH", "--scatter", "--tasks-per-node=3", "--folder=scattered"],
    "spaces": ["submit", RECIPE, "--run=it's here/my $run", "--python=/opt/my env/python", "--time=2:00:00"],
}


@pytest.fixture(autouse=True)
def shell(monkeypatch, tmp_path):
    """A shell in an empty folder, without Slurm on its PATH."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("DIST_DASH_SITE", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    Path("site.yaml").write_text(GPUS)
    return monkeypatch


def scripts(capsys, *arguments: str) -> list[str]:
    """What a dry run shows below the plan."""
    before = sorted(Path.cwd().parent.rglob("*"))
    assert main([*arguments, "--dry-run"]) == 0
    assert sorted(Path.cwd().parent.rglob("*")) == before
    said = capsys.readouterr()
    assert said.err == ""
    _, *found = said.out.split("\n#!/bin/bash\n")
    return [f"#!/bin/bash\n{script.rstrip()}" for script in found]


# -- what they say -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_scripts_are_what_they_were(case, capsys):
    text = "\n\n".join([*scripts(capsys, *CASES[case]), ""])
    text = text.replace(shlex.quote(sys.executable), "PYTHON").replace(str(Path.cwd()), "/shared")
    golden = GOLDEN / f"{case}.sh"
    if os.environ.get("DIST_DASH_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_shell_understands_them(case, capsys):
    for script in scripts(capsys, *CASES[case]):
        done = subprocess.run([BASH, "-n"], input=script, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_each_kind_of_resources_has_a_script(capsys):
    alone, gang = scripts(capsys, *CASES["scatter"])
    assert ("--array=0-2%3" in alone, "--ntasks-per-node=1" in alone) == (True, True)
    assert ("--array" not in gang, "--ntasks-per-node=3" in gang) == (True, True)


def test_as_many_tasks_as_slurm_likes(capsys):
    (script,) = scripts(capsys, "array", RECIPE, "--sweep=seed=0..299")
    assert "#SBATCH --array=0-299%300\n" in script
    assert len(scripts(capsys, "array", RECIPE, "--sweep=seed=0..1999")) == 2  # 1001 unless Slurm says otherwise


def test_the_folder_that_one_is_in_has_a_name(capsys):
    (script,) = scripts(capsys, "submit", RECIPE, f"--run={Path.cwd().parent / 'nothing'}/.")
    assert "#SBATCH --job-name=nothing\n" in script


def test_a_path_that_slurm_would_rewrite():
    with pytest.raises(BadInput, match=r"^run: '/shared/5%j' is not allowed; it must be a path without %, .*$"):
        JobBatch("a", (), Site(), Path("/shared/5%j/slurm"))
    assert main(["submit", "--dry-run", RECIPE, "--run=5%"]) == 2


# -- what they do ------------------------------------------------------------------------------------------------------


class Node:
    """A shell on a compute node, where Slurm's commands and Python are doubles that note how they were called.

    Args:
        folder: for them.
        task: of an array.
    """

    def __init__(self, folder: Path, task: str = "") -> None:
        self.calls, self._tools = folder / "calls", folder / "bin"
        self._tools.mkdir()
        self.name = f"100_{task}" if task else "5"
        self._array = {"SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": task} if task else {}
        end = {"srun": 'echo "followed $DIST_DASH_FOLLOWED, $GREETING"\nexit $STEP', "hostname": "echo n7"}
        end |= {"python": "exit $VERDICT", "apptainer": "exit $VERDICT", "module": '[ "$2" != "$LACKS" ]'}
        end["scontrol"] = """
            [ "$1" != show ] || echo "JobId=5 $4"
            [ "$1" != show ] || echo "JobId=6"
            [ "$1" != requeue ] || exit $REQUEUE
        """
        for command, lines in end.items():
            note = "" if command == "hostname" else 'printf "%s\\n" "$(basename "$0")" "$@" "" >> "$CALLS"\n'
            (self._tools / command).write_text(f"#!/bin/sh\n{note}{lines}\n")
            (self._tools / command).chmod(0o755)

    def run(self, script: str, step: int = 0, verdict: int = 0, requeue: int = 0, lacks: str = "none") -> int:
        """The exit status of the script, where srun, the verdict and the requeue have these, and a module is not."""
        self.calls.unlink(missing_ok=True)
        variables = {"STEP": str(step), "VERDICT": str(verdict), "CALLS": str(self.calls), "HOME": "/root"}
        variables |= {"REQUEUE": str(requeue), "LACKS": lacks}
        environment = {"PATH": f"{self._tools}:{SYSTEM}", "SLURM_JOB_ID": "5", **self._array, **variables}
        done = subprocess.run([BASH, "-c", script], text=True, env=environment, capture_output=True, check=False)
        assert (done.stdout, done.stderr) == ("", "")
        return done.returncode

    def called(self, command: str) -> list[list[str]]:
        """The arguments of every call."""
        calls = [call.split("\n") for call in self.calls.read_text().removesuffix("\n\n").split("\n\n")]
        return [arguments for name, *arguments in calls if name == command]


@pytest.fixture(params=CASES)
def case(request, capsys, tmp_path):
    """A script whose interpreter is a double, the node for it, and its folder."""
    options = ["--python=python", "--setup=null"]
    script = scripts(capsys, *CASES[request.param], *options)[0]
    logs = {"array": "sweep", "scatter": "scattered", "spaces": "it's here/my $run"}.get(request.param, request.param)
    return script, Node(tmp_path, "4" if "--array" in script else ""), Path(logs).absolute() / "slurm"


@pytest.mark.parametrize(("step", "verdict", "status"), [(0, 0, 0), (75, 85, 0), (137, 1, 1), (2, 2, 2), (75, 75, 75)])
def test_the_script_does_what_the_verdict_says(case, step, verdict, status):
    script, node, logs = case
    logs.mkdir(parents=True)
    log = logs / f"{node.name}_0_log.out"
    log.write_text("an earlier life\n")
    assert node.run(script, step, verdict) == status
    assert log.read_text().startswith("an earlier life\nfollowed 1, ")
    assert [path.name for path in logs.iterdir()] == [log.name]
    (step_call,) = node.called("srun")
    assert step_call[-5:] == ["python", "-u", "-m", "submitit.core._submit", str(logs)]
    assert {"--wait=30", "--kill-on-bad-exit=0"} <= set(step_call)
    asked = [["show", "job", "-o", node.name], *([["requeue", node.name]] if verdict == 85 else [])]
    assert node.called("scontrol") == asked
    (judged,) = node.called("python") or [call[3:] for call in node.called("apptainer")]
    judged = judged[judged.index("-m") :]
    assert judged[:2] == ["-m", "dist_dash.cluster.requeue"]
    assert judged[2:] == ["--status", str(step), "--facts", f"JobId=5 {node.name}", "--logs", str(logs)]


def test_a_job_that_slurm_does_not_requeue(case):
    """Its end is to be seen in the queue and the log: nobody starts it again."""
    script, node, logs = case
    logs.mkdir(parents=True)
    assert node.run(script, 75, 85, requeue=1) == 75
    said = (logs / f"{node.name}_0_log.out").read_text().splitlines()
    assert said[1:] == [f"dist-dash: Slurm does not requeue job {node.name}; submit the run again to continue"]
    assert node.called("scontrol")[-1] == ["requeue", node.name]


def test_a_node_that_does_not_see_the_folder_says_so_and_writes_nothing(case, tmp_path):
    script, node, logs = case
    before = sorted(tmp_path.rglob("*"))
    assert node.run(script) == 2
    why = f"comment=dist-dash: n7 does not see {logs}; it must be on a file system that all nodes share"
    assert node.called("scontrol") == [["update", f"jobid={node.name}", why]]
    assert node.called("srun") + node.called("python") == []
    assert sorted(tmp_path.rglob("*")) == sorted([*before, node.calls])


def test_what_the_site_wants_is_there_when_the_ranks_start(capsys, tmp_path):
    (script,) = scripts(capsys, *CASES["gpu"], '--setup=[export GREETING="$GREETING $OMP_NUM_THREADS"]')
    node = Node(tmp_path)
    Path("gpu/slurm").mkdir(parents=True)
    node.run(script)
    assert node.called("module") == [["load", "cuda/12.4"], ["load", "gcc (12)"]]
    assert Path("gpu/slurm/5_0_log.out").read_text() == "followed 1, it's $HOME 4\n"
    (step,) = node.called("srun")
    assert step[step.index("--cpus-per-task=8") :][:3] == ["--cpus-per-task=8", "--mpi=none", "--label=a b"]
    assert "apptainer exec --nv image.sif /opt/env/bin/python -u" in " ".join(step)


@pytest.mark.parametrize(("lacks", "loaded"), [("cuda/12.4", 1), ("gcc (12)", 2)])
def test_a_module_that_is_not_there(lacks, loaded, capsys, tmp_path):
    (script,) = scripts(capsys, *CASES["gpu"])
    node = Node(tmp_path)
    Path("gpu/slurm").mkdir(parents=True)
    assert node.run(script, lacks=lacks) == 2
    assert Path("gpu/slurm/5_0_log.out").read_text() == "dist-dash: a module cannot be loaded\n"
    assert len(node.called("module")) == loaded
    assert node.called("srun") + node.called("apptainer") + node.called("scontrol") == []


# -- what is submitted -------------------------------------------------------------------------------------------------


class Controller:
    """Slurm as far as a submission asks it; keeps the scripts.

    Args:
        folder: for the commands.
        shell: in which they are to be found.
        refuses: which script it refuses, counted from 0.
    """

    def __init__(self, folder: Path, shell: pytest.MonkeyPatch, refuses: int = -1) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "heard").touch()
        lines = {
            "sbatch": f"""
                case "$*" in *--test-only*) exit 0;; esac
                n=$(ls {folder} | grep -c script)
                [ $n -ne {refuses} ] || {{ echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }}
                cp "$1" {folder}/script$n
                echo "Submitted batch job 7$n"
            """,
            "scontrol": 'echo "MaxArraySize = 3"',
            "scancel": f'echo "$@" >> {folder}/cancelled',
            **dict.fromkeys(("srun", "squeue", "sinfo"), ""),
        }
        for command, text in lines.items():
            note = f'echo {command} "$@" $(ls */DONE 2>/dev/null) >> {folder}/heard'
            (folder / command).write_text(f"#!/bin/sh\n{note}\n{text}\n")
            (folder / command).chmod(0o755)
        shell.setenv("PATH", f"{folder}:{SYSTEM}")

    def heard(self, *commands: str) -> list[tuple[str, ...]]:
        """The calls that change something: the command, its last word, and whether a run was finished at the time."""
        calls = [line.split() for line in (self._folder / "heard").read_text().splitlines()]
        changes = [words for words in calls if words[0] in commands and words[1] not in ("show", "--test-only")]
        return [(*words[:1], *(word for word in words[1:] if not word.startswith("/"))) for words in changes]

    @property
    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self._folder.glob("script*"))]

    @property
    def cancelled(self) -> list[str]:
        file = self._folder / "cancelled"
        return file.read_text().split() if file.exists() else []


@pytest.mark.parametrize("case", CASES)
def test_what_is_submitted_is_what_was_shown(case, capsys, shell, tmp_path):
    controller = Controller(tmp_path / "slurm", shell)
    shown = scripts(capsys, *CASES[case])
    assert main(CASES[case]) == 0, capsys.readouterr().err
    # What the later parts of a throttled array wait for has no id yet when they are shown.
    assert [re.sub(r"#SBATCH --dependency=.*\n", "", script) for script in controller.scripts] == shown
    assert controller.cancelled == []


def test_every_run_knows_its_job_and_every_job_its_run(shell, tmp_path):
    Controller(tmp_path / "slurm", shell)
    assert main(CASES["scatter"]) == 0
    folder = Path("scattered").absolute()
    runs = {"70_0": "method-SGD/member_00", "70_1": "method-SGD/member_01", "70_2": "method-SGD/member_02"}
    runs |= {"71": "method-DASH"}
    for name, run in runs.items():
        assert RunFolder(folder / run).submitted()["job"] == name
        job = DelayedSubmission.load(folder / f"slurm/{name}_submitted.pkl").function
        assert (job.run, job.attempts) == (str(folder / run), 3)
        assert (job.joins is None) == (name == "71")
        assert "--members=3" in job.arguments
        (recipe,) = [word for word in job.arguments if word.startswith("--config=")]
        assert Path(recipe.removeprefix("--config=")).parent == folder / "slurm"


def test_an_array_too_large_is_split_and_its_parts_wait_for_each_other(shell, tmp_path):
    controller = Controller(tmp_path / "slurm", shell)
    assert main(CASES["array"]) == 0
    first, second = controller.scripts
    assert "--array=0-2%2" in first
    assert "--array=0-1%2" in second
    assert "--dependency=afterany:70\n" in second
    jobs = [RunFolder(f"sweep/seed-{seed}").submitted()["job"] for seed in range(5)]
    assert jobs == ["70_0", "70_1", "70_2", "71_0", "71_1"]


def test_all_or_nothing(capsys, shell, tmp_path):
    controller = Controller(tmp_path / "slurm", shell, refuses=1)
    assert main(CASES["array"]) == 2
    assert capsys.readouterr().err == "dist-dash: Slurm: QOSMaxSubmitJobPerUserLimit\n"
    assert controller.cancelled == ["70"]
    assert not Path("sweep").exists()


@pytest.mark.parametrize(("case", "refuses"), [("cpu", 0), ("array", 1)])
def test_a_folder_that_was_there_before_is_left_when_slurm_refuses(case, refuses, shell, tmp_path):
    Controller(tmp_path / "slurm", shell, refuses)
    folder = Path({"array": "sweep"}.get(case, case))
    assert main(CASES[case]) == 2
    assert not folder.exists()
    (folder / "slurm").mkdir(parents=True)
    (folder / "slurm/1_0_log.out").touch()
    shell.setenv("PATH", "/nothing")
    Controller(tmp_path / "again", shell, refuses)
    assert main(CASES[case]) == 2
    assert (folder / "slurm/1_0_log.out").exists()
    assert list(folder.rglob("job.json")) == []


# -- starting over -----------------------------------------------------------------------------------------------------


@pytest.fixture
def finished():
    """A run that is to start over."""
    folder = OwnedFolder("cpu")
    folder.acquire()
    folder.metrics.touch()
    folder.mark(folder.done)
    folder.release()
    return folder


def test_a_run_is_cleared_when_slurm_has_accepted_it_and_before_it_begins(finished, shell, tmp_path):
    controller = Controller(tmp_path / "slurm", shell)
    assert main([*CASES["cpu"], "--fresh"]) == 0
    (script,) = controller.scripts
    assert "#SBATCH --hold\n" in script
    assert controller.heard("sbatch", "scontrol", "scancel") == [("sbatch", "cpu/DONE"), ("scontrol", "release", "70")]
    assert not finished.done.exists()
    assert not finished.metrics.exists()
    assert finished.submitted()["job"] == "70"


def test_a_run_that_slurm_refuses_is_not_cleared(finished, shell, tmp_path):
    controller = Controller(tmp_path / "slurm", shell, refuses=0)
    assert main([*CASES["cpu"], "--fresh"]) == 2
    assert controller.heard("scontrol", "scancel") == []
    assert finished.done.exists()
    assert finished.metrics.exists()
    assert finished.submitted() == {}


def test_a_run_that_cannot_be_cleared_is_not_begun(finished, shell, tmp_path):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    controller = Controller(tmp_path / "slurm", shell)
    shell.setattr(OwnedFolder, "clear", full)
    assert main([*CASES["cpu"], "--fresh"]) == 1
    assert controller.heard("scontrol", "scancel") == [("scancel", "70", "cpu/DONE")]
    assert finished.metrics.exists()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_job_that_cannot_be_noted_is_not_left_in_the_queue(shell, tmp_path):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    controller = Controller(tmp_path / "slurm", shell)
    shell.setattr(RunFolder, "note_job", full)
    assert main(CASES["cpu"]) == 1
    assert controller.cancelled == ["70"]


def test_a_recipe_given_as_it_is_can_be_submitted(shell, tmp_path):
    Controller(tmp_path / "slurm", shell)
    recipe = json.dumps({"method": "SGD", "data": "Digits", "model": "MLP", "optimizer": "SGD", "epochs": 3})
    assert main(["submit", "--config", recipe, "--optimizer.lr=0.1", "--run=inline"]) == 0
    job: TrainJob = DelayedSubmission.load(Path("inline/slurm/70_submitted.pkl")).function
    assert f"--config={recipe}" in job.arguments
