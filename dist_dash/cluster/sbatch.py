"""From jobs of the same resources to one batch script, in the words of sbatch and of submitit."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from dist_dash.cluster.job import FOLLOWED, TrainJob
from dist_dash.cluster.requeue import batch_lines
from dist_dash.cluster.site import Site
from dist_dash.errors import BadInput


@dataclass(frozen=True)
class JobBatch:
    """Jobs of the same resources: one batch script, an array where there are several jobs.

    Args:
        name: of the Slurm job.
        jobs: what its tasks run.
        site: resources and settings.
        logs: submitit's folder for scripts, pickles and logs, on a file system that the nodes share.
        parallel: tasks of an array that run at once; None: no limit.
    """

    name: str
    jobs: tuple[TrainJob, ...]
    site: Site
    logs: Path
    parallel: int | None = None

    def __post_init__(self) -> None:
        if "%" in str(self.logs):
            what = "it must be a path without %, which Slurm replaces by ids and names"
            raise BadInput(f"run: {str(self.logs.parent)!r} is not allowed; {what}")

    def script(self) -> str:
        """The batch script as submitit will write it."""
        command = f"{self.site.python_command} -u -m submitit.core._submit {shlex.quote(str(self.logs))}"
        count: dict[str, Any] = {"map_count": len(self.jobs)} if len(self.jobs) > 1 else {}
        return _make_sbatch_string(command=command, folder=self.logs, **self.options(), **count)

    def options(self) -> dict[str, Any]:
        """Parameters of submitit's Slurm executor."""
        after = batch_lines(self.site.python_command, f"--logs {shlex.quote(str(self.logs))}")
        options = sbatch_options(self.site, self.name, after)
        options["setup"] = [*_first_act(self.logs), *options["setup"]]
        # Where the log cannot be opened Slurm does not start the script, and gives no reason: the script opens it.
        options["additional_parameters"]["output"] = "/dev/null"
        options["array_parallelism"] = self.parallel or len(self.jobs)  # submitit's default is a limit
        return options

    def split(self, size: int) -> list[JobBatch]:
        """Batches of at most `size` jobs."""
        parts = [self.jobs[i : i + size] for i in range(0, len(self.jobs), size)]
        return [JobBatch(self.name, part, self.site, self.logs, self.parallel) for part in parts]


def _first_act(logs: Path) -> list[str]:
    """Check that this node sees the folder before it writes there; tell the ranks that the script judges their end."""
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


def _flags(options: dict[str, str]) -> dict[str, Any]:
    """Options of sbatch by submitit's names, so that they replace submitit's own; true and false as flags."""
    words = {"true": True, "": True, "false": None, "null": None}
    return {name.replace("-", "_"): words.get(value, value) for name, value in options.items()}


def sbatch_options(site: Site, name: str, after: Sequence[str]) -> dict[str, Any]:
    """The site's settings as submitit's Slurm executor names them.

    Args:
        site: the settings.
        name: of the job.
        after: shell lines for the end of the batch script.
    """
    known = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "nodes", "cpus_per_task")
    options = {key: getattr(site, key) for key in known}
    further: dict[str, Any] = {"requeue": True, "reservation": site.reservation}
    if site.gpus_per_node:
        if site.gpus_as == "gres":
            options["gres"] = f"gpu:{site.gpus_per_node}"
        else:
            options["gpus_per_node"] = site.gpus_per_node
    # srun does not take this from its job.
    cores = [f"--cpus-per-task={site.cpus_per_task}"] if site.cpus_per_task else []
    exports = {"OMP_NUM_THREADS": "${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"}
    lines = [
        f"module load {shlex.quote(module)} || {{ echo 'dist-dash: a module cannot be loaded' >&2; exit 2; }}"
        for module in site.modules
    ]
    lines += [f'export {key}="{value}"' for key, value in exports.items()]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in site.environment.items()]
    options |= {
        "job_name": name,
        "time": site.minutes,
        "ntasks_per_node": site.ranks_per_node,
        "mem": None if site.mem_gb is None else f"{math.ceil(site.mem_gb * 1024)}MB",  # 0: all
        "signal_delay_s": site.warning,
        "stderr_to_stdout": True,
        "setup": [*lines, *site.setup],
        "teardown": list(after),
        # A lost rank must not keep the others waiting until the time limit; but each may end with its own status.
        "srun_args": ["--wait=30", "--kill-on-bad-exit=0", *cores, *site.srun],
        "additional_parameters": {k: v for k, v in {**further, **_flags(site.sbatch)}.items() if v is not None},
    }
    return {key: value for key, value in options.items() if value is not None}
