"""From jobs to Slurm: the batch script, the trial that Slurm makes of it, the submission. All of it or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import _make_sbatch_string

from dist_dash.cluster.job import FOLLOWED, TrainJob
from dist_dash.cluster.requeue import batch_lines
from dist_dash.cluster.site import Site, sbatch_options
from dist_dash.errors import BadInput
from dist_dash.files import write_atomically
from dist_dash.runs import slurm
from dist_dash.runs.folder import RunFolder

NEVER = 1_000_000  # submitit's limit of time-outs: here it is progress that counts, see requeue.py


@dataclass(frozen=True)
class Batch:
    """Jobs that ask for the same resources: one batch script, an array where there are several.

    Args:
        name: of the Slurm job.
        jobs: what its tasks run.
        site: resources and settings.
        logs: submitit's folder: scripts, pickles, logs. On a file system that the nodes share.
        parallel: tasks of an array that run at once; None: as many as Slurm likes.
    """

    name: str
    jobs: tuple[TrainJob, ...]
    site: Site
    logs: Path
    parallel: int | None = None

    def __post_init__(self) -> None:
        if "%" in str(self.logs):
            what = "it must be a path without %, for which Slurm would put ids and names"
            raise BadInput(f"run: {str(self.logs.parent)!r} is not allowed; {what}")

    def script(self) -> str:
        """The batch script as submitit will write it."""
        command = f"{self.site.python_command} -u -m submitit.core._submit {shlex.quote(str(self.logs))}"
        count: dict[str, Any] = {"map_count": len(self.jobs)} if len(self.jobs) > 1 else {}
        return _make_sbatch_string(command=command, folder=self.logs, **self.options(), **count)

    def options(self) -> dict[str, Any]:
        """For submitit's Slurm executor."""
        after = batch_lines(self.site.python_command, f"--logs {shlex.quote(str(self.logs))}")
        options = sbatch_options(self.site, self.name, after)
        options["setup"] = [*_first_act(self.logs), *options["setup"]]
        # Slurm would not even start a script whose output has no place to go, and nobody would learn why.
        options["additional_parameters"]["output"] = "/dev/null"
        options["array_parallelism"] = self.parallel or len(self.jobs)  # submitit's default is a limit
        return options

    def split(self, size: int) -> list[Batch]:
        """Batches of at most `size` jobs."""
        parts = [self.jobs[i : i + size] for i in range(0, len(self.jobs), size)]
        return [Batch(self.name, part, self.site, self.logs, self.parallel) for part in parts]


def _first_act(logs: Path) -> list[str]:
    """Look whether this node sees the folder; only then write there. And tell the ranks that somebody follows them."""
    folder = shlex.quote(str(logs))
    unseen = f'"dist-dash: $(hostname) does not see "{folder}"; it must be on a file system that all nodes share"'
    return [
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "job=${job:-$SLURM_JOB_ID}",
        f"if ! [ -d {folder} ]; then",
        f'    scontrol update jobid="$job" comment={unseen}',
        "    exit 2",
        "fi",
        f'exec >>{folder}/"${{job}}_0_log.out" 2>&1',
        f"export {FOLLOWED}=1",
    ]


def frozen_arguments(arguments: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The arguments of `dist-dash train` without `--run` and `--fresh`, with copies of the recipes in `folder`.

    Nobody edits those while the job waits; the name says the content.
    """
    kept, words = list[str](), iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--run", "--config"):
            value = value if equals else next(words, "")
            if name == "--config" and not os.path.isfile(value):  # noqa: PTH113  # YAML itself, of any length
                kept.append(f"--config={value}")
            elif name == "--config":
                content = Path(value).read_text()
                digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
                copy = folder / f"{Path(value).stem}-{digest}.yaml"
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(copy, content)
                kept.append(f"--config={copy}")
        elif name != "--fresh":
            kept.append(word)
    return tuple(kept)


def with_members(arguments: Sequence[str], members: int) -> tuple[str, ...]:
    """The arguments of `dist-dash train`, in which the number of members that was planned is said."""
    known = any(word.partition("=")[0] == "--members" for word in arguments)
    return tuple(arguments) if known else (*arguments, f"--members={members}")


def check(batches: Sequence[Batch]) -> None:
    """Have Slurm try every batch, without submitting any.

    Raises:
        BadInput: there is no Slurm here, or it refuses; in its own words.
    """
    if not slurm.available():
        raise BadInput("Slurm: sbatch is not on PATH; --executor local runs the job here, --dry-run shows its script")
    for batch in batches:
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(batch.script())
            file.flush()
            try:
                slurm.ask("sbatch", "--test-only", file.name)
            except BadInput as error:
                if re.search(r"busy|DOWN|DRAINED", str(error)):  # it will have to wait, that is all
                    continue
                if re.search(r"configuration source|[Cc]ontact|resolve", str(error)):
                    raise BadInput(f"{error}; without a cluster, --executor local or --dry-run") from error
                raise BadInput(f"{error}{_what_there_is(batch.site)}") from error


def submit(batches: Sequence[Batch]) -> list[str]:
    """Submit all batches, or none.

    Returns:
        The name of every job, `123` or `123_4`, in the order of the batches and their jobs.

    Raises:
        BadInput: Slurm refuses one of them; those before were cancelled.
    """
    names, parents = list[str](), list[str]()
    try:
        for batch in batches:
            # The throttle holds for one array: its next part waits for it.
            after = {"dependency": f"afterany:{parents[-1]}"} if parents and batch.parallel is not None else {}
            submitted = _submit(batch, after)
            parents.append(submitted[0].partition("_")[0])
            names += submitted
        for name, (job, logs) in zip(names, [(job, b.logs) for b in batches for job in b.jobs], strict=True):
            RunFolder(job.run).note_job(name, logs)
    except BaseException:  # a full disk and Ctrl-C, too
        for parent in parents:
            slurm.ask("scancel", parent)
        raise
    return names


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Remove a folder that the body has made, where it breaks."""
    made = not folder.exists()
    try:
        yield
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _submit(batch: Batch, further: dict[str, Any]) -> list[str]:
    try:
        # submitit prints what sbatch says before it raises it.
        with contextlib.redirect_stderr(io.StringIO()):
            executor = submitit.AutoExecutor(
                batch.logs, cluster="slurm", slurm_max_num_timeout=NEVER, slurm_python=batch.site.python_command
            )
            options = {**batch.options(), **further}
            executor.update_parameters(**{f"slurm_{name}": value for name, value in options.items()})
            return [job.job_id for job in executor.submit_array(batch.jobs)]
    except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
        raise BadInput(f"Slurm: {slurm.shortened(str(error))}") from error


def _what_there_is(site: Site) -> str:
    """What the partition has, for whoever asked for more."""
    try:
        chosen = ["-p", site.partition] if site.partition else []
        rows = slurm.ask("sinfo", "-h", *chosen, "-o", "%R|%D|%c|%G").splitlines()
    except BadInput:
        return ""
    parts = (row.split("|") for row in rows)
    told = [
        f"{name}: {nodes} nodes with {cpus} CPUs, {gres.replace('(null)', 'no GPU')}"
        for name, nodes, cpus, gres in parts
    ]
    if not told:
        names = slurm.ask("sinfo", "-h", "-o", "%R").split()
        return f"; partitions here: {', '.join(names)}"
    asked = f"{site.nodes} nodes with {site.ranks_per_node} tasks"
    asked += f" and {site.gpus_per_node} GPUs" if site.gpus_per_node else ""
    return f"; asked for {asked}, partition {'; '.join(told)}"


def max_array_size() -> int:
    """How many jobs an array may have."""
    try:
        return slurm.limit("MaxArraySize") or 1001
    except BadInput:  # no Slurm to ask: the script can be shown all the same
        return 1001
