"""`dist-dash train`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dist_dash.ranks.launched import Launcher
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED, say_at_once


def train_command(arguments: Sequence[str]) -> int:
    """Train an ensemble: on this rank where a launcher has started it, else on ranks that are started here."""
    if {"-h", "--help"} & set(arguments):
        from dist_dash.recipe.description import train_help

        print(train_help())
        return FINISHED
    # What torch's C++ says when a peer is lost is a page of its own frames; this project says who is missing.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    launcher = Launcher()
    # Listens before torch is imported, which takes seconds: a stop asked for in the meantime is not lost.
    with StopRequest().listening(lambda text: None if launcher.rank else say_at_once(text)) as stop:
        from dist_dash.recipe.parsing import parse_command

        command = parse_command(arguments)
        if launcher.started_ranks:
            from dist_dash.ranks.layout import layout_from_environment
            from dist_dash.training.train import train

            return train(command, layout_from_environment(command.recipe.members, command.member), stop)
        from dist_dash.training.launcher import launch_local
    return TO_BE_CONTINUED if stop.made else launch_local(arguments, command)
