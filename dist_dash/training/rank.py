"""The one way into training for a process that is a rank, whoever started it: torchrun, srun, submitit or a study.

Needs no torch until it trains: signals are heard while it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dist_dash.ranks.host import allow_open_files
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import quiet_torch, say_at_once, show_stacks_on_quit


@contextmanager
def stoppable(speaks: bool) -> Iterator[StopRequest]:
    """A process that trains, from its first moment on: requests to stop are noted, and torch's C++ keeps quiet.

    SIGQUIT shows what it is doing.

    Args:
        speaks: whether this rank says that a stop was asked for.
    """
    quiet_torch()
    show_stacks_on_quit()
    allow_open_files()
    with StopRequest().listening(say_at_once if speaks else lambda text: None) as stop:
        yield stop


def train_on_this_rank(arguments: Sequence[str], stop: StopRequest, may_start_over: bool = True) -> int:
    """`dist-dash train` on this rank; returns the run's exit status.

    Args:
        arguments: of the command line.
        stop: this rank's stop request.
        may_start_over: whether `--fresh` counts; not for a job that may be started again.
    """
    from dist_dash.ranks.layout import layout_from_environment
    from dist_dash.recipe.parsing import parse_command
    from dist_dash.training.train import train

    command = parse_command(arguments)
    command.fresh = command.fresh and may_start_over
    recipe = command.recipe
    return train(command, layout_from_environment(recipe.members, command.member, recipe.members_per_rank), stop)
