"""Measure a profile on this machine: one rank of an imagined world, a few updates by each method in turn."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from dist_dash import __version__
from dist_dash.cluster.scaling.profile import JOINT, SEPARATE, Profile, deciding, name_of
from dist_dash.cluster.scaling.step_model import MethodCost, Rates
from dist_dash.data.dataset import DataSet
from dist_dash.data.loader import TrainLoader
from dist_dash.errors import BadInput
from dist_dash.member.batch import Batch, Progress
from dist_dash.member.member import Member
from dist_dash.member.parameter_groups import with_groups
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.imagined import ImaginedExchange
from dist_dash.ranks.layout import Layout, ask_for_determinism
from dist_dash.recipe.parsing import Command
from dist_dash.recipe.recipe import Recipe
from dist_dash.training.build import (
    build_network_of_member,
    check_facts,
    groups_of_parameters,
    heads_of_parameters,
    load_data,
    on_device,
    train_loader,
)

PEERS = 16  # members of the imagined world
DECODED = 256  # samples at most whose decoding is timed

Say = Callable[[str], None]


def built(recipe: Recipe, exchange: Exchange, say: Say) -> tuple[Member, DataSet, TrainLoader]:
    """This rank's member, data and loader, as `train` builds them.

    Raises:
        BadInput: what `train` would refuse.
    """
    layout = exchange.layout
    if recipe.deterministic:
        ask_for_determinism()
    data = load_data(recipe, layout, say)
    loader = train_loader(recipe, data, layout)
    total = recipe.max_steps or recipe.epochs * loader.steps_per_epoch
    check_facts(recipe, data, layout, total, loader.steps_per_epoch)
    network = build_network_of_member(recipe, data, layout, say)
    heads, groups = heads_of_parameters(recipe, layout, network), groups_of_parameters(recipe, network)
    recipe.engine.attach(network, with_groups(recipe.optimizer, groups), exchange)
    perturbed = [group is None or group.perturbed for group in groups]
    member = Member(recipe.engine, layout.identity, recipe.loader.accumulation, recipe.seed, heads, perturbed)
    recipe.sparsity.start(member)
    return member, data, loader


def measure(command: Command, steps: int, threads: int, say: Say) -> Profile:
    """A profile of the recipe.

    Args:
        command: the recipe.
        steps: updates to measure, of all methods together.
        threads: of a rank, on a CPU.
        say: takes a line for the user.

    Raises:
        BadInput: the recipe cannot be trained here.
    """
    recipe = command.recipe
    members = len(recipe.models or []) or (len(recipe.init) if isinstance(recipe.init, list) else PEERS)
    layout = Layout(rank=0, world=2 * members, members=members)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ImaginedExchange(layout, recipe.exchange) as exchange:
            process = resident()
            member, data, loader = built(recipe, exchange, say)
            progress = Progress(0, loader.steps_per_epoch, loader.steps_per_epoch, 1.0, (1.0, 1.0))
            batch = on_device(recipe, loader.assemble((0, 0)), layout, progress)
            started = time.perf_counter()
            decoding = small_batch(loader, DECODED).assemble((0, 0)).ids.numel() / (time.perf_counter() - started)
            member.engine.scale_learning_rate(0.0)  # the same update again and again
            methods: dict[str, Method] = {"SGD": SGD(), "SAM": SAM(), JOINT: DASH(ascent="joint"), SEPARATE: DASH()}
            methods[name_of(command.resolved["method"])] = recipe.method
            if recipe.loader.order != "shared":
                methods = {name: method for name, method in methods.items() if not method.exchanges}
            costs = {name: _look(method, member, batch, exchange) for name, method in methods.items()}
            rounds = max(2, round(steps / len(methods)))
            expected = rounds * sum(cost.seconds for cost in costs.values())
            say(f"plan: measuring {rounds} × {len(methods)} updates, about {expected:.0f} s")
            times, forward, backward = _timed(methods, member, batch, exchange, rounds)
            costs = {name: replace(cost, seconds=statistics.median(times[name])) for name, cost in costs.items()}
            spreads = [np.log(t) - np.log(t).mean() for t in times.values()]
            rates = Rates(
                batch=recipe.loader.batch_size,
                accumulation=recipe.loader.accumulation,
                members=members,
                threads=threads,
                on_gpu=layout.device.type == "cuda",
                forward=forward,
                backward=backward,
                merging=_merging(batch, member, exchange) / members,
                decoding=1 / decoding,
                overlaps=recipe.engine.averages,
            )
            weights = float(sum(p.nbytes for p in member.parameters))
    finally:
        torch.set_num_threads(before)
    if not recipe.engine.averages:  # the library's averaging of the descent gradient passes by the exchange
        costs = {
            name: replace(cost, averages=cost.averages + 1, averaged_bytes=cost.averaged_bytes + weights)
            for name, cost in costs.items()
        }
    return Profile(
        format=1,
        made={"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "version": __version__},
        recipe=deciding(command.resolved),
        device=torch.cuda.get_device_name(layout.device) if rates.on_gpu else f"CPU, {threads} thread(s)",
        rates=rates,
        samples=len(data.train),
        shape=list(data.shape),
        classes=data.classes,
        uint8=data.uint8,
        parameter_bytes=weights,
        process_bytes=process,
        data_bytes=float(data.facts.bytes or 0),
        jitter=float(np.sqrt(np.mean(np.concatenate(spreads) ** 2) * rounds / (rounds - 1))),
        steps=rounds * len(methods),
        methods=costs,
    )


def small_batch(loader: TrainLoader, samples: int, accumulation: int = 1) -> TrainLoader:
    """The same loader with micro-batches of at most so many samples, an even number, read in this process."""
    return TrainLoader(
        loader.data,
        batch_size=min(samples, loader.batch_size),
        accumulation=accumulation,
        sharding=loader.sharding,
        mixup=loader.mixup,
        on_bad_sample=loader.on_bad_sample,
    )


def resident() -> float:
    """Bytes of host memory that this process holds; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0.0


def _look(method: Method, member: Member, batch: Batch, exchange: ImaginedExchange) -> MethodCost:
    """One update, watched: what it passes and sends, and when it needs its peers; its time is that of a first one."""
    among, own = exchange.between_members, exchange.between_replicas
    counted = (among.gathered, among.summed, own.summed)
    earlier = [(sent.calls, sent.bytes) for sent in counted]
    exchange.awaited, exchange.watching = [], True
    try:
        began = exchange.now()
        method.update(member, batch, exchange)
        seconds = exchange.now() - began
    finally:
        exchange.watching = False
    if member.engine.skipped:
        raise BadInput("plan: the first update has no finite gradient; lower its learning rate or check the data")
    calls, sizes = zip(*((s.calls - e[0], s.bytes - e[1]) for s, e in zip(counted, earlier, strict=True)), strict=True)
    hiding = sum(asked - started for started, asked in exchange.awaited)
    meetings = sorted(min(1.0, (asked - began) / seconds) for _, asked in exchange.awaited)
    return MethodCost(
        seconds=seconds,
        forwards=member.passes.forwards,
        backwards=member.passes.backwards,
        copies=method.copies(exchange.members),
        gathers=calls[0],
        gathered_bytes=sizes[0],
        sums=calls[1],
        summed_bytes=sizes[1],
        averages=calls[2],
        averaged_bytes=sizes[2],
        hiding=hiding,
        meetings=meetings,
    )


def _timed(
    methods: dict[str, Method], member: Member, batch: Batch, exchange: ImaginedExchange, rounds: int
) -> tuple[dict[str, list[float]], float, float]:
    """Seconds of every update by method, in turn; the medians of a micro-batch's forward and of its backward."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    forwards, backwards = list[float](), list[float]()
    micro = next(iter(batch))
    for _ in range(rounds):
        for name, method in methods.items():
            began = exchange.now()
            method.update(member, batch, exchange)
            times[name].append(exchange.now() - began)
        with member.between_updates():
            began = exchange.now()
            loss = micro.loss(member.forward(micro.x))
            between = exchange.now()
            member.gradient(loss)
            forwards.append(between - began)
            backwards.append(exchange.now() - between)
    return times, statistics.median(forwards), statistics.median(backwards)


def _merging(batch: Batch, member: Member, exchange: ImaginedExchange) -> float:
    """Seconds of averaging all members' predictions of a micro-batch, what the fake all-gather copies included."""
    micro = next(iter(batch))
    with member.between_updates(), torch.no_grad():
        logits = member.forward(micro.x)
    found = list[float]()
    for _ in range(5):
        began = exchange.now()
        exchange.gather(logits).wait()
        found.append(exchange.now() - began)
    return statistics.median(found)
