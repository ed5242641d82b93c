"""The launcher's variables: torchrun's before Slurm's. Needs no torch; no other module reads these variables."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from functools import cached_property

from dist_dash.errors import BadInput

STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Each asks a run to save and to end; a request that has the whole run started again outdoes one that has not."""


@dataclass(frozen=True)
class Place:
    """This process among the ranks that were started together.

    Args:
        rank: 0 … world − 1.
        world: how many ranks there are.
        local_rank: among the ranks of this host.
        local_world: how many ranks this host has.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int


class Launcher:
    """The environment that torchrun, or `srun`, gave this process.

    Args:
        environment: the variables; by default this process's.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._variables = os.environ if environment is None else environment

    @cached_property
    def place(self) -> Place:
        """Which rank this process is.

        Raises:
            BadInput: no launcher set the variables, or their values contradict each other.
        """
        if self._torchrun:
            rank, world = self._number("RANK"), self._number("WORLD_SIZE")
            place = Place(rank, world, self._number("LOCAL_RANK", rank), self._number("LOCAL_WORLD_SIZE", world))
        else:
            rank, world = self._number("SLURM_PROCID"), self._number("SLURM_STEP_NUM_TASKS")
            place = Place(rank, world, self._number("SLURM_LOCALID"), self._tasks_here())
        if rank >= world:  # left over from another launch: this rank would wait for the others in vain
            raise self._problem("RANK" if self._torchrun else "SLURM_PROCID", f"is {rank}, but must be below {world}")
        return place

    @property
    def started_ranks(self) -> bool:
        """Whether this process is one of the ranks. A lone task of `srun` is a shell: it starts its own."""
        return self._torchrun or (self._slurm and self._variables.get("SLURM_STEP_NUM_TASKS", "1") != "1")

    @property
    def rank(self) -> int:
        """This process's rank; 0 without a launcher."""
        text = self._variables.get("RANK") or (self._variables["SLURM_PROCID"] if self._slurm else "0")
        return int(text) if text.isdecimal() else 0

    @property
    def rendezvous(self) -> str:
        """Where the ranks meet: `DIST_DASH_RENDEZVOUS` (a `file:///…` opens no port), else the launcher's store."""
        if given := self._variables.get("DIST_DASH_RENDEZVOUS"):
            return given
        return "env://" if self._torchrun or not self._slurm else f"tcp://{self._slurm_head}"

    @property
    def job(self) -> str:
        """`job.restarts` under Slurm, else empty: each life of a requeued job has another one."""
        job = self._variables.get("SLURM_JOB_ID", "")
        return f"{job}.{self._number('SLURM_RESTART_COUNT', 0)}" if job else ""

    @property
    def requeue_signals(self) -> list[signal.Signals]:
        """Those of `STOP_SIGNALS` that ask for the run to be started again: `DIST_DASH_REQUEUE_SIGNALS`, else SIGUSR2.

        Raises:
            BadInput: the variable names something else.
        """
        text = self._variables.get("DIST_DASH_REQUEUE_SIGNALS", signal.SIGUSR2.name)
        wanted = {f"SIG{name.removeprefix('SIG')}" for name in text.replace(",", " ").upper().split()}
        if unknown := sorted(wanted - {number.name for number in STOP_SIGNALS}):
            known = ", ".join(number.name for number in STOP_SIGNALS)
            what = f"DIST_DASH_REQUEUE_SIGNALS names {', '.join(unknown)}, but may only name {known}"
            raise BadInput(f"environment: {what}, separated by commas")
        return [number for number in STOP_SIGNALS if number.name in wanted]

    @property
    def _torchrun(self) -> bool:
        return "RANK" in self._variables and "WORLD_SIZE" in self._variables

    @property
    def _slurm(self) -> bool:
        # A batch script has SLURM_PROCID too, but it is no task of a step.
        return "SLURM_STEP_ID" in self._variables and "SLURM_PROCID" in self._variables

    @property
    def _slurm_head(self) -> str:
        """Host and port of rank 0.

        The port follows from the job, below those that the system hands out: jobs that run side by side have nearby
        ids, hence other ports; a requeued job has another port than the stale ranks of its earlier life.
        """
        nodes = self._variables.get("SLURM_STEP_NODELIST") or self._variables.get("SLURM_JOB_NODELIST", "")
        if not (head := first_host(nodes)):
            raise self._problem("SLURM_STEP_NODELIST", f"is {nodes!r}, but must name a host" if nodes else "is missing")
        job, step, restarts = (self._number(f"SLURM_{n}", 0) for n in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
        return f"{head}:{12000 + (job + 7919 * step + 4999 * restarts) % 18000}"

    def _tasks_here(self) -> int:
        """The number of tasks on this node: Slurm writes `2(x3),1` for 2 on each of three nodes, and 1 on the last."""
        node, text = self._number("SLURM_NODEID"), self._variables.get("SLURM_STEP_TASKS_PER_NODE", "")
        groups = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", group) for group in text.split(",")]
        if None in groups:
            what = f"is {text!r}, but must be tasks per node" if text else "is missing"
            raise self._problem("SLURM_STEP_TASKS_PER_NODE", what)
        tasks = [int(group[1]) for group in groups if group for _ in range(int(group[2] or 1))]
        return tasks[node] if node < len(tasks) else 1

    def _number(self, name: str, default: int | None = None) -> int:
        text = self._variables.get(name) or ("" if default is None else str(default))
        if not text.isdecimal():
            raise self._problem(name, f"is {text!r}, but must be a whole number" if text else "is missing")
        return int(text)

    def _problem(self, name: str, what: str) -> BadInput:
        return BadInput(f"environment: {name} {what}; start with torchrun, srun or `dist-dash train`")


def first_host(nodelist: str) -> str:
    """The first name of a list of hosts as Slurm writes it, such as `rack[1-2]n[03-07,12],spare`; empty without one."""
    # submitit's reader needs no `scontrol`, which a container may not have.
    from submitit.slurm.slurm import SlurmParseException, _parse_node_list

    try:
        return next(iter(_parse_node_list(nodelist)), "")
    except SlurmParseException:
        return ""
