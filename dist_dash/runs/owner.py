"""Who owns a run folder: one process writes there at a time, and a stale owner that was overtaken writes nothing.

An owner is stale where it is left over from an earlier life of the same Slurm job, or from a job that is over: the
ranks of a node that Slurm has lost may still be running, and may still hold their lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout

from dist_dash.errors import NOT_TO_BE_USED, BadInput, RunFailed
from dist_dash.files import locked, remove, write_atomically
from dist_dash.runs.folder import SPLITS, RunFolder


class OwnedFolder(RunFolder):
    """A run folder as the one run that writes there uses it; each change first checks that the run still owns it.

    Rank 0 takes the ownership with `acquire` or `held`. An object that never took it checks nothing.

    Args:
        path: the run's folder; need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._lock: BaseFileLock | None = None
        self._is_new = False
        self.token = uuid.uuid4().hex[:12]
        """Identifies the owner: rank 0 draws it and sends it to the other ranks."""

    # -- ownership -----------------------------------------------------------------------------------------------------

    def acquire(self, job: str = "", ended: Callable[[str], bool] = lambda job: False, patience: float = 0.0) -> None:
        """Become the one run that writes here; call on rank 0 only.

        Args:
            job: `id.restarts` of the Slurm job, where there is one.
            ended: whether the job of an id is over for good, so that an owner of that job is stale.
            patience: seconds to wait for a live owner.

        Raises:
            BadInput: another live run owns the folder.
        """
        self.check_usable()
        self._is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.lock, patience)
        except Timeout as error:
            if not self._has_stale_owner(job, ended):
                raise BadInput(
                    f"run: {self.path} is in use by {self._owner_in_words()}; stop that run or use another --run"
                ) from error
            self.lock.unlink(missing_ok=True)  # the stale owner's lock is then on a file that has no name any more
            self._lock = locked(self.lock, patience)
        except OSError as error:
            if error.errno not in NOT_TO_BE_USED:
                raise
            raise BadInput(f"run: {self.path} cannot be written to ({error.strerror}); use another --run") from error
        owner = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "job": job}
        self._write_owner({**owner, "continued": self.owner().get("continued", 0)})

    def release(self) -> None:
        """Give the folder up; remove it where it was created for this run and nothing was written into it."""
        if self._lock is not None:
            with contextlib.suppress(OSError, RunFailed):
                owner_files = [self.owner_file, self.lock]
                if self._is_new and sorted(self.path.iterdir()) == sorted(owner_files):
                    self.check_owner()
                    for file in owner_files:
                        file.unlink()
                    self.path.rmdir()
            self._lock.release()

    @contextlib.contextmanager
    def held(
        self, job: str = "", ended: Callable[[str], bool] = lambda job: False, patience: float = 0.0
    ) -> Iterator[OwnedFolder]:
        """Own the folder during the body; arguments and errors as in `acquire`."""
        self.acquire(job, ended, patience)
        try:
            yield self
        finally:
            self.release()

    def check_owner(self) -> None:
        """Make sure that no other run has taken the folder over.

        Raises:
            RunFailed: another run owns the folder now.
        """
        token = self.owner().get("token")
        if token is None:
            raise RunFailed(f"{self.owner_file} cannot be read; the run no longer owns {self.path}")
        if token != self.token:
            raise RunFailed(f"{self.path} was taken over by {self._owner_in_words()}; this run leaves it alone")

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

    # -- what the owner changes ----------------------------------------------------------------------------------------

    def note_continued(self) -> None:
        """Count that the run goes on from a checkpoint."""
        self._check_still_owned()
        owner = self.owner()
        self._write_owner({**owner, "continued": owner.get("continued", 0) + 1})

    def mark(self, marker: Path | None, why: str = "") -> None:
        """Leave `DONE`, `CONTINUE`, `FAILED` or (None) none of them; the file holds the reason in one line.

        `DONE` holds checksums.
        """
        self._check_still_owned()
        for other in (self.done, self.to_continue, self.failed):
            if other != marker:
                remove(other)
        if marker is not None:
            text = self.as_finished() if marker == self.done else why
            write_atomically(marker, f"{text}\n" if text else "")

    @contextlib.contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Leave `FAILED` with the error's message where the body fails; bad input leaves nothing."""
        try:
            yield
        except BadInput:
            raise
        except Exception as error:
            with contextlib.suppress(OSError, RunFailed):  # a full disk, a stale owner: the first error matters more
                kind = "" if isinstance(error, RunFailed | OSError) else f"{type(error).__name__}: "
                self.mark(self.failed, kind + " ".join(str(error).split()))
            raise

    def clear(self) -> None:
        """Remove everything that a run has written here; call while owning the folder."""
        self._check_still_owned()
        self.done.unlink(missing_ok=True)  # first: half of a finished run must not pass for a whole one
        self.mark(None)
        self._write_owner({**self.owner(), "continued": 0})
        self.clear_results()
        half_written = self.path.glob(".*.partial")  # by an owner that was killed
        kept = (self.checkpoints, self.snapshots, self.trace, self.tensorboard)
        for path in (*kept, self.recipe, self.environment, self.metrics, *half_written):
            remove(path)

    def clear_results(self) -> None:
        """Remove what was exported and measured at the end of a run; call while owning the folder."""
        self._check_still_owned()
        for split in SPLITS:
            remove(self.evaluation_of(split))
            remove(self.predictions_of(split))
        for path in (self.ensemble, self.flatness, self.shift, self.report, self.pictures):
            remove(path)

    def _check_still_owned(self) -> None:
        if self._lock is not None:
            self.check_owner()

    def _has_stale_owner(self, job: str, ended: Callable[[str], bool]) -> bool:
        theirs = str(self.owner().get("job") or "")
        their_id = theirs.partition(".")[0]
        if not theirs or theirs == job:
            return False
        return is_earlier_life(theirs, job) if their_id == job.partition(".")[0] else ended(their_id)

    def _write_owner(self, owner: dict[str, Any]) -> None:
        write_atomically(self.owner_file, json.dumps(owner))

    def _owner_in_words(self) -> str:
        owner = self.owner()
        job = f", job {owner['job']}" if owner.get("job") else ""
        return f"process {owner['pid']} on {owner['host']}{job}" if {"pid", "host"} <= set(owner) else "another run"


def is_earlier_life(theirs: str, ours: str) -> bool:
    """Whether a Slurm job `id.restarts` is the same job as another one, before a requeue."""
    (their_id, _, their_life), (our_id, _, our_life) = theirs.partition("."), ours.partition(".")
    return their_id == our_id and their_life.isdecimal() and int(their_life) < int(our_life or 0)


def is_held_here(lock: Path, owner: dict[str, Any]) -> bool:
    """Whether the owner of a run folder is a live process of this host that holds its lock; it keeps the lock."""
    if (owner and owner.get("host") != socket.gethostname()) or not _is_alive(owner.get("pid")):
        return False  # without trying the lock: a run that starts at this moment would find it in use
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: needs no right to write, not even over NFS
    except OSError:  # held; or this file system has no locks, and the live process is all that is known
        return True
    finally:
        os.close(descriptor)
    return False


def _is_alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)  # another user's process
    return True
