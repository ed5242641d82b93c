"""What the runs below a folder are doing, by their folders, by this host and by Slurm. Needs no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dist_dash.errors import BadInput
from dist_dash.files import read_object
from dist_dash.runs import slurm
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.last_lines import last_lines, summarised
from dist_dash.runs.owner import is_held_here

UNDER_WAY = ("queued", "running")
Jobs = dict[str, slurm.SlurmJob]  # by name
QUIET = 600.0  # seconds without a sign after which a run on another host counts as dead


@dataclasses.dataclass(frozen=True)
class RunState:
    """What a run is doing.

    Args:
        path: its folder.
        state: `queued`, `running`, `done`, `stopped` (on purpose: the same command continues it), `failed`, or `new`.
        continued: how often it went on from a checkpoint.
        step: updates done, as far as they are recorded.
        total_steps: updates of the whole run.
        metrics: `loss` and `accuracy`, means over the members of the last window; `ensemble_accuracy` and
            `ensemble_nll` of the last evaluation; NaN where what was measured is not finite.
        job: in Slurm, `123` or `123_4`; else empty.
        why: the reason why it waits, stopped or failed, in one line.
        updated: seconds since 1970 at which `metrics.jsonl` was last written.
    """

    path: Path
    state: str
    continued: int
    step: int | None
    total_steps: int | None
    metrics: dict[str, float]
    job: str
    why: str
    updated: float | None


def find_runs(folder: Path) -> list[Path]:
    """The run folders in `folder`, itself included, in natural order; also those in another run's folder.

    Raises:
        BadInput: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise BadInput(f"folder: {folder} is {'a file' if folder.exists() else 'missing'}; it must be a folder of runs")
    found = []
    for path, folders, files in os.walk(folder):
        run = RunFolder(path)
        traces = {run.recipe.name, run.lock.name, run.owner_file.name} & set(files)
        if (traces and run.holds_run()) or (run.jobs.name in folders and run.job.exists()):
            found.append(run.path)
            own = {part.name for part in (run.checkpoints, run.ensemble, run.tensorboard, run.jobs)}
            folders[:] = set(folders) - own
        folders[:] = [name for name in folders if not name.startswith(".")]  # .venv alone has 50 000 files
    if not found:
        raise BadInput(f"folder: {folder} holds no run; it must be a run folder or have some below it")
    return sorted(found, key=lambda path: [natural(part) for part in path.parts])


class Answers:
    """Slurm's answers about jobs, kept for a while.

    Args:
        patience: seconds for which an answer is used again: Slurm serves a whole cluster.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._patience = patience
        self._known: dict[str, tuple[float, set[str], Jobs]] = {}
        self.trouble = ""
        """Why Slurm does not answer, in its own words."""

    def queued(self, names: set[str]) -> Jobs:
        """Those of the named jobs that wait or run."""
        return self._answer("queue", slurm.queue, names)

    def ended(self, names: set[str]) -> Jobs:
        """What the accounting knows of the named jobs."""
        return self._answer("accounting", lambda names: slurm.ended(sorted(names)), names)

    def _answer(self, topic: str, question: Callable[[set[str]], Jobs], names: set[str]) -> Jobs:
        if not names or not slurm.available():
            return {}
        at, asked, answer = self._known.get(topic, (-math.inf, set[str](), Jobs()))
        if not names <= asked or time.monotonic() - at >= self._patience:
            try:
                answer, self.trouble = question(names), ""
            except BadInput as error:
                answer, self.trouble = {}, str(error)
            self._known[topic] = (time.monotonic(), names, answer)
        return answer


def states(folders: Sequence[Path], answers: Answers | None = None) -> list[RunState]:
    """What each run is doing, in the order given; Slurm is asked once for all of them, where any has a job.

    Args:
        folders: of the runs.
        answers: Slurm's, for a caller that asks again and again.
    """
    answers, looks = answers or Answers(), [_Look(folder) for folder in folders]
    # Before the markers are read: a run leaves its marker first, and the queue then.
    queue = answers.queued({name for look in looks if not look.done for name in look.jobs})
    seen = [_seen(look, queue) for look in looks]
    lost = {name for look, known in zip(looks, seen, strict=True) if known is None for name in look.jobs}
    ended = {} if answers.trouble else answers.ended(lost)
    judged = [known or _unseen(look, ended, answers.trouble) for look, known in zip(looks, seen, strict=True)]
    return [_state(look, state, why, queue) for look, (state, why) in zip(looks, judged, strict=True)]


# -- evidence ----------------------------------------------------------------------------------------------------------


class _Look:
    """What a run's folder says, read once."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.owner, self.submitted = self.folder.owner(), self.folder.submitted()
        self.done = self.folder.done.exists()
        self.elsewhere = bool(self.owner) and self.owner.get("host") != socket.gethostname()
        names = (str(self.submitted.get("job")), str(self.owner.get("job")).partition(".")[0])
        self.jobs = [name for name in dict.fromkeys(names) if re.fullmatch(r"\d+(_\d+)?", name)]
        """The names by which Slurm may know the run: the submitted job's and its owner's."""

    def log(self) -> str:
        """Where the log is, as the end of a reason."""
        if not isinstance(self.submitted.get("logs"), str):
            return ""
        log = Path(self.submitted["logs"], f"{self.submitted.get('job')}_0_log.out")
        path = log if log.exists() else log.parent
        below = os.path.relpath(path)
        return f"; see {path if below.startswith('..') else below}"


def _seen(look: _Look, queue: Jobs) -> tuple[str, str] | None:
    """State and reason by this host's processes, the markers and the queue; None where these do not tell."""
    run, jobs = look.folder, {name: queue[name] for name in look.jobs if name in queue}
    held = not look.done and is_held_here(run.lock, look.owner)
    if look.done or run.done.exists():
        return "done", ""
    marker = next((file for file in (run.to_continue, run.failed) if file.exists()), None)
    alive = {name for name, job in jobs.items() if job.state in slurm.ALIVE}
    # A job that was not submitted for this run, a user's shell for example, may go on after the run has ended.
    if held or (alive and (marker is None or str(look.submitted.get("job")) in alive)):
        return "running", ""
    for job in (job for name, job in jobs.items() if name not in alive):
        return "queued", "" if job.reason == "None" else job.reason
    if marker is None:
        return None
    return "stopped" if marker == run.to_continue else "failed", " ".join(_text(marker).split())


def _unseen(look: _Look, ended: Jobs, trouble: str) -> tuple[str, str]:
    """State and reason of a run without a marker, a process or a place in the queue; the accounting may know."""
    run, jobs = look.folder, look.jobs
    if trouble and jobs and (look.elsewhere or not look.owner):
        return "running" if look.owner else "queued", trouble  # as far as is known
    own, *parts = map(_status, (run.path, run.checkpoints, run.metrics))
    at = max((status.st_mtime for status in (own, *parts) if status), default=0.0)
    fresh = look.elsewhere and time.time() - at < QUIET
    if fresh and not look.owner.get("job"):  # started by hand: how earlier jobs ended does not matter
        return "running", ""
    for name in sorted((name for name in jobs if name in ended), key=natural, reverse=True):  # the newest first
        word, reason = ended[name].state, ended[name].reason
        if word in slurm.ALIVE + slurm.WAITING:  # another user's job, or the accounting is late
            return "running" if word in slurm.ALIVE else "queued", ""
        if word != "COMPLETED":
            # The batch script leaves a comment where its node does not see the run's folder.
            comment = slurm.comment(name) if word == "FAILED" and not look.owner else ""
            why = f"{word}{f', {reason}' if word == 'FAILED' else ''}{look.log()}"
            return "failed", comment.removeprefix("dist-dash: ") or why
    # The queue holds this user's jobs alone: it says nothing about the run of another user.
    gone = bool(jobs) and slurm.available() and own is not None and own.st_uid == os.getuid()
    if fresh and not gone:
        return "running", ""
    if look.owner:
        sign = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
        return "failed", f"ended without a message (last sign of life {sign}){look.log()}"
    if gone:
        return "failed", f"job {jobs[0]} ended before the run began{look.log()}"
    return "new", f"submitted as job {jobs[0]}, which no Slurm here knows" if jobs else ""


# -- the files of a run ------------------------------------------------------------------------------------------------


def _state(look: _Look, state: str, why: str, queue: Jobs) -> RunState:
    run, names = look.folder, [*(name for name in look.jobs if name in queue), *look.jobs, ""]
    lines, status = dict[str, dict[str, Any]](), _status(run.metrics)
    if status is not None:
        with contextlib.suppress(OSError):
            lines = last_lines(run.metrics, (status.st_ino, status.st_size, status.st_mtime_ns))
    step, total = lines.get("newest", {}).get("step"), read_object(run.environment).get("total_steps")
    continued, updated = _whole(look.owner.get("continued")) or 0, status.st_mtime if status else None
    return RunState(run.path, state, continued, _whole(step), _whole(total), summarised(lines), names[0], why, updated)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # a run that starts again has just removed its marker
        return ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def natural(text: str) -> list[str | int]:
    """A key that sorts s2 before s10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))]
