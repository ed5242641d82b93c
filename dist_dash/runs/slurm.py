"""Questions to Slurm: what a job is doing, what the cluster allows. Refusals are quoted, without repetitions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dist_dash.errors import BadInput

TIMEOUT = 60  # seconds that a busy controller is given to answer
ALIVE = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class SlurmJob:
    """One job, or one task of an array, as Slurm sees it.

    Args:
        state: Slurm's word: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, NODE_FAIL, …
        restarts: how often it was requeued.
        preempted: whether Slurm is taking its nodes away for another job.
        reason: why it waits, or why it ended.
    """

    state: str
    restarts: int = 0
    preempted: bool = False
    reason: str = ""


def available() -> bool:
    """Whether Slurm's commands are installed here."""
    return shutil.which("sbatch") is not None


def ask(*command: str) -> str:
    """What a Slurm command prints.

    Raises:
        BadInput: the command is not installed, or it refuses; with Slurm's message.
    """
    # A user's SQUEUE_STATES=RUNNING and the like would leave out what is asked for here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": TIMEOUT, "env": environment}
    try:
        # Other people's comments may hold any bytes.
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", **options)
    except FileNotFoundError as error:
        raise BadInput(f"Slurm: {command[0]} is not on PATH; this is no Slurm cluster") from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"Slurm: {command[0]} did not answer within {TIMEOUT} s") from error
    if done.returncode:
        raise BadInput(f"Slurm: {shortened(done.stderr or done.stdout) or f'{command[0]} refused'}")
    return done.stdout.strip()


def shortened(text: str) -> str:
    """Slurm's message in one line, without the command's name and without repetitions."""
    lines = [re.sub(r"^(?:\w+: )*(?:slurm_\w+ )?(?:error: |fatal: )?", "", line.strip()) for line in text.splitlines()]
    again = r"^(?:Batch job submission failed|allocation failure|Unable to allocate resources): "
    kept = [re.sub(again, "", line) for line in lines if line]
    return "; ".join(dict.fromkeys(kept))


def job(name: str) -> SlurmJob | None:
    """A job by its id (`123`, or `123_4` in an array); None where the controller has forgotten it.

    Raises:
        BadInput: the controller does not answer.
    """
    try:
        text = ask("scontrol", "show", "job", "-o", name)
    except BadInput as error:
        if re.search(r"Invalid job id|Job \S+ not found", str(error)):
            return None
        raise
    # The id of an array is also the id of one of its tasks: Slurm then prints a line for every task.
    return read_job(next((line for line in text.splitlines() if line.startswith(f"JobId={name} ")), text))


def read_job(text: str) -> SlurmJob:
    """A job from the line that `scontrol show job -o` prints."""
    line = text.partition("\n")[0]
    # A job's name and comment may hold any text: a field is recognised by its neighbours.
    state = re.search(r" JobState=(\S+) Reason=(\S*)", line)
    restarts = re.search(r" Requeue=\d+ Restarts=(\d+)", line)
    preempted = re.search(r" PreemptTime=(\S+) SuspendTime=", line)
    return SlurmJob(
        state[1] if state else "UNKNOWN",
        int(restarts[1]) if restarts else 0,
        preempted is not None and preempted[1] not in ("None", "Unknown", "N/A"),
        state[2] if state else "",
    )


def is_over(name: str) -> bool:
    """Whether the processes of a job that has run are gone for good, as far as Slurm knows."""
    try:
        found = job(name)
    except BadInput:
        return False
    return found is None or found.state not in ALIVE


def comment(name: str) -> str:
    """The comment that a job's batch script has set; the controller forgets it minutes after the job's end."""
    try:
        text = ask("scontrol", "show", "job", "-o", name)
    except BadInput:
        return ""
    found = re.search(r" Comment=(.*?)(?: \w+=|$)", text)
    return found[1].strip() if found else ""


def queue(names: Iterable[str]) -> dict[str, SlurmJob]:
    """Those of the named jobs that wait or run, by name; Slurm is asked once for all of them.

    A task of an array may be named as Slurm shows it (`123_4`) or by its own SLURM_JOB_ID (`127`). The name of an array
    (`123`) stands for all its tasks, which are found as `123_0`, `123_1`, ….

    Raises:
        BadInput: the controller does not answer.
    """
    wanted = set(names)
    if not wanted:
        return {}
    # squeue refuses a list of ids in which Slurm has forgotten one; it never refuses to list the user's jobs.
    lines = ask("squeue", "-h", "-r", "--me", "-o", "%A|%i|%T|%r").splitlines()
    rows = (line.split("|", 3) for line in lines if line.count("|") >= 3)
    found: dict[str, SlurmJob] = {}
    for own_id, name, state, reason in rows:
        for known in _named(wanted, name, own_id):
            found[known] = SlurmJob(state, reason=reason)
    return found


def ended(names: Sequence[str]) -> dict[str, SlurmJob]:
    """The last states of the named jobs from the accounting, by name as in `queue`; empty where there is none.

    The accounting is some seconds late, and has waiting and running jobs as well.
    """
    if not names or shutil.which("sacct") is None:
        return {}
    wanted, ids = set(names), ",".join(sorted({name.partition("_")[0] for name in names}))
    try:
        lines = ask("sacct", "-n", "-X", "-P", "-o", "JobID,JobIDRaw,State,ExitCode", "-j", ids).splitlines()
    except BadInput:  # no accounting here
        return {}
    found: dict[str, SlurmJob] = {}
    # Tasks that never started share a line, which may also name started tasks: the latter's own lines come later.
    for line in sorted((line for line in lines if line.count("|") == 3), key=lambda line: "[" not in line):
        job_id, own_id, state, code = line.split("|")
        status, _, signal = code.partition(":")
        reason = f"signal {signal}" if signal not in ("", "0") else f"exit status {status}"
        for name in _tasks(job_id):
            for known in _named(wanted, name, own_id):
                found[known] = SlurmJob(state.partition(" ")[0], reason=reason)
    return found


def _named(wanted: set[str], name: str, own_id: str) -> set[str]:
    """The names under which the caller looks for a job."""
    of_array = {name} if name.partition("_")[0] in wanted else set[str]()
    return of_array | (wanted & {name, own_id})


def _tasks(job_id: str) -> Iterator[str]:
    """Every task of `123_[1,3-5,8-20:4%2]`; any other id as it is."""
    parent, bracket, listed = job_id.partition("_[")
    if not bracket:
        yield job_id
    for first, last, step in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", re.sub(r"%\d+", "", listed)):
        for index in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{parent}_{index}"


def limit(name: str) -> int | None:
    """A whole number of Slurm's configuration, such as MaxArraySize; None where it is not set."""
    found = re.search(rf"^{name}\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return int(found[1]) if found else None
