"""Groups of parameters: who belongs where, what the optimizer does with them, and which of them ascents move."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dist_dash.errors import BadInput
from dist_dash.member.batch import Batch, Progress, micro_batch
from dist_dash.member.engine import Torch
from dist_dash.member.member import Member
from dist_dash.member.parameter_groups import ParameterGroup, group_of_each, with_groups
from dist_dash.member.parameters import kinds_of, names_of
from dist_dash.methods import SAM
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.support.ranks import on_ranks

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02}


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).double()


PLAIN = [ParameterGroup(kinds=["bias", "normalisation"], weight_decay=0.0)]
STILL = [ParameterGroup(names=["3.*"], perturbed=False, rate=0.5), *PLAIN]


def groups_of(groups: list[ParameterGroup], net: nn.Module) -> list[ParameterGroup | None]:
    return group_of_each(groups, names_of(net), kinds_of(net))


def test_the_first_group_that_fits_has_a_parameter() -> None:
    net = small()
    last, plain = STILL
    found = dict(zip(names_of(net), groups_of(STILL, net), strict=True))
    assert found == {
        "0.weight": None,
        "0.bias": plain,
        "1.weight": plain,
        "1.bias": plain,
        "3.weight": last,
        "3.bias": last,
    }


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([ParameterGroup(names=["head.*"])], "number 0 (names ['head.*']"),
        ([ParameterGroup(), ParameterGroup(names=["0.*"])], "number 1 (names ['0.*']"),
        ([ParameterGroup(perturbed=False)], "parameter_groups.perturbed: false for every parameter"),
    ],
)
def test_a_group_without_parameters_is_refused(groups: list[ParameterGroup], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        groups_of(groups, small())
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"names": []}, "names"), ({"kinds": []}, "kinds"), ({"rate": -1.0}, "rate"), ({"weight_decay": -1.0}, "decay")],
)
def test_values_that_cannot_be_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput, match=rf"parameter_groups\.\w*{field}"):
        ParameterGroup(**options)


def test_a_weight_decay_that_the_optimizer_lacks_is_refused() -> None:
    net = small()
    make = with_groups(partial(torch.optim.Rprop), [PLAIN[0] for _ in net.parameters()])
    with pytest.raises(BadInput, match="Rprop has none"):
        make(list(net.parameters()))


def trained(groups: list[ParameterGroup], data: list[tuple[torch.Tensor, torch.Tensor]]) -> list[np.ndarray]:
    with Exchange(layout_from_environment(1), deadline=60) as exchange:
        net, engine = small(), Torch("fp64")
        of_each = groups_of(groups, net)
        engine.attach(net, with_groups(partial(torch.optim.SGD, **SETTINGS), of_each), exchange)
        member = Member(engine, 0, 1, perturbed=[group is None or group.perturbed for group in of_each])
        for step, (x, y) in enumerate(data):
            engine.scale_learning_rate(1 - 0.2 * step)
            micro = micro_batch(x, y, torch.arange(len(x)), None, 0.0, torch.device("cpu"), torch.float64)
            SAM(rho=0.3).update(member, Batch([micro], Progress(step, 10, 5)), exchange)
        return [p.detach().numpy() for p in net.parameters()]


def by_hand(data: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """SAM over the first layer and the norm alone, momentum and weight decay written out."""
    net = small()
    names, weights = names_of(net), list(net.parameters())
    momentum = [torch.zeros_like(w) for w in weights]
    for step, (x, y) in enumerate(data):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), weights)
        moved = [not name.startswith("3.") for name in names]
        length = sum(float((g**2).sum()) for g, moves in zip(gradients, moved, strict=True) if moves) ** 0.5
        there = copy.deepcopy(net)
        with torch.no_grad():
            for w, g, moves in zip(there.parameters(), gradients, moved, strict=True):
                w += 0.3 * g / length if moves else 0.0
        slopes = torch.autograd.grad(nn.functional.cross_entropy(there(x), y), list(there.parameters()))
        with torch.no_grad():
            for name, w, g, m in zip(names, weights, slopes, momentum, strict=True):
                decay = 0.0 if name in ("0.bias", "1.weight", "1.bias") else 0.02
                m.mul_(0.9).add_(g + decay * w)
                w -= (0.5 if name.startswith("3.") else 1.0) * 0.1 * (1 - 0.2 * step) * m
    return [w.detach() for w in weights]


def test_a_step_with_groups_is_the_one_written_by_hand() -> None:
    draw = torch.Generator().manual_seed(1)
    data = [
        (torch.randn(8, 6, generator=draw, dtype=torch.float64), torch.eye(3)[torch.arange(8) % 3].double())
        for _ in range(3)
    ]
    (found,) = on_ranks(1, trained, STILL, data)
    for ours, theirs in zip(found, by_hand(data), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-12)
    (without,) = on_ranks(1, trained, PLAIN, data)
    assert any(not np.allclose(a, b) for a, b in zip(found, without, strict=True))
