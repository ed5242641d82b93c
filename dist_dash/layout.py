"""Who am I: rank → (member, replica), device, host. The only reader of the launcher's environment."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cached_property

import torch

from dist_dash.errors import BadInput, require


@dataclass(frozen=True)
class Layout:
    """`world = members × replicas`, `rank = member · replicas + replica`: a member's replicas sit side by side.

    Replicas exchange gradients (large), members exchange predictions (small). An exchange group holds the ranks of
    equal `replica`: its ranks see the same samples.
    """

    rank: int
    world: int
    members: int
    local_rank: int = 0
    local_world: int = 1

    @property
    def replicas(self) -> int:
        """Ranks that share one member."""
        return self.world // self.members

    @property
    def member(self) -> int:
        """The ensemble member that this rank trains."""
        return self.member_of(self.rank)

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
    def rendezvous(self) -> str:
        """Where the ranks meet: the launcher's store, or `DIST_DASH_RENDEZVOUS` (a `file:///…` opens no port)."""
        return os.environ.get("DIST_DASH_RENDEZVOUS", "env://")

    @property
    def job(self) -> str:
        """The Slurm job and its restart count, where there is one: it tells a requeued job from its own ghost."""
        job = os.environ.get("SLURM_JOB_ID", "")
        return f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}" if job else ""

    def member_of(self, rank: int) -> int:
        """The member that a rank trains."""
        return rank // self.replicas

    def member_ranks(self, member: int) -> list[int]:
        """The ranks that share `member`."""
        return [member * self.replicas + replica for replica in range(self.replicas)]

    def exchange_ranks(self, replica: int) -> list[int]:
        """The ranks that exchange predictions, in member order."""
        return [member * self.replicas + replica for member in range(self.members)]


def launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def ask_for_determinism() -> None:
    """Choose deterministic kernels wherever torch has them: a repeated run is then equal to the bit on a GPU too."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # no result reads it, and filling takes its time


def layout_from_environment(members: int | None) -> Layout:
    """The layout that torchrun's variables give; `members` defaults to the world size: one member per rank.

    Raises:
        BadInput: the world size is not divisible by `members`, or a variable is missing.
    """
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"environment: {error} is missing or no number; start with torchrun or `dist-dash train`"
        ) from error
    members = world if members is None else members
    require(members >= 1, "members", members, "a whole number ≥ 1")
    if world % members:
        raise BadInput(f"members: {members} does not divide the world size {world}; start a multiple of it")
    return Layout(rank, world, members, local_rank, local_world)
