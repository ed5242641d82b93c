"""What a job asks of Slurm, and how a site wants to be asked: a small YAML, overridden on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import yaml

from dist_dash.errors import BadInput, require
from dist_dash.parsing import one_line_of

DEFAULT = Path("slurm/site.yaml")


@dataclass
class Site:
    """Resources and settings of a job.

    Args:
        partition: of the cluster; null: its default.
        account: to be charged.
        qos: quality of service.
        constraint: features that the nodes must have.
        reservation: name of a reservation.
        exclude: nodes to keep away from.
        nodelist: nodes to use.
        nodes: how many.
        gpus_per_node: how many; 0: none (ranks then compute on CPUs).
        tasks_per_node: ranks per node; null: one per GPU, or one.
        cpus_per_task: cores per rank.
        mem_gb: memory per node, in GB.
        time: limit as Slurm writes it: minutes, H:MM:SS or D-HH:MM:SS. A run that needs longer continues by itself.
        warning: seconds before the limit at which the run is told to save.
        gpus_as: whether GPUs are asked for by `--gpus-per-node` or `--gres`.
        modules: environment modules to load.
        setup: shell lines to run before the ranks start.
        environment: variables to set.
        container: command that runs another one in a container, such as `apptainer exec --nv image.sif`.
        python: interpreter on the compute nodes; null: the one that submits.
        attempts: how often in a row a run may fail without getting any further.
        sbatch: further options of sbatch, such as `{mail-type: END}`.
        srun: further arguments of srun.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    time: str = "24:00:00"
    warning: int = 120
    gpus_as: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    container: str | None = None
    python: str | None = None
    attempts: int = 3
    sbatch: dict[str, str] = field(default_factory=dict)
    srun: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("nodes", "tasks_per_node", "cpus_per_task", "warning", "attempts"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "a whole number ≥ 1")
        require(self.gpus_per_node >= 0, "gpus_per_node", self.gpus_per_node, "a whole number ≥ 0")
        require(self.mem_gb is None or self.mem_gb > 0, "mem_gb", self.mem_gb, "a number > 0")
        if self.minutes * 60 <= self.warning:
            raise BadInput(f"time: {self.time!r} is not allowed; it must be longer than the warning ({self.warning} s)")

    @property
    def ranks_per_node(self) -> int:
        """One per GPU where nothing else was said."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Of the whole job."""
        return self.nodes * self.ranks_per_node

    @property
    def minutes(self) -> int:
        """The time limit.

        Raises:
            BadInput: it is not written as Slurm writes it.
        """
        clock = r"(?:(?:(?P<H>\d+):)?(?P<M>\d+):(?P<S>\d+)|(?P<only>\d+))"
        pattern = rf"(?P<days>\d+)-(?P<h>\d+)(?::(?P<m>\d+)(?::(?P<s>\d+))?)?|{clock}"
        found = re.fullmatch(pattern, self.time.strip())
        allowed = "minutes, H:MM:SS or D-HH:MM:SS"
        if found is None:
            raise BadInput(f"time: {self.time!r} is not allowed; it must be {allowed}")
        n = {name: int(value or 0) for name, value in found.groupdict().items()}
        hours = 24 * n["days"] + n["h"] + n["H"]
        minutes = math.ceil(60 * hours + n["m"] + n["M"] + n["only"] + (n["s"] + n["S"]) / 60)
        require(minutes >= 1, "time", self.time, f"{allowed}, at least a minute")
        return minutes

    @property
    def python_command(self) -> str:
        """What starts Python on a compute node, as a shell word or several."""
        return " ".join(filter(None, [self.container, shlex.quote(self.python or sys.executable)]))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser an option per field of `Site` (`--gpus-per-node 8`), and `--site FILE`."""
    parser.add_argument("--site", help=f"YAML with this site's settings (default: {DEFAULT} where there is one)")
    group = parser.add_argument_group("resources and settings, which --site may hold as well")
    texts = _documented()
    for entry in dataclasses.fields(Site):
        group.add_argument(f"--{entry.name.replace('_', '-')}", metavar="…", help=texts[entry.name])


def site_from(options: argparse.Namespace) -> Site:
    """The settings of `--site`, overridden by the options that were given.

    Raises:
        BadInput: one line with the field, the value and what is allowed.
    """
    path = options.site or os.environ.get("DIST_DASH_SITE") or (str(DEFAULT) if DEFAULT.is_file() else None)
    parser = jsonargparse.ArgumentParser(prog="site", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Site)
    given = {entry.name: getattr(options, entry.name) for entry in dataclasses.fields(Site)}
    arguments = [f"--config={path}"] if path else []
    arguments += [f"--{name}={value}" for name, value in given.items() if value is not None]
    try:
        config = parser.parse_args(arguments)
        config.pop("config")
        return Site(**vars(parser.instantiate(config)))
    except BadInput:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError, OSError, yaml.YAMLError) as error:
        raise BadInput(f"site: {one_line_of(error, parser, arguments)}") from error


def _documented() -> dict[str, str]:
    """Each field's line of the class documentation."""
    lines = (Site.__doc__ or "").partition("Args:")[2].splitlines()
    pairs = (line.strip().split(": ", 1) for line in lines if ": " in line)
    return {name: text.replace("%", "%%") for name, text in pairs}


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
    cores = (
        [f"--cpus-per-task={site.cpus_per_task}"] if site.cpus_per_task else []
    )  # srun does not ask the job for them
    exports = {"OMP_NUM_THREADS": "${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"}
    lines = [f"module load {shlex.quote(module)}" for module in site.modules]
    lines += [f'export {key}="{value}"' for key, value in exports.items()]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in site.environment.items()]
    options |= {
        "job_name": name,
        "time": site.minutes,
        "ntasks_per_node": site.ranks_per_node,
        "mem": None if site.mem_gb is None else f"{round(site.mem_gb * 1024)}MB",
        "signal_delay_s": site.warning,
        "stderr_to_stdout": True,
        "setup": [*lines, *site.setup],
        "teardown": list(after),
        # A lost rank must not leave the others waiting for the time limit; but all of them may end as they like.
        "srun_args": ["--wait=60", "--kill-on-bad-exit=0", *cores, *site.srun],
        "additional_parameters": {k: v for k, v in {**further, **site.sbatch}.items() if v is not None},
    }
    return {key: value for key, value in options.items() if value is not None}
