"""An engine that strikes its process, named by class path in a recipe; seen by the compute nodes through PYTHONPATH."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from dist_dash.member.engine import Torch


class StruckAgain(Torch):
    """An engine whose process is killed right after an update, as often as the orders say.

    Args:
        orders: file that says `UPDATE RANK TIMES`; the times are counted down.
    """

    def __init__(self, orders: str) -> None:
        super().__init__()
        self.orders = Path(orders)

    def step(self) -> None:
        super().step()
        if self.exchange.layout.rank != 1 or not self.orders.exists():
            return
        update, rank, times = map(int, self.orders.read_text().split())
        if times and (update, rank) == (self.exchange.step, 1):
            self.orders.write_text(f"{update} {rank} {times - 1}")
            os.kill(os.getpid(), signal.SIGKILL)
