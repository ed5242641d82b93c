"""The clock: what counts as a step's time, and what as waiting within it."""

from __future__ import annotations

import time

from dist_dash.ranks.clock import Clock


def test_waits_in_an_excluded_part_count_nowhere() -> None:
    """Else a step could have waited longer than it took."""
    clock = Clock()
    with clock.excluded():
        with clock.waiting("wait"):
            time.sleep(0.05)
        with clock.excluded(), clock.waiting("wait"):
            time.sleep(0.01)
        with clock.waiting("wait"):
            time.sleep(0.01)
    with clock.waiting("wait"):
        time.sleep(0.01)
    seconds = clock.read()
    assert 0.01 <= seconds["wait"] <= seconds["total"]
    with clock.excluded(), clock.waiting("wait"):
        time.sleep(0.01)
    assert "wait" not in clock.read()
