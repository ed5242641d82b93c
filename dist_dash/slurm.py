"""Asking Slurm: what a job is doing, what the cluster allows. Slurm's own words, shortened, where it refuses."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dist_dash.errors import BadInput

TIMEOUT = 60  # seconds that a busy controller is given to answer
ALIVE = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array, as Slurm sees it.

    Args:
        state: Slurm's word: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, NODE_FAIL, …
        restarts: how often it was requeued.
        preempted: whether it was told to make room.
        reason: why it waits, or ended.
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
        BadInput: it is not installed, or it refuses; in its own words.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT)
    except FileNotFoundError as error:
        raise BadInput(f"Slurm: {command[0]} is not on PATH; this is no Slurm cluster") from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"Slurm: {command[0]} did not answer within {TIMEOUT} s") from error
    if done.returncode:
        raise BadInput(f"Slurm: {shortened(done.stderr or done.stdout) or f'{command[0]} refused'}")
    return done.stdout.strip()


def shortened(words: str) -> str:
    """Slurm's complaint without the name of its command and its repetition, in one line."""
    lines = [re.sub(r"^(?:\w+: )*(?:error: |fatal: )?", "", line.strip()) for line in words.splitlines()]
    kept = [re.sub(r"^(?:Batch job submission failed|allocation failure): ", "", line) for line in lines if line]
    return "; ".join(dict.fromkeys(kept))


def job(name: str) -> Job | None:
    """A job by its id (`123`, or `123_4` in an array); None where the controller has forgotten it.

    Raises:
        BadInput: the controller does not answer.
    """
    try:
        text = ask("scontrol", "show", "job", "-o", name)
    except BadInput as error:
        if "Invalid job id" in str(error):
            return None
        raise
    facts = dict(word.split("=", 1) for word in text.splitlines()[0].split() if "=" in word)
    preempted = facts.get("PreemptTime", "None") not in ("None", "Unknown", "")
    return Job(facts.get("JobState", "UNKNOWN"), int(facts.get("Restarts", 0)), preempted, facts.get("Reason", ""))


def is_over(name: str) -> bool:
    """Whether the processes of a job that once ran are gone for good, as far as Slurm knows."""
    try:
        found = job(name)
    except BadInput:
        return False
    return found is None or found.state not in ALIVE


def requeue(name: str) -> None:
    """Put a running job back into the queue, under the same id."""
    ask("scontrol", "requeue", name)


def queue(names: Iterable[str]) -> dict[str, Job]:
    """Those of the named jobs that wait or run; one question for all of them."""
    wanted = {name.partition("_")[0] for name in names}
    if not wanted:
        return {}
    # A list of ids of which one is forgotten already is refused, all jobs of the user are not.
    lines = ask("squeue", "-h", "-r", "--me", "-o", "%F|%K|%i|%T|%r").splitlines()
    found: dict[str, Job] = {}
    for parent, index, name, state, reason in (line.split("|", 4) for line in lines):
        if parent in wanted or name in wanted:
            found[f"{parent}_{index}" if index.isdigit() else name] = Job(state, reason=reason)
    return found


def ended(names: Sequence[str]) -> dict[str, Job]:
    """The last states of the named jobs from the accounting; empty where there is none."""
    if not names or shutil.which("sacct") is None:
        return {}
    wanted = ",".join(sorted({name.partition("_")[0] for name in names}))
    try:
        lines = ask("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode", "-j", wanted).splitlines()
    except BadInput:  # no accounting here: the folders have to do
        return {}
    rows = (line.split("|", 2) for line in lines)
    return {name: Job(state.split(" ")[0], reason=f"exit status {code}") for name, state, code in rows}


def limit(name: str) -> int | None:
    """A whole number of Slurm's configuration, such as MaxArraySize; None where it is not set."""
    found = re.search(rf"^{name}\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return int(found[1]) if found else None
