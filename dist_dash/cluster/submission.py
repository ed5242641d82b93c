"""The submission of batches to Slurm: a trial first, then all of them or none."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from dist_dash.cluster.sbatch import JobBatch
from dist_dash.cluster.site import Site
from dist_dash.errors import BadInput
from dist_dash.files import write_atomically
from dist_dash.runs import slurm
from dist_dash.runs.folder import RunFolder

NEVER = 1_000_000  # submitit's limit of time-outs; requeue.py counts stops without progress instead


def frozen_arguments(arguments: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The arguments of `dist-dash train` without `--run` and `--fresh`, with copies of the recipes in `folder`.

    An edit of the recipe while the job waits does not reach the copy, whose name holds a digest of its content.
    """
    kept, words = list[str](), iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--run", "--config"):
            value = value if equals else next(words, "")
            if name == "--config" and not os.path.isfile(value):  # noqa: PTH113  # it may be YAML, of any length
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
    """The arguments of `dist-dash train`, with the planned number of members where they do not give it."""
    known = any(word.partition("=")[0] == "--members" for word in arguments)
    return tuple(arguments) if known else (*arguments, f"--members={members}")


def check(batches: Sequence[JobBatch]) -> None:
    """Have Slurm test every batch without submitting it.

    Raises:
        BadInput: there is no Slurm here, or it refuses; with Slurm's message.
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
                if re.search(r"busy|DOWN|DRAINED", str(error)):  # the job will only have to wait
                    continue
                if re.search(r"configuration source|[Cc]ontact|resolve", str(error)):
                    raise BadInput(f"{error}; without a cluster, --executor local or --dry-run") from error
                raise BadInput(f"{error}{_what_there_is(batch.site)}") from error


def submit(batches: Sequence[JobBatch]) -> list[str]:
    """Submit all batches, or none. Batches of the same name are parts of one array.

    Returns:
        The name of every job, `123` or `123_4`, in the order of the batches and their jobs.

    Raises:
        BadInput: Slurm refuses one of them; the earlier ones were cancelled.
    """
    names, newest = list[str](), dict[str, str]()
    try:
        for batch in batches:
            # The limit of parallel tasks is per array: the next part of a split array waits for this one.
            waits = batch.name in newest and batch.parallel is not None
            names += _submit(batch, {"dependency": f"afterany:{newest[batch.name]}"} if waits else {})
            newest[batch.name] = parent_of(names[-1])
        for name, (job, logs) in zip(names, [(job, b.logs) for b in batches for job in b.jobs], strict=True):
            RunFolder(job.run).note_job(name, logs)
    except BaseException:  # also a full disk, or Ctrl-C
        for parent in dict.fromkeys(map(parent_of, names)):
            slurm.ask("scancel", parent)
        raise
    return names


def parent_of(name: str) -> str:
    """The array that a job belongs to, or the job itself."""
    return name.partition("_")[0]


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Remove a folder that the body has created, where the body fails."""
    made = not folder.exists()
    try:
        yield
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _submit(batch: JobBatch, further: dict[str, Any]) -> list[str]:
    try:
        # submitit prints sbatch's message before it raises it.
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
    """The resources of the partition, as the end of a message to a user who asked for more."""
    try:
        chosen = ["-p", site.partition] if site.partition else []
        rows = slurm.ask("sinfo", "-h", *chosen, "-o", "%R|%D|%c|%G").splitlines()
    except BadInput:
        return ""
    parts = (row.split("|") for row in rows)
    partitions = [
        f"{name}: {nodes} nodes with {cpus} CPUs, {gres.replace('(null)', 'no GPU')}"
        for name, nodes, cpus, gres in parts
    ]
    if not partitions:
        names = slurm.ask("sinfo", "-h", "-o", "%R").split()
        return f"; partitions here: {', '.join(names)}"
    asked = f"{site.nodes} nodes with {site.ranks_per_node} tasks"
    asked += f" and {site.gpus_per_node} GPUs" if site.gpus_per_node else ""
    return f"; asked for {asked}, partition {'; '.join(partitions)}"


def max_array_size() -> int:
    """The number of jobs that an array may have."""
    try:
        return slurm.limit("MaxArraySize") or 1001
    except BadInput:  # there is no Slurm here, but the script can be shown
        return 1001
