"""Members stay members: different from each other, equal among their replicas. Checked, not hoped."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from dist_dash.errors import RunFailed, everywhere
from dist_dash.exchange import Exchange


def weights_digest(module: nn.Module) -> str:
    """Digest of every parameter and buffer of a network, to the bit."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in [*module.parameters(), *module.buffers()]:
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_members(exchange: Exchange, module: nn.Module, must_differ: bool) -> None:
    """Compare all ranks' weights.

    Args:
        exchange: between all ranks.
        module: this rank's network.
        must_differ: whether two members with equal weights are a fault.

    Raises:
        RunFailed: replicas of a member differ, or members are equal that must not be.
    """
    layout = exchange.layout
    digests = exchange.collect(weights_digest(module))
    for member in range(layout.members):
        ranks = layout.member_ranks(member)
        if len({digests[rank] for rank in ranks}) > 1:
            raise everywhere(RunFailed(f"member {member}: its replicas (ranks {ranks}) hold different weights"))
    firsts = [digests[layout.member_ranks(member)[0]] for member in range(layout.members)]
    for member, digest in enumerate(firsts):
        if must_differ and digest in firsts[:member]:
            text = (
                f"members {firsts.index(digest)} and {member} hold the same weights; something has copied one over the "
                "other (DistributedDataParallel or DeepSpeed on the world group does)"
            )
            raise everywhere(RunFailed(text))


def equal_members(exchange: Exchange, module: nn.Module) -> tuple[int, int] | None:
    """The first two members whose weights are equal to the bit; None where all differ."""
    layout = exchange.layout
    digests = exchange.collect(weights_digest(module))
    firsts = [digests[layout.member_ranks(member)[0]] for member in range(layout.members)]
    return next(((firsts.index(d), i) for i, d in enumerate(firsts) if d in firsts[:i]), None)
