"""The plan of a submission: ranks, members, replicas, batch, memory, files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dist_dash.cluster.memory import Memory, describe, estimate
from dist_dash.cluster.site import Site
from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import Command
from dist_dash.runs.folder import RunFolder


@dataclass(frozen=True)
class JobPlan:
    """One run on the ranks of a job.

    Args:
        command: the arguments of `dist-dash train`.
        site: resources and settings of the job.
        members: number of members that are trained together.
        replicas: ranks per member.
    """

    command: Command
    site: Site
    members: int
    replicas: int

    @property
    def samples(self) -> int:
        """Samples per member and update."""
        loader = self.command.recipe.loader
        return loader.batch_size * loader.accumulation * self.replicas

    def lines(self, logs: Path) -> list[tuple[str, str]]:
        """The plan as pairs of a name and a text; `logs`: submitit's folder."""
        recipe, site, loader = self.command.recipe, self.site, self.command.recipe.loader
        each = f"{site.ranks_per_node} rank{'s'[: site.ranks_per_node != 1]}"
        each += f" and {site.gpus_per_node} GPUs each" if site.gpus_per_node else " each, no GPU"
        several = f", {recipe.members_per_rank} on each rank" if recipe.members_per_rank > 1 else ""
        accumulation = f" × {loader.accumulation} micro-batches" if loader.accumulation > 1 else ""
        batch = f"{loader.batch_size} samples per rank{accumulation}, {self.samples} per member and update"
        return [
            ("method", type(recipe.method).__name__),
            ("ranks", f"{site.ranks} on {site.nodes} node{'s'[: site.nodes != 1]}, {each}"),
            ("members", f"{self.members} × {self.replicas} replica{'s'[: self.replicas != 1]}{several}"),
            ("batch", batch),
            ("memory", describe(self.memory) if self.memory else "not estimated: the data cannot be read from here"),
            ("time", f"{site.time} at a time; asked to save {site.warning} s before, then continued by itself"),
            ("files", f"{self.command.run}; logs and the recipe as it is now: {logs}"),
        ]

    @cached_property
    def memory(self) -> Memory | None:
        """The memory of a rank; None where the data cannot be read from here."""
        facts = self.command.recipe.data.outline()
        return None if facts is None else estimate(self.command.recipe, self.replicas, *facts[:3])


def plan_job(command: Command, site: Site) -> JobPlan:
    """Lay the run out on the job's ranks.

    Raises:
        BadInput: the ranks are not a multiple of the members, or make another number of replicas than the requested
            one; or the run folder holds something else.
    """
    members, per_rank = command.recipe.members, command.recipe.members_per_rank
    together = 1 if command.member is not None else (members or site.ranks * per_rank // (command.replicas or 1) or 1)
    if per_rank > 1 and site.ranks * per_rank != together:
        what = f"{site.ranks} ranks of {per_rank} members make {site.ranks * per_rank}"
        raise BadInput(f"members_per_rank: {what}, there are {together}; ask for {together // per_rank} ranks")
    if per_rank == 1 and site.ranks % together:
        what = f"{site.nodes} × {site.ranks_per_node} ranks"
        raise BadInput(f"members: {together} is not allowed; it must divide the {site.ranks} ranks ({what})")
    replicas = site.ranks * per_rank // together
    if command.replicas not in (None, replicas):
        what = f"{site.ranks} ranks for {together} members make {replicas}"
        raise BadInput(f"replicas: {command.replicas} is not allowed; {what}")
    RunFolder(command.run).check_usable()
    return JobPlan(command, site, together, replicas)


def print_plan(planned: JobPlan, logs: Path) -> None:
    """Print the plan, a line per name."""
    for name, text in planned.lines(logs):
        print(f"{name:<8} {text}")
