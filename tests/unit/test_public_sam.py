"""The yardsticks of `benchmarks/costs.py` are SAM: the same weights as the loop written by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.costs import SETTINGS, Problem, hand_written_sam
from benchmarks.public_sam import packaged_sam, wrapped_sam
from dist_dash.models import SmallCNN

PROBLEM = Problem(SmallCNN(width=4, norm="group"), side=8, size=8)


def trained(make: Callable[[nn.Module], Callable[[int], None] | None]) -> torch.Tensor | None:
    """The weights after three steps; None where there is no such step."""
    network = PROBLEM.network(0)
    step = make(network)
    if step is None:
        return None
    for number in range(3):
        step(number)
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def test_public_implementations_make_the_same_steps(monkeypatch) -> None:
    def by_hand(network: nn.Module) -> Callable[[int], None]:
        monkeypatch.setattr(Problem, "network", lambda problem, seed: network)
        step = hand_written_sam(PROBLEM)
        monkeypatch.undo()
        return step

    start = nn.utils.parameters_to_vector(PROBLEM.network(0).parameters()).detach()
    expected = trained(by_hand)
    wrapped = trained(lambda network: wrapped_sam(network, PROBLEM.loss, SETTINGS))
    packaged = trained(lambda network: packaged_sam(network, PROBLEM.loss, SETTINGS))
    moved = (expected - start).norm()
    assert moved > 1e-3
    assert (wrapped - expected).norm() < 1e-4 * moved
    assert packaged is None or (packaged - expected).norm() < 1e-4 * moved
