"""A dry run of chosen ranks of any world: each is built, and makes one small update, on torch's fake backend."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass

from dist_dash.cluster.measure import built, small_batch
from dist_dash.cluster.scaling.step_model import Size
from dist_dash.errors import RunFailed
from dist_dash.member.batch import Progress
from dist_dash.ranks.imagined import ImaginedExchange
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.checkpoint import CheckpointSets
from dist_dash.training.build import on_device
from dist_dash.training.identity import weights_digest

SAMPLES = 8  # of a micro-batch of the update
NOT_SHOWN = (
    "Not shown: what peers send (every collective gives back the rank's own values: the diversity is 0, members and "
    "replicas seem equal), real times, NCCL and the network, memory beyond this update, and the ranks not chosen."
)


@dataclass(frozen=True)
class Walked:
    """What a rank did.

    Args:
        rank: its number.
        member: that it trains.
        replica: of that member.
        node: on which it is.
        device: that it would take here.
        checkpoint: its part of a set.
        parameters: trainable ones.
        weights: digest of its initial weights.
        samples: ids of the first samples of its first update.
        loss: before the update.
        moved: whether the update moved the weights.
        gathers: all-gathers of predictions.
        averages: all-reduces with its replicas, those of DeepSpeed left out.
        seconds: that all of it took.
    """

    rank: int
    member: int
    replica: int
    node: int
    device: str
    checkpoint: str
    parameters: int
    weights: str
    samples: list[int]
    loss: float
    moved: bool
    gathers: int
    averages: int
    seconds: float


def layout_of(size: Size, rank: int) -> Layout:
    """Who a rank of this world is."""
    here = min(size.per_node, size.world - rank // size.per_node * size.per_node)
    return Layout(rank, size.world, size.members, rank % size.per_node, here)


def check_layout(size: Size) -> None:
    """Compare all ranks' layouts: every rank has one place, one part of a checkpoint, and symmetric groups.

    Raises:
        RunFailed: the arithmetic is wrong.
    """
    layouts = [layout_of(size, rank) for rank in range(size.world)]
    parts = {CheckpointSets.part(one.member, one.replica) for one in layouts}
    at = [one.exchange_ranks(one.replica)[one.member] == one.rank for one in layouts]
    own = [one.member_ranks(one.member)[one.replica] == one.rank for one in layouts]
    if len(parts) != size.world or not all(at) or not all(own):
        raise RunFailed(f"plan: the layout of {size.world} ranks is inconsistent")


def differing_ranks(size: Size, models: Sequence[object] | None) -> list[int]:
    """The first, the last, another replica, the first of another node, and one of each further architecture."""
    kinds: dict[str, int] = {}
    for member, model in enumerate(models or []):
        kinds.setdefault(repr((type(model), vars(model))), member * size.replicas)
    chosen = {0, size.world - 1, 1 % size.world, size.per_node % size.world, size.replicas % size.world}
    return sorted(chosen | {*kinds.values()})


def walk(arguments: Sequence[str], size: Size, ranks: Sequence[int]) -> list[Walked]:
    """Walk the ranks, one after the other; with DeepSpeed, which keeps state, each in a process of its own.

    Args:
        arguments: of the recipe.
        size: of the world.
        ranks: to walk.

    Raises:
        BadInput: what the ranks would refuse.
        RunFailed: a rank was killed.
    """
    check_layout(size)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once
    alone = hasattr(parse_command(arguments).recipe.engine, "zero")
    found = list[Walked]()
    for together in [[rank] for rank in ranks] if alone else [[*ranks]]:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            try:
                found += process.submit(walk_ranks, [*arguments], size, together).result()
            except BrokenProcessPool as error:
                what = f"the process of rank {together[0]} was killed"
                raise RunFailed(f"{what}; so does a system that runs out of memory") from error
    return found


def walk_ranks(arguments: Sequence[str], size: Size, ranks: Sequence[int]) -> list[Walked]:
    """Walk ranks in this process."""
    return [walk_rank(arguments, size, rank) for rank in ranks]


def walk_rank(arguments: Sequence[str], size: Size, rank: int) -> Walked:
    """Build this rank, and make one update with at most `SAMPLES` samples of each micro-batch."""
    began = time.perf_counter()
    recipe = parse_command(arguments).recipe
    with ImaginedExchange(layout_of(size, rank), recipe.exchange) as exchange:
        layout = exchange.layout
        member, _, loader = built(recipe, exchange, lambda text: None)
        before = weights_digest(member.engine.module)
        whole, length = loader.assemble((0, 0)).ids.flatten().tolist(), loader.steps_per_epoch
        small = small_batch(loader, SAMPLES, recipe.loader.accumulation)
        total = recipe.max_steps or recipe.epochs * length
        with closing(small(0, 0)) as batches:
            progress = Progress(0, total, length, 1.0, recipe.schedule.rate_range(length, total))
            measured = recipe.method.update(member, on_device(recipe, next(batches), layout, progress), exchange)
        loss = float(measured["loss"]) if "loss" in measured else math.nan
        return Walked(
            rank=rank,
            member=layout.member,
            replica=layout.replica,
            node=rank // size.per_node,
            device=str(layout.device),
            checkpoint=CheckpointSets.part(layout.member, layout.replica),
            parameters=sum(p.numel() for p in member.parameters),
            weights=before,
            samples=whole[:4],
            loss=loss,
            moved=weights_digest(member.engine.module) != before,
            gathers=exchange.between_members.gathered.calls,
            averages=exchange.between_replicas.summed.calls,
            seconds=time.perf_counter() - began,
        )


def as_json(size: Size, found: Sequence[Walked]) -> dict[str, object]:
    """For a program."""
    return {"size": asdict(size), "ranks": [asdict(one) for one in found], "not_shown": NOT_SHOWN}
