"""Every path inside a run folder, atomic writes into it, and the lock of the run that owns it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dist_dash.errors import BadInput, RunFailed
from dist_dash.files import write_atomically

SPLITS = ("train", "validation", "test")

PAGE, PICTURES = "report.html", "report"  # of a run, and of a folder of runs


class RunFolder:
    """The public layout of a run on disk.

    Args:
        path: the run's folder; need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.ensemble = self.path / "ensemble"
        self.snapshots = self.path / "snapshots"
        self.trace = self.path / "trace"
        self.predictions = self.path / "predictions.npz"
        self.evaluation = self.path / "evaluation.json"
        self.flatness = self.path / "flatness.json"
        self.shift = self.path / "shift.json"
        self.report = self.path / PAGE
        self.pictures = self.path / PICTURES
        self.tensorboard = self.path / "tensorboard"
        self.done = self.path / "DONE"
        self.to_continue = self.path / "CONTINUE"
        self.failed = self.path / "FAILED"
        self.jobs = self.path / "slurm"
        self.job = self.jobs / "job.json"
        self.owner_file = self.path / "owner.json"
        self.lock = self.path / "owner.lock"
        self._lock: FileLock | None = None
        self._made = False
        self.token = uuid.uuid4().hex[:12]
        """What the owner is known by: rank 0 draws it, the other ranks are told."""

    @staticmethod
    def weights(member: int) -> str:
        """Name of a member's weights inside `ensemble/`."""
        return f"member_{member:02d}.safetensors"

    def trace_at(self, step: int) -> Path:
        """Predictions of a few samples as they were after an update."""
        return self.trace / f"step_{step:08d}.npz"

    def evaluation_of(self, split: str) -> Path:
        """Scores of a split."""
        return self.evaluation if split == "test" else self.path / f"evaluation_{split}.json"

    def predictions_of(self, split: str) -> Path:
        """Predictions of a split."""
        return self.predictions if split == "test" else self.path / f"predictions_{split}.npz"

    def member(self, index: int) -> RunFolder:
        """The run of one member that is trained alone and joined with the others in this folder afterwards."""
        return RunFolder(self.path / f"member_{index:02d}")

    def members(self) -> list[int]:
        """The members that have a run of their own in this folder, ascending."""
        numbers = {int(path.name[7:]) for path in self.path.glob("member_*") if path.name[7:].isdigit()}
        return sorted(number for number in numbers if self.member(number).path.is_dir())

    def checkpoint_steps(self) -> list[int]:
        """The steps of the checkpoint sets on disk, ascending."""
        return sorted(int(path.name[5:]) for path in self.checkpoints.glob("step_*") if path.name[5:].isdigit())

    def check_usable(self) -> None:
        """Refuse a folder that holds something else than a run.

        Raises:
            BadInput: the path is a file, or a folder with other content.
        """
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"run: {self.path} is a file; it must be a folder")
        content = set(self.path.iterdir()) if self.path.is_dir() else set()
        runs = {self.jobs, *(self.member(number).path for number in self.members())}
        if not (content <= runs or self.lock.exists()):
            raise BadInput(f"run: {self.path} holds files that are not a run's; it must be empty, new, or a run folder")

    def acquire(self, job: str = "", ended: Callable[[str], bool] = lambda job: False, patience: float = 0.0) -> None:
        """Become the one run that writes here; call on rank 0 only.

        Args:
            job: `id.restarts` of the Slurm job, where there is one.
            ended: whether a job of that name is over for good, its ranks but ghosts of a lost node.
            patience: seconds to wait for a live owner.

        Raises:
            BadInput: another live run owns the folder.
        """
        self.check_usable()
        self._made = not self.path.exists()
        self._lock = FileLock(self.lock, timeout=patience)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            if not self._is_left_by_a_ghost(job, ended):
                raise BadInput(
                    f"run: {self.path} is in use by {self._owner()}; stop that run or use another --run"
                ) from error
            self.lock.unlink(missing_ok=True)  # the ghost keeps its lock on a file that is nobody's now
            self._lock.acquire()
        except (PermissionError, NotADirectoryError, FileNotFoundError) as error:
            raise BadInput(f"run: {self.path} cannot be written to ({error.strerror}); use another --run") from error
        owner = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "job": job}
        self._write_owner({**owner, "continued": self.owner().get("continued", 0)})

    def owner(self) -> dict[str, Any]:
        """Who owns the folder, or owned it last: `token host pid job`, and how often the run was `continued`."""
        try:
            owner = json.loads(self.owner_file.read_text())
        except (OSError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def note_continued(self) -> None:
        """Count that the run goes on from a checkpoint."""
        self._still_owned()
        owner = self.owner()
        self._write_owner({**owner, "continued": owner.get("continued", 0) + 1})

    def note_job(self, job: str, logs: Path) -> None:
        """Remember the Slurm job (`123`, or `123_4` in an array) that is to run here, and the folder of its logs."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        write_atomically(self.job, json.dumps({"job": job, "logs": str(logs), "submitted": time.time()}))

    def submitted(self) -> dict[str, Any]:
        """What `note_job` wrote: `job logs submitted` (seconds since 1970); empty where nothing was submitted."""
        try:
            noted = json.loads(self.job.read_text())
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def check_owner(self) -> None:
        """Make sure that no other run has taken the folder over: ranks of a dead node may go on writing.

        Raises:
            RunFailed: another run owns the folder now.
        """
        token = self.owner().get("token")
        if token is None:
            raise RunFailed(f"{self.owner_file} cannot be read; the run no longer owns {self.path}")
        if token != self.token:
            raise RunFailed(f"{self.path} was taken over by {self._owner()}; this run leaves it alone")

    def check_shared(self, patience: float = 60.0) -> None:
        """Make sure that this rank sees the folder that rank 0 owns; call on every rank, once `token` is known.

        Args:
            patience: seconds; network file systems show a new file late.

        Raises:
            BadInput: it sees another folder, or none.
        """
        end = time.monotonic() + patience
        while self.owner().get("token") != self.token:
            if time.monotonic() > end:
                where = f"{self.path.absolute()} on {socket.gethostname()}"
                raise BadInput(f"run: {where} is not rank 0's folder; it must be on a file system that all nodes share")
            time.sleep(0.1)

    def release(self) -> None:
        """Give the folder up; one that was made for this run, in which nothing was written, goes again."""
        if self._lock is not None:
            with contextlib.suppress(OSError, RunFailed):
                owner_files = [self.owner_file, self.lock]
                if self._made and sorted(self.path.iterdir()) == sorted(owner_files):
                    self.check_owner()
                    for file in owner_files:
                        file.unlink()
                    self.path.rmdir()
            self._lock.release()

    def clear(self) -> None:
        """Remove everything that a run has written here; call while owning the folder."""
        self._still_owned()
        self.done.unlink(missing_ok=True)  # first: half of a finished run must not pass for a whole one
        self.mark(None)
        self._write_owner({**self.owner(), "continued": 0})
        for folder in (self.checkpoints, self.ensemble, self.snapshots, self.trace, self.tensorboard, self.pictures):
            if folder.exists():
                shutil.rmtree(folder)
        half_written = self.path.glob(".*.partial")  # by an owner that was killed
        results = [self.flatness, self.shift, self.report]
        for split in SPLITS:
            results += [self.evaluation_of(split), self.predictions_of(split)]
        for file in (self.recipe, self.environment, self.metrics, *results, *half_written):
            file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Leave `FAILED` where the body breaks: a list of runs can say why. Bad input leaves nothing."""
        try:
            yield
        except BadInput:
            raise
        except Exception as error:
            with contextlib.suppress(OSError, RunFailed):  # the error itself matters more, and a ghost must not speak
                self.mark(self.failed, " ".join(str(error).split()) or type(error).__name__)
            raise

    def mark(self, marker: Path | None, why: str = "") -> None:
        """Leave `DONE`, `CONTINUE`, `FAILED` or (None) none of them; the file says why in one line."""
        self._still_owned()
        for other in (self.done, self.to_continue, self.failed):
            if other != marker:
                other.unlink(missing_ok=True)
        if marker is not None:
            write_atomically(marker, f"{why}\n" if why else "")

    def _still_owned(self) -> None:
        """Check the owner where this object has ever been it: whoever has been overtaken must change nothing."""
        if self._lock is not None:
            self.check_owner()

    def _is_left_by_a_ghost(self, job: str, ended: Callable[[str], bool]) -> bool:
        """Whether the owner is an earlier life of this job, or a job that is over."""
        theirs = str(self.owner().get("job") or "")
        (our_id, _, our_life), (their_id, _, their_life) = job.partition("."), theirs.partition(".")
        if not theirs or theirs == job:
            return False
        if our_id != their_id:
            return ended(their_id)
        return their_life.isdecimal() and int(their_life) < int(our_life)

    def _write_owner(self, owner: dict[str, Any]) -> None:
        write_atomically(self.owner_file, json.dumps(owner))

    def _owner(self) -> str:
        owner = self.owner()
        job = f", job {owner['job']}" if owner.get("job") else ""
        return f"process {owner['pid']} on {owner['host']}{job}" if {"pid", "host"} <= set(owner) else "another run"
