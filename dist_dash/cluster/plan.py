"""`dist-dash plan`: from a recipe, a size and a profile to what a run will take, and why."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

from dist_dash.cluster.job_plan import JobPlan, plan_job
from dist_dash.cluster.memory import PARTS, Memory, estimate
from dist_dash.cluster.scaling.profile import SEPARATE, Profile, name_of, read_profile, straggling_of
from dist_dash.cluster.scaling.scaling_report import draw_plan, save
from dist_dash.cluster.scaling.step_model import Network, Size, Straggling, Term, every, seconds_of, terms
from dist_dash.cluster.site import Site
from dist_dash.errors import BadInput, require, require_count
from dist_dash.files import check_writable
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.recipe.typed import typed
from dist_dash.runs.record import say

Settings = TypeVar("Settings", Network, Straggling)
LEAST = 0.8  # efficiency below which a run is said not to scale any more
MOST_RANKS = 2**17  # of the search for it
SHOWN = 4  # members of the map in the table


def plan(options: argparse.Namespace, recipe_arguments: Sequence[str]) -> int:
    """Check everything, measure or read the profile, print the plan; or walk ranks.

    Args:
        options: of the command line.
        recipe_arguments: of `dist-dash train`.

    Returns:
        The exit status.

    Raises:
        BadInput: one line with the field, the value and what is allowed.
    """
    for name in ("nodes", "gpus_per_node", "cores_per_node", "steps", "every"):
        require_count(name.replace("_", "-"), getattr(options, name))
    command = parse_command(recipe_arguments)
    if command.member is not None:
        raise BadInput("member: not allowed in a plan, which is of all members; leave it out")
    job = plan_job(command, Site(nodes=options.nodes, tasks_per_node=options.gpus_per_node))
    size = Size(job.members, job.replicas, options.gpus_per_node, options.cores_per_node)
    models = command.recipe.models
    require(models is None or len(models) == size.members, "models", len(models or []), f"{size.members}, as members")
    if options.dry_run:
        return _dry_run(options, recipe_arguments, size, models)
    require(options.ranks is None, "ranks", options.ranks, "left out without --dry-run")
    network = _settings(options.network, Network, "network")
    if options.waits and options.straggling:
        raise BadInput("waits: not allowed with --straggling; give one of the two")
    sigma = straggling_of(Path(options.waits)) if options.waits else None
    sigma = sigma or _settings(options.straggling, Straggling, "straggling")
    for name in ("save_profile", "picture"):
        if given := getattr(options, name):
            check_writable(Path(given), name.replace("_", "-"))
    if options.picture:
        require(Path(options.picture).suffix in (".png", ".svg"), "picture", options.picture, "a .png or .svg file")
    profile = _profile(options, command)
    measured = "profile" if options.profile else "measured here"
    linked = "given" if options.network else "assumed"
    drawn = f"fitted to {options.waits}" if options.waits else "given" if options.straggling else "assumed"
    planned = Plan(job, size, profile, network, sigma, (measured, linked, drawn), options.every)
    if options.json:
        print(json.dumps(planned.as_json()))
    else:
        planned.show(Console(width=None if sys.stdout.isatty() else 120))
    if options.picture:
        file, own = Path(options.picture), planned.own
        sizes = [s for s in planned.along("replicas") if s.world <= 4 * size.world][-8:]
        stacks = {f"{s.members}×{s.replicas}": planned.terms(own, s) for s in sizes}
        lines = {axis: planned.efficiencies(axis) for axis in ("replicas", "members")}
        save(draw_plan(f"{own}, planned: {size.members}×{size.replicas}", stacks, lines, LEAST), file)
    return 0


def _profile(options: argparse.Namespace, command: Command) -> Profile:
    if options.profile:
        if options.save_profile:
            raise BadInput("save-profile: not allowed with --profile, which measures nothing; give one of the two")
        return read_profile(Path(options.profile), command.resolved)
    from dist_dash.cluster.measure import measure

    found = measure(command, options.steps, max(1, (os.cpu_count() or 1) // options.gpus_per_node), say)
    if options.save_profile:
        found.write(Path(options.save_profile))
    return found


def _settings(text: str | None, model: type[Settings], field: str) -> Settings:
    """`NAME=VALUE,NAME=VALUE` as the fields of a dataclass; those that are not named keep their defaults."""
    pairs = [[side.strip() for side in part.split("=")] for part in text.split(",")] if text else []
    good = all(len(pair) == 2 for pair in pairs) and len({pair[0] for pair in pairs}) == len(pairs)
    require(good, field, text, "NAME=VALUE with commas between them, each name once")
    return typed({pair[0]: pair[1] for pair in pairs}, model, field, True)


def _dry_run(options: argparse.Namespace, arguments: Sequence[str], size: Size, models: Sequence[object] | None) -> int:
    from dist_dash.cluster.walk import NOT_SHOWN, as_json, differing_ranks, walk

    ranks = differing_ranks(size, models)
    if options.ranks is not None:
        parts = options.ranks.split(",")
        good = all(re.fullmatch(r" *[0-9]{1,9} *", part) and int(part) < size.world for part in parts)
        require(good, "ranks", options.ranks, f"numbers of ranks below {size.world} with commas between them")
        ranks = sorted({int(part) for part in parts})
    found = walk(arguments, size, ranks)
    if options.json:
        print(json.dumps(as_json(size, found)))
        return 0
    table = Table(title=f"{len(ranks)} of {size.world} ranks built", title_justify="left", box=box.SIMPLE_HEAD)
    for title in ("rank", "member", "replica", "node", "part of a checkpoint set", "initial weights", "first samples"):
        table.add_column(title, justify="left")
    table.add_column("loss", justify="right")
    table.add_column("moved", justify="right")
    for one in found:
        where = [str(value) for value in (one.rank, one.member, one.replica, one.node)]
        what = one.checkpoint, one.weights[:8], " ".join(map(str, one.samples[:3])) + " …"
        table.add_row(*where, *what, f"{one.loss:.4f}", "yes" if one.moved else "NO")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table, f"The layout of all {size.world} ranks is consistent.", NOT_SHOWN, sep="\n")
    return 0


@dataclass(frozen=True)
class Plan:
    """What a run of a recipe will take.

    Args:
        job: the recipe on its ranks.
        size: of the world.
        profile: of one rank.
        network: α and β.
        sigma: of the ranks' times.
        known: where profile, network and sigma come from.
        k: of the method that ascends at every k-th update.
    """

    job: JobPlan
    size: Size
    profile: Profile
    network: Network
    sigma: Straggling
    known: tuple[str, str, str]
    k: int

    @property
    def own(self) -> str:
        """The recipe's method."""
        return name_of(self.job.command.resolved["method"])

    def terms(self, name: str, size: Size) -> list[Term]:
        """The time of an update by a method at a size."""
        rates, cost = self.profile.rates, self.profile.cost(name, size.members)
        workers = self.job.command.recipe.loader.workers
        return terms(rates, cost, size, self.network, self.sigma, workers=workers, known=self.known)

    def methods(self) -> dict[str, list[Term]]:
        """The terms of each method; besides, of SGD that ascends as DASH does at every k-th update."""
        found = {name: self.terms(name, self.size) for name in self.profile.methods}
        if SEPARATE in found:
            found[f"separate, every {self.k}th"] = every(found[SEPARATE], found["SGD"], self.k)
        return found

    @property
    def updates(self) -> int:
        """Of the whole run. Raises `BadInput` where an update needs more samples than there are."""
        recipe = self.job.command.recipe
        per_epoch = self.profile.samples // self.job.samples
        allowed = f"at most {self.profile.samples}, the samples of the training split"
        require(per_epoch > 0, "loader.batch_size", f"{self.job.samples} samples per member and update", allowed)
        return recipe.max_steps or recipe.epochs * per_epoch

    # -- memory --------------------------------------------------------------------------------------------------------

    @cached_property
    def memory(self) -> Memory:
        """Of a rank's accelerator, by the recipe's method."""
        found = self.profile
        return estimate(self.job.command.recipe, self.size.replicas, tuple(found.shape), found.classes, found.uint8)

    def memory_of(self, memory: Memory, name: str) -> float:
        """Bytes of a rank's accelerator by a method."""
        copies = self.profile.methods.get(name, self.profile.methods.get(SEPARATE))
        return memory.total - memory.method + memory.gradients * (copies.copies if copies else 0.0)

    @property
    def host_bytes(self) -> float:
        """Of a node's host: its ranks' processes, and the data in each where they lie in memory."""
        here = min(self.size.per_node, self.size.world)
        return here * (self.profile.process_bytes + self.profile.data_bytes)

    # -- where it stops ------------------------------------------------------------------------------------------------

    def along(self, axis: str) -> list[Size]:
        """Sizes that double the replicas of every member, or the members, from the fewest that do the same work."""
        own, found = self.size, list[Size]()
        alone = axis == "replicas" or not self.profile.methods[self.own].meetings
        for count in (2**power for power in range(0 if alone else 1, 18)):
            members, replicas = (own.members, count) if axis == "replicas" else (count, own.replicas)
            if members * replicas <= MOST_RANKS:
                found.append(Size(members, replicas, own.per_node, own.cores))
        return found

    def efficiencies(self, axis: str) -> dict[int, float]:
        """By ranks: the time of an update at the smallest size over that at this one; each rank does the same work."""
        times = {size.world: seconds_of(self.terms(self.own, size)) for size in self.along(axis)}
        least = times[min(times)]
        return {world: least / seconds for world, seconds in times.items()}

    def end_of(self, axis: str) -> dict[str, Any]:
        """The first size along an axis whose efficiency is below `LEAST`, and the term that has grown most."""
        sizes, efficiencies = self.along(axis), self.efficiencies(axis)
        beyond = next((s for s in sizes if efficiencies[s.world] < LEAST), None)
        if beyond is None:
            return {"axis": axis, "ranks": None, "searched": sizes[-1].world, "term": None}
        pairs = zip(self.terms(self.own, beyond), self.terms(self.own, sizes[0]), strict=True)
        grown = {now.name: now.seconds - before.seconds for now, before in pairs}
        worst = max(grown, key=lambda name: grown[name])
        efficiency = efficiencies[beyond.world]
        share = grown[worst] / sum(grown.values())
        at = {"ranks": beyond.world, "members": beyond.members, "replicas": beyond.replicas}
        return {"axis": axis, **at, "efficiency": efficiency, "term": worst, "share_of_loss": share}

    # -- showing it ----------------------------------------------------------------------------------------------------

    def results(self) -> dict[str, dict[str, Any]]:
        """By method: terms, seconds of an update, samples per second of all members, GPU-hours of the run, memory."""
        memory, updates, found = self.memory, self.updates, {}
        for name, parts in self.methods().items():
            seconds = seconds_of(parts)
            found[name] = {
                "terms": [asdict(term) for term in parts],
                "seconds": seconds,
                "samples_per_second": self.job.samples * self.size.members / seconds,
                "hours": seconds * updates / 3600,
                "gpu_hours": self.size.world * seconds * updates / 3600,
                "memory_bytes": self.memory_of(memory, name),
            }
        return found

    def notes(self) -> list[str]:
        """What a reader must know of the numbers."""
        found, network = self.profile, asdict(self.network)
        linked = ", ".join(f"{name} {value:g}" for name, value in network.items())
        source = found.made.get("from")  # of a profile that was made of other figures
        made = f"derived ({source})" if source else f"{found.steps} updates measured"
        lines = [
            f"{made}, on {found.device}, {found.made['date']}; they vary by {100 * found.jitter:.0f} %. "
            f"Network ({self.known[1]}; µs, GB/s): {linked}.",
            "Every rank of a plan is taken to be as fast as the measured one.",
        ]
        if not found.rates.on_gpu:
            lines.append("The profile is of a CPU: for GPUs, measure on one (--save-profile), and plan with --profile.")
        if self.job.command.recipe.models:
            lines.append("Measured is member 0's architecture; the slowest decides.")
        return lines

    def as_json(self) -> dict[str, Any]:
        """For a program: besides what the tables show, every rank's member, replica and node."""
        size, replicas = self.size, self.size.replicas
        return {
            "size": {**asdict(size), "ranks": size.world, "nodes": size.nodes},
            "map": [[rank // replicas, rank % replicas, rank // size.per_node] for rank in range(size.world)],
            "updates": self.updates,
            "samples_per_update": self.job.samples,
            "method": self.own,
            "methods": self.results(),
            "memory": {**asdict(self.memory), "host": self.host_bytes},
            "limits": [self.end_of(axis) for axis in ("replicas", "members")],
            "network": asdict(self.network),
            "straggling": asdict(self.sigma),
            "origins": dict(zip(("profile", "network", "straggling"), self.known, strict=True)),
            "notes": self.notes(),
        }

    def show(self, console: Console) -> None:
        """Print the tables."""
        size, results, memory = self.size, self.results(), self.memory
        samples = f"{self.job.samples} samples per member and update, {self.updates} updates"
        console.print(f"{size.world} ranks on {size.nodes} nodes: {size.members} × {size.replicas}; {samples}")
        for member in sorted({*range(min(SHOWN - 1, size.members)), size.members - 1}):
            first, last = member * size.replicas, (member + 1) * size.replicas - 1
            if member == size.members - 1 and size.members > SHOWN:
                console.print("  …")
            nodes = f"nodes {first // size.per_node} to {last // size.per_node}"
            console.print(f"  member {member}: ranks {first} to {last} (replicas 0 to {size.replicas - 1}), {nodes}")
        table = Table(title="ms per update", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for name in results:
            table.add_column(name, justify="right")
        table.add_column(f"origin ({self.own})")
        for number, term in enumerate(self.terms(self.own, size)):
            cells = [f"{1000 * found['terms'][number]['seconds']:.2f}" for found in results.values()]
            table.add_row(term.name, *cells, term.origin)
        table.add_section()
        for title, unit, field, digits in (
            ("update", 1000.0, "seconds", 2),
            ("samples/s of all members", 1.0, "samples_per_second", 0),
            ("hours of the run", 1.0, "hours", 2),
            ("GPU-hours of the run", 1.0, "gpu_hours", 1),
            ("GiB of a rank's device", 2.0**-30, "memory_bytes", 2),
        ):
            table.add_row(title, *(f"{unit * found[field]:,.{digits}f}" for found in results.values()), "")
        console.print(table)
        parts = ", ".join(f"{name} {getattr(memory, name) / 2**30:.2f}" for name in PARTS)
        console.print(f"Device, GiB, {self.own}: {parts}. Host: about {self.host_bytes / 2**30:.1f} GiB per node.")
        for axis in ("replicas", "members"):
            end = self.end_of(axis)
            if end["ranks"] is None:
                text = f"at least {100 * LEAST:.0f} % up to {end['searched']} ranks"
            else:
                at = f"{end['members']} × {end['replicas']} = {end['ranks']} ranks"
                why = f"{end['term']} ({100 * end['share_of_loss']:.0f} % of the loss)"
                text = f"below {100 * LEAST:.0f} % at {at} ({100 * end['efficiency']:.0f} %), by {why}"
            console.print(f"Efficiency with more {axis}: {text}.")
        for note in self.notes():
            console.print(note)
