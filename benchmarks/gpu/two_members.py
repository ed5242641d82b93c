"""DASH on one rank: an exchange whose second member is a double, so that a step's own cost can be measured."""

from __future__ import annotations

import torch
from torch import Tensor

from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.ranks.transport import Transfer, Transport


class TwoMembers(Exchange):
    """One rank that sees itself as the first of two members. What the second predicts is made on the device: the
    arithmetic of a DASH step is all there, the transfer between devices is not."""

    members = 2  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(layout_from_environment(1), deadline=60)

    def __enter__(self) -> TwoMembers:
        super().__enter__()
        self._members = _Echo(None, 2, self.layout.backend, lambda call: call())
        return self


class _Echo(Transport):
    def all_gather(self, values: Tensor) -> Transfer:
        return Transfer(lambda: torch.stack([values, values.roll(1, -1)]))

    def all_reduce(self, values: Tensor) -> Transfer:
        return Transfer(lambda: values + values.roll(1))  # flags: both are finite
