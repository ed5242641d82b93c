"""Small tensors that cross between ranks: of any shape and type, and who among the members is finite."""

from __future__ import annotations

from typing import Any

import torch

from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.support.ranks import on_ranks


def crossing() -> dict[str, Any]:
    layout = layout_from_environment(2)
    with Exchange(layout, deadline=300) as exchange:
        number = torch.tensor(float("nan") if layout.member else 2.0)
        stacked = exchange.stack(number).wait()
        matrix = exchange.stack(torch.full((2, 3), float(layout.member))).wait()
        gate = exchange.mean_over_replicas(torch.tensor(layout.replica == 0))
        whole = exchange.mean_over_replicas(torch.tensor([layout.replica, 3]))
        peers = exchange.gather(torch.tensor([[0.0, float(number)]])).wait()
    return {
        "stacked": (tuple(stacked.values.shape), stacked.finite.tolist()),
        "matrix": (tuple(matrix.values.shape), matrix.values[:, 0, 0].tolist(), matrix.finite.tolist()),
        "gate": float(gate),
        "whole": whole.tolist(),
        "peers": peers.finite.tolist(),
    }


def test_numbers_flags_and_matrices_cross() -> None:
    for found in on_ranks(4, crossing):
        assert found["stacked"] == ((2,), [True, False])
        assert found["matrix"] == ((2, 2, 3), [0.0, 1.0], [True, True])
        assert found["gate"] == 0.5
        assert found["whole"] == [0.5, 3.0]
        assert found["peers"] == [True, False]
