"""What a job asks of Slurm, and how a site wants to be asked: a small YAML, overridden on the command line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from dist_dash.errors import BadInput, require, require_positive

DEFAULT = Path("slurm/site.yaml")
LEAST = {"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "warning": 1, "attempts": 1}
NOTHING = ("", "null", "~")
GPUS_AS = ("gpus-per-node", "gres")
DECIDED = {  # options of sbatch that would break what a job relies on, and what to use instead
    "nodes": "nodes has a field of its own",
    "ntasks": "nodes and tasks_per_node have fields of their own",
    "ntasks-per-node": "tasks_per_node has a field of its own",
    "time": "time has a field of its own",
    "signal": "warning has a field of its own",
    "array": "`dist-dash array` makes arrays",
    "output": "the log lies in the run folder",
    "error": "the log lies in the run folder",
    "open-mode": "the log lies in the run folder",
}


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
        for name, least in LEAST.items():
            value = getattr(self, name)
            require(value is None or value >= least, name, value, f"a whole number ≥ {least}")
        if self.mem_gb is not None:
            require_positive("mem_gb", self.mem_gb)
        require(self.gpus_as in GPUS_AS, "gpus_as", self.gpus_as, f"one of {', '.join(GPUS_AS)}")
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
        """One per GPU where nothing else was said."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Of the whole job."""
        return self.nodes * self.ranks_per_node

    def for_ranks(self, ranks: int) -> Site:
        """The same for a job of fewer or more ranks, on as few nodes as hold them.

        Raises:
            BadInput: they do not fill their nodes.
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
    named_by, path = "site", options.site or (DEFAULT if DEFAULT.is_file() else "")
    if not options.site and (path_of_all := os.environ.get("DIST_DASH_SITE")):
        named_by, path = "DIST_DASH_SITE", path_of_all
    kinds = get_type_hints(Site)
    held = _held(named_by, Path(path)) if path else {}
    if unknown := sorted(set(held) - set(kinds)):
        close = difflib.get_close_matches(unknown[0], kinds)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(kinds)}"
        raise BadInput(f"{unknown[0]}: no such field; {hint} (in {path})")
    given = {name: text for name in kinds if (text := getattr(options, name)) is not None}
    try:
        return Site(**{name: _typed(name, kinds[name], value) for name, value in {**held, **given}.items()})
    except BadInput as error:
        field = str(error).partition(":")[0]
        raise BadInput(f"{error} (in {path})" if field in held and field not in given else str(error)) from error


def _held(named_by: str, path: Path) -> dict[str, Any]:
    """The fields of a file, with their values as they are written: YAML would make 86400 of 24:00:00."""
    allowed = "it must be a YAML file with this site's settings, such as slurm/site.example.yaml"
    try:
        held = yaml.load(path.read_text(), yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        text = re.sub(r"\s*in \"<\w+ string>\",", ",", str(error).partition(":\n")[0])
        problem = error.strerror if isinstance(error, OSError) else " ".join(text.split())
        raise BadInput(f"{named_by}: {str(path)!r} is not allowed ({problem}); {allowed}") from error
    if not isinstance(held or {}, dict):
        raise BadInput(f"{named_by}: {str(path)!r} is not allowed (it holds no fields); {allowed}")
    return held or {}


def _typed(name: str, kind: Any, value: Any) -> Any:
    """A value as its field wants it."""
    if kind in (list[str], dict[str, str]):
        return _group(name, list if kind == list[str] else dict, value)
    require(isinstance(value, str), name, value, "text")
    kinds = getattr(kind, "__args__", (kind,))
    if type(None) in kinds and value in NOTHING:
        return None
    try:
        return int(value) if int in kinds else float(value) if float in kinds else value
    except ValueError as error:
        allowed = f"a whole number ≥ {LEAST[name]}" if int in kinds else "a finite number > 0"
        raise BadInput(f"{name}: {value!r} is not allowed; it must be {allowed}") from error


def _group(name: str, group: type, value: Any) -> Any:
    """A list or a dictionary of texts; on the command line it is YAML."""
    found = value
    if isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError):
            found = yaml.load(value, yaml.BaseLoader)
    if found is None or found in NOTHING:
        return group()
    texts = found.values() if isinstance(found, dict) else found
    fits = isinstance(found, group) and all(isinstance(text, str) for text in texts)
    allowed = "a list of texts, such as [A, B]" if group is list else "names and texts, such as {A: B}"
    require(fits, name, value, allowed)
    return found


def _documented() -> dict[str, str]:
    """Each field's line of the class documentation."""
    lines = (Site.__doc__ or "").partition("Args:")[2].splitlines()
    pairs = (line.strip().split(": ", 1) for line in lines if ": " in line)
    return {name: text.replace("%", "%%") for name, text in pairs}


def _flags(options: dict[str, str]) -> dict[str, Any]:
    """Options of sbatch under submitit's names, or theirs would stand beside ours; true and false as flags."""
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
    # srun does not ask the job for them
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
        # A lost rank must not leave the others waiting for the time limit; but all of them may end as they like.
        "srun_args": ["--wait=30", "--kill-on-bad-exit=0", *cores, *site.srun],
        "additional_parameters": {k: v for k, v in {**further, **_flags(site.sbatch)}.items() if v is not None},
    }
    return {key: value for key, value in options.items() if value is not None}
