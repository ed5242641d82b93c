"""How a job goes on after its step: finished, start again, or give up. The batch script asks; it outlives the ranks.

    srun …
    status=$?
    facts=$(scontrol show job -o "$job"); python -m dist_dash.cluster.requeue --status $status --facts "$facts" …

This module decides and the script acts, so that this may run in a container without Slurm. Needs no torch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_dash.errors import BadInput
from dist_dash.files import write_atomically
from dist_dash.ranks.launched import Launcher
from dist_dash.runs import slurm
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder, is_earlier_life
from dist_dash.runs.process import BAD_INPUT, FAILED, FINISHED, TO_BE_CONTINUED, OneLine, guarded

AGAIN = 85  # exit status: the batch script should requeue the job
FRUITLESS = 10  # stops in a row without a step in between after which the time limit counts as too short


@dataclass(frozen=True)
class Verdict:
    """The decision.

    Args:
        status: exit status; `AGAIN` asks for the requeue.
        why: one line for the log.
    """

    status: int
    why: str


def decide(folder: OwnedFolder, status: int, job: slurm.SlurmJob | None, mine: str, attempts: int) -> Verdict:
    """Judge a step by the marker files and by Slurm's view of the job.

    Args:
        folder: the run's.
        status: the step's exit status.
        job: as Slurm sees it now; None where Slurm could not be asked.
        mine: this life of the job, `id.restarts`.
        attempts: failures in a row without progress after which the run is given up.
    """
    again = Launcher().requeue_signals
    if folder.done.exists() and (status == FINISHED or _left_by(folder, folder.done, mine)):
        return Verdict(FINISHED, "finished")
    life = int(mine.partition(".")[2] or 0)
    if job is not None and (job.restarts != life or job.state != "RUNNING"):
        why = f"the job is {job.state} (restarts: {job.restarts}): no requeue by this life of it"
        return Verdict(_status_of_failure(status), why)
    if _left_by(folder, folder.to_continue, mine):
        reason = folder.to_continue.read_text().strip()
        if job is not None and job.preempted:
            return Verdict(AGAIN, f"preempted ({reason}), saved")
        if reason in [number.name for number in again]:
            return _after_stop(folder, mine, f"stopped by {reason}, saved")
        return Verdict(TO_BE_CONTINUED, f"stopped by {reason or 'a signal'} for good; submit it again to continue")
    if status == BAD_INPUT:
        return Verdict(BAD_INPUT, "bad input: see above")
    if job is not None and job.preempted:
        return Verdict(AGAIN, "preempted while it was starting")
    if status - 128 in again:
        return _after_stop(folder, mine, "asked to stop while it was starting")
    return _after_failure(folder, status, mine, attempts)


def _after_stop(folder: OwnedFolder, mine: str, why: str) -> Verdict:
    """Start again, unless the time limit is too short for any progress."""
    step, stops = _counted(folder, "stops")
    if stops < FRUITLESS:
        return Verdict(AGAIN, why)
    return _give_up(folder, FAILED, mine, f"stopped {stops} times in a row at step {step}: the time limit is too short")


def _after_failure(folder: OwnedFolder, status: int, mine: str, attempts: int) -> Verdict:
    """Start again, unless the run has failed too often since the last checkpoint."""
    noted = folder.failed.read_text().strip() if _left_by(folder, folder.failed, mine) else ""
    why = noted or f"the step ended with exit status {status}" + (" (killed)" if status > 128 else "")
    step, failures = _counted(folder, "failures")
    if failures < attempts:
        return Verdict(AGAIN, f"attempt {failures} of {attempts} since step {step} failed: {why}")
    why = f"{why}; given up after {attempts} attempts in a row that got no further than step {step}"
    return _give_up(folder, _status_of_failure(status), mine, why)


def _counted(folder: RunFolder, what: str) -> tuple[int, int]:
    """The step of the newest checkpoint, and how often `what` has happened since, this time included."""
    step = max(folder.checkpoint_steps(), default=0)
    file = folder.jobs / "attempts.json"
    try:
        before = json.loads(file.read_text())
        counts = {name: int(before[name]) for name in ("failures", "stops")} if before["step"] == step else {}
    except (OSError, ValueError, TypeError, KeyError):
        counts = {}
    counts[what] = counts.get(what, 0) + 1
    folder.jobs.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"step": step, "failures": 0, "stops": 0, **counts}))
    return step, counts[what]


def _give_up(folder: OwnedFolder, status: int, mine: str, why: str) -> Verdict:
    # A user who submits the run again by hand has probably fixed something: the count starts anew.
    (folder.jobs / "attempts.json").unlink(missing_ok=True)
    if _is_ours(folder, mine):
        folder.mark(folder.failed, why)
    return Verdict(status, why)


def _status_of_failure(status: int) -> int:
    """The exit status of the batch script after a failure; the step's own where the callers know its meaning."""
    return status if status in (BAD_INPUT, TO_BE_CONTINUED) else FAILED


def _is_ours(folder: RunFolder, mine: str) -> bool:
    """Whether this job owned the folder last. In a folder without an owner, FAILED alone would be a foreign file."""
    owner = str(folder.owner().get("job"))
    return owner == mine or is_earlier_life(owner, mine)


def _left_by(folder: RunFolder, marker: Path, mine: str) -> bool:
    """Whether this life left a marker; an earlier life's marker is still there where the ranks failed while starting.

    Starting ranks write `owner.json` first, and remove the markers when all of them have reached their loops.
    """
    if not marker.exists() or folder.owner().get("job", mine) != mine:
        return False
    return not folder.owner_file.exists() or marker.stat().st_mtime_ns >= folder.owner_file.stat().st_mtime_ns


def clear_results(logs: Path, job: str) -> None:
    """Remove the results of an earlier life: submitit would take them for those of the next one."""
    for stale in logs.glob(f"{job}_*_result.pkl"):
        stale.unlink(missing_ok=True)


def batch_lines(python: str, arguments: str) -> list[str]:
    """The end of a batch script: judge the step, and requeue the job where that is the verdict.

    Args:
        python: shell words that start Python on a compute node.
        arguments: of this module, beside status and facts.
    """
    return [
        "status=$?",
        # The last task's SLURM_JOB_ID is the id of the whole array: scontrol would act on all tasks.
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "job=${job:-$SLURM_JOB_ID}",
        'facts=$(scontrol show job -o "$job" 2>/dev/null | head -n 1)',
        f'{python} -m dist_dash.cluster.requeue --status "$status" --facts "$facts" {arguments}',
        "verdict=$?",
        f'[ "$verdict" -eq {AGAIN} ] || exit "$verdict"',
        'scontrol requeue "$job" && exit 0',
        'echo "dist-dash: Slurm does not requeue job $job; submit the run again to continue" >&2',
        f"exit {TO_BE_CONTINUED}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the step that this batch script has run; returns the exit status."""
    parser = OneLine(prog="python -m dist_dash.cluster.requeue")
    parser.add_argument("--status", type=int, required=True, help="exit status of srun")
    parser.add_argument("--facts", default="", help="output of `scontrol show job -o`")
    parser.add_argument("--logs", help="submitit's folder, which holds the pickled job")
    parser.add_argument("--run", help="instead: the run folder")
    parser.add_argument(
        "--attempts", type=int, default=3, help="failures in a row without progress after which a run is given up"
    )
    options = parser.parse_args(arguments)
    train_job = None if options.run else _pickled(options.logs)
    folder = OwnedFolder(options.run if train_job is None else train_job.run)
    attempts = options.attempts if train_job is None else train_job.attempts
    job = slurm.read_job(options.facts) if options.facts else None
    verdict = decide(folder, options.status, job, Launcher().job, attempts)
    if verdict.status == AGAIN and options.logs:
        clear_results(Path(options.logs), _submitit_name())
    if verdict.status == FINISHED and train_job is not None:
        train_job.join()
    print(f"dist-dash: {'requeued: ' if verdict.status == AGAIN else ''}{verdict.why}", file=sys.stderr)
    return verdict.status


def _pickled(logs: str | None) -> Any:
    """The `TrainJob` that submitit has pickled."""
    if not logs:
        raise BadInput("requeue: give --logs or --run")
    from submitit.core.utils import DelayedSubmission

    pickled = Path(logs) / f"{_submitit_name()}_submitted.pkl"
    try:
        return DelayedSubmission.load(pickled).function
    except Exception as error:  # a pickle can break in any way
        problem = getattr(error, "strerror", None) or type(error).__name__
        raise BadInput(f"requeue: {pickled} cannot be read ({problem})") from error


def _submitit_name() -> str:
    """The job's id, with its index where it belongs to an array."""
    parent, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{parent}_{index}" if parent and index else os.environ.get("SLURM_JOB_ID", "")


if __name__ == "__main__":
    sys.exit(guarded(main))
