"""Start local ranks where no launcher did, so that a laptop needs one command; torchrun's own agent watches them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dist_dash.errors import BadInput, require
from dist_dash.recipe.parsing import Command
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED
from dist_dash.training.grace import grace_for, signals_to_handle
from dist_dash.training.train import finished_already

MOST_RANKS = 1024  # that one machine starts
TOO_MANY = f"so small that members × replicas is at most {MOST_RANKS} on one machine; more need a launcher of their own"


def default_members() -> int:
    """One member per GPU; without a GPU one per core, at most four."""
    return torch.cuda.device_count() or min(4, os.cpu_count() or 1)


def launch_local(arguments: Sequence[str], command: Command) -> int:
    """Run `dist-dash train` on `members / members_per_rank × replicas` local ranks; returns the run's exit status.

    Args:
        arguments: of the command line, handed on to the ranks.
        command: what they say.

    Raises:
        BadInput: the run folder holds something else.
    """
    folder, replicas, per_rank = RunFolder(command.run), command.replicas or 1, command.recipe.members_per_rank
    members = command.recipe.members or per_rank * max(1, default_members() // (replicas * per_rank))
    together = 1 if command.member is not None else members
    folder.check_usable()
    if finished_already(command, together, replicas):
        return FINISHED
    ranks = together // per_rank * replicas
    require(ranks <= MOST_RANKS, "members" if together > replicas else "replicas", max(together, replicas), TOO_MANY)
    own = [f"--run={command.run}", f"--members={members}"]  # the folder's default name depends on what is given
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: no need to be reachable from others
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"dist-dash-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle=signals_to_handle(),
        **grace_for(LaunchConfig),
    )
    before = folder.owner().get("token")
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "dist_dash", "train", *arguments, *own)
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        killed = [f"rank {rank} was {_killed_by(f.exitcode)}" for rank, f in error.failures.items() if f.exitcode < 0]
        for line in killed:
            print(f"dist-dash: {line}", file=sys.stderr, flush=True)
        if folder.owner().get("token") != before:  # a rank of this launch has taken the folder
            _note_failure(folder, next(iter(killed), "rank 0 ended without a word"))
        return next((status for status in (2, TO_BE_CONTINUED) if status in statuses), 1)
    except (SignalException, KeyboardInterrupt):  # the latter where the ranks have not been started yet
        if folder.done.exists() and not command.extend:  # the mark of the shorter run may still be there
            return FINISHED
        return TO_BE_CONTINUED if folder.to_continue.exists() else 1
    return FINISHED


def _killed_by(exit_code: int) -> str:
    name = signal.Signals(-exit_code).name
    return f"killed ({name}{'; so does a system that runs out of memory' if name == 'SIGKILL' else ''})"


def _note_failure(folder: RunFolder, why: str) -> None:
    """Leave `FAILED` where rank 0, which would have, was killed; nothing where a marker or another run is there."""
    if any(marker.exists() for marker in (folder.done, folder.to_continue, folder.failed)):
        return
    with contextlib.suppress(BadInput, OSError), OwnedFolder(folder.path).held() as owned:
        owned.mark(owned.failed, why)
