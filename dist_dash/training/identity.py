"""Members stay members: different from each other, equal among their replicas, of the same data. Checked, not hoped."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dist_dash.data.same_data import what_differs
from dist_dash.errors import BadInput, RunFailed, everywhere
from dist_dash.models.network import draws_in_training
from dist_dash.ranks.exchange import Exchange
from dist_dash.recipe.recipe import Recipe
from dist_dash.sparsity import Dense


def weights_digest(module: nn.Module) -> str:
    """Digest of every parameter and buffer of a network, to the bit."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in [*module.parameters(), *module.buffers()]:
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_members(exchange: Exchange, networks: Sequence[nn.Module], must_differ: bool) -> None:
    """Compare all ranks' weights.

    Args:
        exchange: between all ranks.
        networks: of this rank's members.
        must_differ: whether two members with equal weights are a fault.

    Raises:
        RunFailed: replicas of a member differ, or members are equal that must not be.
    """
    members = _digests(exchange, networks)
    for member, digests in enumerate(members):
        if len(set(digests)) > 1:
            ranks = exchange.layout.member_ranks(member)
            which = exchange.layout.first_member + member
            raise everywhere(RunFailed(f"member {which}: its replicas (ranks {ranks}) hold different weights"))
    if must_differ and (equal := _equal(members)):
        text = (
            f"members {equal[0]} and {equal[1]} hold the same weights; something has copied one over the other "
            "(DistributedDataParallel or DeepSpeed on the world group does)"
        )
        raise everywhere(RunFailed(text))


def check_can_differ(exchange: Exchange, networks: Sequence[nn.Module], recipe: Recipe, shape: tuple[int, ...]) -> None:
    """Refuse members that start equal, get equal updates and hence stay equal; before anything is changed.

    Args:
        exchange: between all ranks.
        networks: of this rank's members, on the host, with their initial weights.
        recipe: of the run.
        shape: of a sample.

    Raises:
        BadInput: two members are equal, and nothing in the recipe can make them differ.
    """
    if not recipe.method.exchanges or recipe.method.own_chance or type(recipe.sparsity) is not Dense:
        return
    equal = equal_members(exchange, networks)
    if equal and not any(exchange.collect(draws_in_training(networks[0], shape))):
        method = type(recipe.method).__name__
        what = f"members {equal[0]} and {equal[1]} start equal, and {method} would keep them equal"
        how = "init: own, init_noise: 0.01, or one file per member (init: [a.safetensors, b.safetensors, …])"
        raise everywhere(BadInput(f"init: {what}; use {how}"))


def equal_members(exchange: Exchange, networks: Sequence[nn.Module]) -> tuple[int, int] | None:
    """The first two members whose weights are equal to the bit; None where all differ."""
    return _equal(_digests(exchange, networks))


def check_same_data(exchange: Exchange, facts: dict[str, Any]) -> None:
    """Compare all ranks' data: a node may have a copy of its own.

    Args:
        exchange: between all ranks.
        facts: of this rank's data, see `DataFacts.as_json`.

    Raises:
        BadInput: they differ; the text names a rank that has others than rank 0, and its host.
    """
    found = exchange.collect((facts["digest"], socket.gethostname()))
    odd = next((rank for rank, (digest, _) in enumerate(found) if digest != found[0][0]), None)
    if odd is not None:
        each = exchange.collect(facts)
        what = what_differs(each[0], each[odd])
        where = f"rank {odd} on {found[odd][1]} reads other data than rank 0 on {found[0][1]}"
        raise everywhere(BadInput(f"data: {where} ({what or 'names of classes'}); all ranks must read the same"))


def _digests(exchange: Exchange, networks: Sequence[nn.Module]) -> list[list[str]]:
    """Per member, the digests of its replicas."""
    digests, layout = exchange.collect([weights_digest(network) for network in networks]), exchange.layout
    return [
        [digests[rank][member - layout.member_of(rank)] for rank in layout.member_ranks(member)]
        for member in range(layout.members)
    ]


def _equal(members: list[list[str]]) -> tuple[int, int] | None:
    firsts = [digests[0] for digests in members]
    return next(((firsts.index(d), i) for i, d in enumerate(firsts) if d in firsts[:i]), None)
