"""The resources that a job asks of Slurm, and a site's own settings: a small YAML, overridden on the command line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Le

from dist_dash.errors import MOST, BadInput, require, require_positive
from dist_dash.files import load_yaml
from dist_dash.recipe.typed import Allowed, read_yaml, typed, yaml_texts

DEFAULT = Path("slurm/site.yaml")
NOTHING = ("", "null", "~")
OF_ITS_OWN = "has a field of its own"
IN_FOLDER = "the log lies in the run folder"
DECIDED = {  # options of sbatch that would break what a job relies on, and the reason
    "nodes": f"nodes {OF_ITS_OWN}",
    "ntasks": "nodes and tasks_per_node have fields of their own",
    "ntasks-per-node": f"tasks_per_node {OF_ITS_OWN}",
    "time": f"time {OF_ITS_OWN}",
    "signal": f"warning {OF_ITS_OWN}",
    "array": "`dist-dash array` makes arrays",
    "output": IN_FOLDER,
    "error": IN_FOLDER,
    "open-mode": IN_FOLDER,
}

Whole = Annotated[int, Ge(1), Le(MOST), Allowed("a whole number ≥ 1")]
Texts = Annotated[list[str], Allowed("a list of texts, such as [A, B]")]
NamedTexts = Annotated[dict[str, str], Allowed("names and texts, such as {A: B}")]


@dataclass
class Site:
    """Resources and settings of a job: the fields of `site.yaml`, and options of the commands that submit jobs.

    Args:
        partition: of the cluster; null: its default.
        account: to be charged.
        qos: quality of service.
        constraint: features that the nodes must have.
        reservation: name of a reservation.
        exclude: nodes that must not be used.
        nodelist: nodes to use.
        nodes: number of nodes.
        gpus_per_node: number of GPUs; 0: none (ranks then compute on CPUs).
        tasks_per_node: ranks per node; null: one per GPU, or one.
        cpus_per_task: cores per rank.
        mem_gb: memory per node, in GB.
        time: limit as Slurm writes it: minutes, H:MM:SS or D-HH:MM:SS. A run that needs longer continues by itself.
        warning: seconds before the limit at which the run is asked to save.
        gpus_as: whether GPUs are requested by `--gpus-per-node` or `--gres`.
        modules: environment modules to load.
        setup: shell lines to run before the ranks start.
        environment: variables to set.
        container: command that runs another one in a container, such as `apptainer exec --nv image.sif`.
        python: interpreter on the compute nodes; null: the one that submits.
        attempts: failures in a row without progress after which a run is given up.
        sbatch: further options of sbatch, such as `{mail-type: END, exclusive: true}`.
        srun: further arguments of srun.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    nodes: Whole = 1
    gpus_per_node: Annotated[int, Ge(0), Le(MOST), Allowed("a whole number ≥ 0")] = 0
    tasks_per_node: Whole | None = None
    cpus_per_task: Whole | None = None
    mem_gb: Annotated[float | None, Allowed("a finite number > 0")] = None
    time: str = "24:00:00"
    warning: Whole = 120
    gpus_as: Annotated[Literal["gpus-per-node", "gres"], Allowed("one of gpus-per-node, gres")] = "gpus-per-node"
    modules: Texts = field(default_factory=list)
    setup: Texts = field(default_factory=list)
    environment: NamedTexts = field(default_factory=dict)
    container: str | None = None
    python: str | None = None
    attempts: Whole = 3
    sbatch: NamedTexts = field(default_factory=dict)
    srun: Texts = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mem_gb is not None:
            require_positive("mem_gb", self.mem_gb)
        for name in self.environment:
            known = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is not None
            require(known, "environment", name, "the name of a variable: letters, digits and _")
        for name in self.sbatch:
            if reason := DECIDED.get(name.replace("_", "-")):
                raise BadInput(f"sbatch: {name!r} is not allowed; {reason}")
        if self.minutes * 60 <= self.warning:
            raise BadInput(f"time: {self.time!r} is not allowed; it must be longer than the warning ({self.warning} s)")

    @property
    def ranks_per_node(self) -> int:
        """`tasks_per_node`, which defaults to one per GPU, or one."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Ranks of the whole job."""
        return self.nodes * self.ranks_per_node

    def for_ranks(self, ranks: int) -> Site:
        """The same settings for a job of another number of ranks, on as few nodes as hold them.

        Raises:
            BadInput: the ranks do not fill their nodes.
        """
        per_node = min(ranks, self.ranks_per_node)
        if ranks % per_node:
            raise BadInput(f"ranks: {ranks} per job do not fill nodes of {per_node} ranks; use a multiple of it")
        part = per_node / self.ranks_per_node
        return dataclasses.replace(
            self,
            nodes=ranks // per_node,
            tasks_per_node=per_node,
            gpus_per_node=max(1, round(self.gpus_per_node * part)) if self.gpus_per_node else 0,
            mem_gb=self.mem_gb and self.mem_gb * part,
        )

    @property
    def minutes(self) -> int:
        """The time limit in minutes, rounded up.

        Raises:
            BadInput: the limit is not written as Slurm writes it.
        """
        allowed = "minutes, H:MM:SS or D-HH:MM:SS"
        days, dash, clock = self.time.strip().rpartition("-")
        parts = clock.split(":")
        if len(parts) > 3 or not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]):
            raise BadInput(f"time: {self.time!r} is not allowed; it must be {allowed}")
        # A clock of one or two numbers begins with hours after the days, with minutes where there are no days.
        given = [int(part) for part in parts]
        hours, rest, seconds = [*([0] if not dash and len(given) < 3 else []), *given, 0, 0][:3]
        minutes = math.ceil(60 * (24 * int(days or 0) + hours) + rest + seconds / 60)
        require(minutes >= 1, "time", self.time, f"{allowed}, at least a minute")
        return minutes

    @property
    def python_command(self) -> str:
        """Shell words that start Python on a compute node."""
        return " ".join(filter(None, [self.container, shlex.quote(self.python or sys.executable)]))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser an option per field of `Site` (`--gpus-per-node 8`), and `--site FILE`."""
    parser.add_argument("--site", help=f"YAML with this site's settings (default: {DEFAULT} where it exists)")
    group = parser.add_argument_group("resources and settings, which --site may hold as well")
    lines = (Site.__doc__ or "").partition("Args:")[2].splitlines()
    texts = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    for entry in dataclasses.fields(Site):
        text = texts[entry.name].replace("%", "%%")
        group.add_argument(f"--{entry.name.replace('_', '-')}", metavar="…", help=text)


def site_from(options: argparse.Namespace) -> Site:
    """The settings of `--site`, overridden by the options that were given.

    Raises:
        BadInput: one line with the field, the value and what is allowed.
    """
    named_by, path = "site", options.site or (DEFAULT if DEFAULT.is_file() else "")
    if not options.site and (path_of_all := os.environ.get("DIST_DASH_SITE")):
        named_by, path = "DIST_DASH_SITE", path_of_all
    held = _held(named_by, Path(path)) if path else {}
    entries = {entry.name: entry for entry in dataclasses.fields(Site)}
    given = {name: text for name in entries if (text := getattr(options, name)) is not None}
    values = {n: _read(entries[n], value) if n in entries else value for n, value in {**held, **given}.items()}
    try:
        return typed(values, Site, "site", texts=True)
    except BadInput as error:
        name = str(error).partition(":")[0]
        raise BadInput(f"{error} (in {path})" if name in {*held, "site"} - {*given} else str(error)) from error


def _held(named_by: str, path: Path) -> dict[str, Any]:
    """The fields of a file, each value as the text that is written there."""
    allowed = "a YAML file with this site's settings, such as slurm/site.example.yaml"
    held = read_yaml(path, named_by, allowed, texts=True) or {}
    if not isinstance(held, dict):
        raise BadInput(f"{named_by}: {str(path)!r} is not allowed (it holds no fields); it must be {allowed}")
    return held


def _read(entry: dataclasses.Field[Any], value: Any) -> Any:
    """A text as its field takes it: YAML where that is a list or a mapping; an empty text or null for the default."""
    group: Any = None if entry.default_factory is dataclasses.MISSING else entry.default_factory
    if group and isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError):
            found = load_yaml(value, yaml_texts)
            value = found if isinstance(found, group) else value
    if value in NOTHING and (group or entry.default is None):
        return group() if group else None
    return value
