"""Where everything of a run lies on disk: the names of its files and folders. `owner.py` says who may write there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dist_dash.errors import BadInput
from dist_dash.files import digest_of, parse_object, read_object, write_atomically

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
        numbers = {int(path.name[7:]) for path in self.path.glob("member_*") if path.name[7:].isdecimal()}
        return sorted(number for number in numbers if self.member(number).path.is_dir())

    def checkpoint_steps(self) -> list[int]:
        """The steps of the checkpoint sets on disk, ascending."""
        return sorted(int(path.name[5:]) for path in self.checkpoints.glob("step_*") if path.name[5:].isdecimal())

    def check_usable(self) -> None:
        """Refuse a folder that holds something other than a run.

        Raises:
            BadInput: the path is a file, or a folder with other content.
        """
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"run: {self.path} is a file; it must be a folder")
        content = set(self.path.iterdir()) if self.path.is_dir() else set()
        runs = {self.jobs, *(self.member(number).path for number in self.members())}
        if not (content <= runs or self.holds_run()):
            raise BadInput(f"run: {self.path} holds files that are not a run's; it must be empty, new, or a run folder")

    def is_one_run(self) -> bool:
        """Whether this is a run, not a folder of them: also where its recipe is lost."""
        return self.recipe.exists() or self.done.exists()

    def holds_run(self) -> bool:
        """Whether a run has been here: by what it leaves. Its lock is gone where the file system has no locks."""
        return self.lock.exists() or "token" in self.owner() or (self.recipe.exists() and self.checkpoints.is_dir())

    def as_finished(self) -> str:
        """The content of `DONE`: checksums of those files of a finished run that cannot hold their own."""
        files = [file for file in (self.recipe, self.metrics) if file.exists()]
        return json.dumps({file.name: digest_of(file) for file in files})

    def check_as_finished(self, file: Path) -> None:
        """Refuse a file that is not as it was when the run was finished; the `DONE` of earlier versions says nothing.

        Raises:
            BadInput: it has changed.
        """
        noted = read_object(self.done).get(file.name)
        if noted is not None and file.is_file() and digest_of(file) != noted:
            raise BadInput(f"run: {file} has changed since the run was finished; if that is meant, empty {self.done}")

    def lines(self) -> list[dict[str, Any]]:
        """The record of a finished run: every line of `metrics.jsonl`, each with its `kind` and `step`.

        Raises:
            BadInput: it is missing or damaged.
        """
        self.check_as_finished(self.metrics)
        try:
            found = [record_line(line) for line in self.metrics.read_bytes().splitlines()]
        except OSError as error:
            raise BadInput(f"run: {self.metrics} cannot be read ({error.strerror})") from error
        if {} in found:
            number = found.index({}) + 1
            raise BadInput(f"run: {self.metrics} is damaged in line {number}; it must be an object of kind and step")
        return found

    def owner(self) -> dict[str, Any]:
        """Who owns the folder, or owned it last: `token host pid job`, and how often the run was `continued`.

        What is of another type than it was written with is left out.
        """
        kinds = {"token": str, "host": str, "job": str, "pid": int, "continued": int}
        return {name: v for name, v in read_object(self.owner_file).items() if type(v) is kinds.get(name, type(v))}

    def note_job(self, job: str, logs: Path) -> None:
        """Note which Slurm job (`123`, or `123_4` in an array) will run here, and the folder of its logs."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        write_atomically(self.job, json.dumps({"job": job, "logs": str(logs), "submitted": time.time()}))

    def submitted(self) -> dict[str, Any]:
        """What `note_job` wrote: `job logs submitted` (seconds since 1970); empty where nothing was submitted."""
        return read_object(self.job)


def record_line(text: bytes) -> dict[str, Any]:
    """A line of `metrics.jsonl`; empty where it is none."""
    found = parse_object(text)
    return found if isinstance(found.get("kind"), str) and isinstance(found.get("step"), int) else {}
