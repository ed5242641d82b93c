"""The means that one line of the record holds."""

from __future__ import annotations

import torch

from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.runs.record import Window
from tests.support.ranks import on_ranks

UPDATES = [{"loss": 1.0, "rise": 3.0}, {"loss": 2.0}, {"loss": 6.0}, {"loss": 7.0, "rise": 5.0}]


def lines(stop_after: int | None) -> list[dict[str, list[float]]]:
    """Two lines of the same updates; the state is handed to another window after so many."""
    with Exchange(layout_from_environment(1), deadline=60) as exchange:
        window, found = Window(exchange), []
        for number, update in enumerate(UPDATES + UPDATES[1:3], 1):
            window.add({name: torch.tensor(value) for name, value in update.items()}, [number == 1])
            if number == stop_after:
                states, window = window.states(), Window(exchange)
                window.load_state(states)
            if number in (4, 6):
                found.append({k: v for k, v in window.close().items() if k in ("loss", "rise", "skipped")})
    return found


def test_a_mean_is_that_of_the_updates_that_measured_it() -> None:
    (found,) = on_ranks(1, lines, None)
    assert found == [{"loss": [4.0], "rise": [4.0], "skipped": [0.25]}, {"loss": [4.0], "skipped": [0.0]}]
    for stop in (1, 2, 3, 4):
        assert on_ranks(1, lines, stop) == [found]


def old(_: int) -> dict[str, list[float]]:
    with Exchange(layout_from_environment(1), deadline=60) as exchange:
        window = Window(exchange)
        sums = torch.tensor([8.0], dtype=torch.float64)
        window.load_state(
            [{"names": ["loss"], "steps": 2, "sums": sums, "host_names": ["skipped"], "host_sums": [0.0]}]
        )
        window.add({"loss": torch.tensor(1.0)}, [False])
        return window.close()


def test_a_state_of_an_earlier_version_is_read() -> None:
    (found,) = on_ranks(1, old, 0)
    assert found["loss"] == [3.0]
