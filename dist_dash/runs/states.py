"""What the runs below a folder are doing: by their folders, by this host, and by Slurm where there is one. No torch."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dist_dash.errors import BadInput
from dist_dash.runs import slurm
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.last_lines import last_lines, parsed, summarised

UNDER_WAY = ("queued", "running")
QUIET = 600.0  # seconds without a sign after which a run on another host counts as dead


@dataclasses.dataclass(frozen=True)
class RunState:
    """What a run is doing.

    Args:
        path: its folder.
        state: `queued`, `running`, `done`, `stopped` (on purpose: the same command continues it), `failed`, or `new`.
        continued: how often it went on from a checkpoint.
        step: updates done, as far as they are written down.
        total_steps: updates of the whole run.
        metrics: `loss` and `accuracy`, means over the members of the last window; `ensemble_accuracy` and
            `ensemble_nll` of the last evaluation; NaN where what was measured is not finite.
        job: in Slurm, `123` or `123_4`; else empty.
        why: it waits, stopped or failed, in one line.
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
        trained = run.recipe.name in files and run.checkpoints.name in folders
        if trained or run.lock.name in files or (run.jobs.name in folders and run.job.exists()):
            found.append(run.path)
            own = {part.name for part in (run.checkpoints, run.ensemble, run.tensorboard, run.jobs)}
            folders[:] = set(folders) - own
        folders[:] = [name for name in folders if not name.startswith(".")]  # .venv alone has 50 000 files
    if not found:
        raise BadInput(f"folder: {folder} holds no run; it must be a run folder or have some below it")
    return sorted(found, key=lambda path: [_natural(part) for part in path.parts])


class Answers:
    """What Slurm says of jobs, asked again when it is due.

    Args:
        patience: seconds for which an answer is good: Slurm serves a whole cluster.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._patience = patience
        self._known: dict[str, tuple[float, set[str], dict[str, slurm.Job]]] = {}
        self.trouble = ""
        """Why it does not answer, in its own words."""

    def queued(self, names: set[str]) -> dict[str, slurm.Job]:
        """Those of the named jobs that wait or run."""
        return self._answer("queue", slurm.queue, names)

    def ended(self, names: set[str]) -> dict[str, slurm.Job]:
        """What the accounting says of the named jobs."""
        return self._answer("accounting", lambda names: slurm.ended(sorted(names)), names)

    def _answer(
        self, topic: str, question: Callable[[set[str]], dict[str, slurm.Job]], names: set[str]
    ) -> dict[str, slurm.Job]:
        if not names or not slurm.available():
            return {}
        at, asked, answer = self._known.get(topic, (-math.inf, set[str](), dict[str, slurm.Job]()))
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
        answers: Slurm's, for who asks again and again.
    """
    answers, looks = answers or Answers(), [_Look(folder) for folder in folders]
    # Before the markers are read: a run leaves its marker first, and the queue then.
    queue = answers.queued({name for look in looks if not look.done for name in look.jobs})
    seen = [_seen(look, queue) for look in looks]
    lost = {name for look, known in zip(looks, seen, strict=True) if known is None for name in look.jobs}
    ended = {} if answers.trouble else answers.ended(lost)
    told = [known or _unseen(look, ended, answers.trouble) for look, known in zip(looks, seen, strict=True)]
    return [_state(look, state, why, queue) for look, (state, why) in zip(looks, told, strict=True)]


# -- evidence ----------------------------------------------------------------------------------------------------------


class _Look:
    """What a run's folder says at first sight."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.owner, self.submitted = self.folder.owner(), self.folder.submitted()
        self.done = self.folder.done.exists()
        self.elsewhere = bool(self.owner) and self.owner.get("host") != socket.gethostname()
        names = (str(self.submitted.get("job")), str(self.owner.get("job")).partition(".")[0])
        self.jobs = [name for name in dict.fromkeys(names) if re.fullmatch(r"\d+(_\d+)?", name)]
        """Under which names Slurm may know the run: as it was submitted, as its owner was called."""

    def log(self) -> str:
        """Where to read on, for the end of a reason."""
        if not isinstance(self.submitted.get("logs"), str):
            return ""
        log = Path(self.submitted["logs"], f"{self.submitted.get('job')}_0_log.out")
        path = log if log.exists() else log.parent
        below = os.path.relpath(path)
        return f"; see {path if below.startswith('..') else below}"


def _seen(look: _Look, queue: dict[str, slurm.Job]) -> tuple[str, str] | None:
    """State and reason by this host's processes, the markers and the queue; None where none of them knows."""
    run, jobs = look.folder, {name: queue[name] for name in look.jobs if name in queue}
    held = not look.done and _is_held(look)
    if look.done or run.done.exists():
        return "done", ""
    marker = next((file for file in (run.to_continue, run.failed) if file.exists()), None)
    alive = {name for name, job in jobs.items() if job.state in slurm.ALIVE}
    # A job that was not submitted for this run may go on with something else when the run has ended.
    if held or (alive and (marker is None or str(look.submitted.get("job")) in alive)):
        return "running", ""
    for job in (job for name, job in jobs.items() if name not in alive):
        return "queued", "" if job.reason == "None" else job.reason
    if marker is None:
        return None
    return "stopped" if marker == run.to_continue else "failed", " ".join(_text(marker).split())


def _is_held(look: _Look) -> bool:
    """Whether a live process of this host owns the folder; takes the lock from nobody."""
    if look.elsewhere or not _lives(look.owner.get("pid")):
        return False  # without a look at the lock: a run that starts at this moment would find it in use
    try:
        descriptor = os.open(look.folder.lock, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: needs no right to write, not even over NFS
    except OSError:  # held; or this file system has no locks, and the live process is all that is known
        return True
    finally:
        os.close(descriptor)
    return False


def _lives(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def _unseen(look: _Look, ended: dict[str, slurm.Job], trouble: str) -> tuple[str, str]:
    """State and reason of a run that left no marker and is seen nowhere; the accounting may know."""
    run, jobs = look.folder, look.jobs
    if trouble and jobs and (look.elsewhere or not look.owner):
        return "running" if look.owner else "queued", trouble  # as far as is known
    at = max(map(_changed, (run.path, run.checkpoints, run.metrics)))
    fresh = look.elsewhere and time.time() - at < QUIET
    if fresh and not look.owner.get("job"):  # whatever became of jobs before
        return "running", ""
    for name in sorted((name for name in jobs if name in ended), key=_natural, reverse=True):  # the newest first
        word, reason = ended[name].state, ended[name].reason
        if word in slurm.ALIVE + slurm.WAITING:  # another user's, or the accounting lags behind
            return "running" if word in slurm.ALIVE else "queued", ""
        if word != "COMPLETED":
            told = slurm.comment(name) if word == "FAILED" and not look.owner else ""  # by the job's first act
            why = f"{word}{f', {reason}' if word == 'FAILED' else ''}{look.log()}"
            return "failed", told.removeprefix("dist-dash: ") or why
    in_vain = bool(jobs) and slurm.available() and _is_mine(run.path)  # other users' jobs are not in the queue we see
    if fresh and not in_vain:
        return "running", ""
    if look.owner:
        sign = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
        return "failed", f"ended without a word (last sign {sign}){look.log()}"
    if in_vain:
        return "failed", f"job {jobs[0]} ended before the run began{look.log()}"
    return "new", f"submitted as job {jobs[0]}, which no Slurm here knows" if jobs else ""


# -- the files of a run ------------------------------------------------------------------------------------------------


def _state(look: _Look, state: str, why: str, queue: dict[str, slurm.Job]) -> RunState:
    run, names = look.folder, [*(name for name in look.jobs if name in queue), *look.jobs, ""]
    lines, updated = dict[str, dict[str, Any]](), None
    with contextlib.suppress(OSError):
        status = run.metrics.stat()
        lines = last_lines(run.metrics, (status.st_ino, status.st_size, status.st_mtime_ns))
        updated = status.st_mtime
    step, total = lines.get("newest", {}).get("step"), parsed(_text(run.environment)).get("total_steps")
    continued = _whole(look.owner.get("continued")) or 0
    return RunState(run.path, state, continued, _whole(step), _whole(total), summarised(lines), names[0], why, updated)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_mine(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _natural(text: str) -> list[str | int]:
    """A key that sorts s2 before s10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))]
