"""Who am I: rank → (member, replica), device, host."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from dist_dash.errors import BadInput, require_count
from dist_dash.ranks.launched import Launcher


@dataclass(frozen=True)
class Layout:
    """`world = members × replicas`, `rank = member · replicas + replica`: a member's replicas sit side by side.

    Replicas exchange gradients (large), members exchange predictions (small). An exchange group holds the ranks of
    equal `replica`: its ranks see the same samples.

    Ranks may train one member of a larger ensemble alone: `members` is 1 then, `first_member` says which one it is, and
    `ensemble` how many there are. All randomness derives from that: it becomes the member that it would be among peers.

    A rank may train several members, `members_per_rank`, that follow each other:
    `world = members / members_per_rank × replicas`.
    """

    rank: int
    world: int
    members: int
    local_rank: int = 0
    local_world: int = 1
    first_member: int = 0
    ensemble: int = 0
    members_per_rank: int = 1

    @property
    def replicas(self) -> int:
        """Ranks that share one member."""
        return self.world * self.members_per_rank // self.members

    @property
    def member(self) -> int:
        """The first member that this rank trains, counted among those that are trained together."""
        return self.member_of(self.rank)

    @property
    def own_members(self) -> range:
        """All members that this rank trains, counted likewise."""
        return range(self.member, self.member + self.members_per_rank)

    @property
    def identity(self) -> int:
        """The same member, counted in the whole ensemble: what its seeds, its architecture and its files go by."""
        return self.first_member + self.member

    @property
    def ensemble_members(self) -> int:
        """Members of the whole ensemble."""
        return self.ensemble or self.members

    @property
    def ensemble_rank(self) -> int:
        """This rank's number where the whole ensemble is trained together."""
        return self.first_member * self.replicas + self.rank

    @property
    def replica(self) -> int:
        """This rank's place among its member's replicas."""
        return self.rank % self.replicas

    @cached_property
    def device(self) -> torch.device:
        """The accelerator chosen by local rank (several ranks may share one), else the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device("cpu")

    @property
    def devices_are_shared(self) -> bool:
        """Whether several ranks use one accelerator: NCCL refuses that, the exchange then goes through host memory."""
        return torch.cuda.is_available() and self.local_world > torch.cuda.device_count()

    @property
    def backend(self) -> str:
        """`nccl` where every rank has an accelerator of its own, else `gloo`."""
        return "nccl" if self.device.type == "cuda" and not self.devices_are_shared else "gloo"

    @cached_property
    def host(self) -> str:
        """This machine's name, for messages."""
        return socket.gethostname()

    @property
    def job(self) -> str:
        """The Slurm job and its restart count, where there is one: it tells a requeued job from its earlier life."""
        return Launcher().job

    @property
    def restarted(self) -> bool:
        """Whether the launcher has started these ranks before."""
        return Launcher().restarted

    def apart(self, member: int) -> Layout:
        """The layout that one of this rank's members would find if each member had ranks of its own."""
        rank, world = member * self.replicas + self.replica, self.members * self.replicas
        return replace(self, rank=rank, world=world, members_per_rank=1)

    def member_of(self, rank: int) -> int:
        """The first member that a rank trains."""
        return rank // self.replicas * self.members_per_rank

    def identity_of(self, rank: int) -> int:
        """The first member that a rank trains, counted in the whole ensemble: what messages call it."""
        return self.first_member + self.member_of(rank)

    def member_ranks(self, member: int) -> list[int]:
        """The ranks that share `member`."""
        return [member // self.members_per_rank * self.replicas + replica for replica in range(self.replicas)]

    def exchange_ranks(self, replica: int) -> list[int]:
        """The ranks that exchange predictions, in member order."""
        return list(range(replica, self.world, self.replicas))


def ask_for_determinism(wanted: bool = True) -> None:
    """Choose deterministic kernels wherever torch has them: a repeated run is then equal to the bit on a GPU too."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # no result reads it, and filling takes its time


def ask_for_speed(wanted: bool = True) -> None:
    """On a GPU, let cuDNN try out its kernels, and make products of fp32 in TF32."""
    torch.backends.cudnn.benchmark = wanted
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if wanted else "highest")


def layout_from_environment(members: int | None, member: int | None = None, members_per_rank: int = 1) -> Layout:
    """The layout that the launcher's variables give; `members` defaults to what the ranks hold without replicas.

    Args:
        members: of the ensemble.
        member: the one that these ranks train alone; None: they train all.
        members_per_rank: how many members each rank trains.

    Raises:
        BadInput: the ranks do not hold a multiple of `members`, or a variable is missing.
    """
    place = Launcher().place
    local = {"local_rank": place.local_rank, "local_world": place.local_world}
    if member is not None:
        return Layout(place.rank, place.world, 1, first_member=member, ensemble=members or 1, **local)
    members = place.world * members_per_rank if members is None else members
    require_count("members", members)
    if members_per_rank > 1 and place.world * members_per_rank != members:
        ranks = f"{place.world} rank{'s' * (place.world > 1)} of {members_per_rank} members"
        what = f"there are {members}; start {members // members_per_rank} (a member has no replicas then)"
        raise BadInput(f"members_per_rank: {ranks} make {place.world * members_per_rank}, {what}")
    if members_per_rank == 1 and place.world % members:
        raise BadInput(f"members: {members} does not divide the world size {place.world}; start a multiple of it")
    return Layout(place.rank, place.world, members, members_per_rank=members_per_rank, **local)
