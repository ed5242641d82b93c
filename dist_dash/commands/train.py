"""`dist-dash train`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.ranks.launched import Launcher
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED


def train_command(arguments: Sequence[str]) -> int:
    """Train an ensemble: on this rank where a launcher has started it, else on ranks that are started here."""
    if {"-h", "--help"} & set(arguments):
        from dist_dash.recipe.description import train_help

        print(train_help())
        return FINISHED
    from dist_dash.training.rank import stoppable, train_on_this_rank

    launcher = Launcher()
    # Listens before torch is imported, which takes seconds: a stop asked for in the meantime is not lost.
    with stoppable(speaks=launcher.rank == 0) as stop:
        if launcher.started_ranks:
            return train_on_this_rank(arguments, stop)
        from dist_dash.recipe.parsing import parse_command
        from dist_dash.training.launcher import launch_local

        command = parse_command(arguments)
    return TO_BE_CONTINUED if stop.made else launch_local(arguments, command)
