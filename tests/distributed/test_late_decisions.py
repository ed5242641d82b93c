"""Whether an update is skipped, decided on the device: equal to the host's decision, to the bit, wherever it falls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_dash.member.batch import Batch, Progress, micro_batch
from dist_dash.member.late import Late
from dist_dash.member.member import Member
from dist_dash.methods import DASH, SAM, Method
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.runs.record import Window
from tests.distributed.proofs import GateSAM
from tests.distributed.small import CLASSES, FEATURES, MICRO, engine_named, network
from tests.support.ranks import on_ranks

OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "plain SGD": partial(torch.optim.SGD, lr=0.1),
    "Adam": partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "AdamW": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.1),
}
SICK = {0, 1, 4, 7}  # updates at which member 1 sees a NaN: the first ones, one after a good one, the last
STEPS = 8


def train(method: Method, optimizer: str, engine: str, late: bool, exchange: Exchange) -> dict[str, Any]:
    """One rank: everything that eight updates have left behind, and what was known of skipped ones on the way."""
    layout, owner = exchange.layout, engine_named(engine, 0.5, torch.float32)
    owner.attach(network(layout.member, True, torch.float32), partial(OPTIMIZERS[optimizer], fused=True), exchange)
    owner.decides_on_device = late
    member, window, known, lates = Member(owner, layout.member, 1), Window(exchange), list[int](), list[bool]()
    weights = list(member.parameters)
    third = torch.arange(weights[0].numel(), device=layout.device).view_as(weights[0]) % 3 > 0
    member.set_masks([third.float(), *[None] * (len(weights) - 1)])
    for step in range(STEPS):
        x = torch.randn(MICRO, FEATURES, generator=torch.Generator().manual_seed(step))
        if step in SICK and layout.member == 1:
            x[0, 0] = torch.nan
        target = torch.eye(CLASSES)[torch.arange(MICRO) % CLASSES]
        micro = micro_batch(x, target, torch.arange(MICRO), None, 0.0, layout.device, torch.float32)
        measured = method.update(member, Batch([micro], Progress(step, STEPS, STEPS)), exchange)
        window.add({"loss": measured["loss"].nan_to_num()}, [owner.skipped])
        known.append(member.known_skipped_in_a_row)
        lates.append(isinstance(owner.skipped, Late))
    can = hasattr(owner.optimizer, "_step_supports_amp_scaling")
    found = {
        "can": can,
        "counted": member.skipped_in_a_row,
        "known": known,
        "late": lates,
        "row": window.close()["skipped"],
    }
    state = owner.optimizer.state_dict()["state"]
    moments = [value for one in state.values() for value in one.values() if isinstance(value, Tensor)]
    kept = [*owner.module.state_dict().values(), *moments, *(getattr(method, "kept", None) or ())]
    return {**found, "state": [tensor.tolist() if isinstance(tensor, Tensor) else tensor for tensor in kept]}


CASES: dict[str, tuple[Callable[[], Method], str, str]] = {
    "DASH": (DASH, "SGD", "torch"),
    "DeepSpeed": (partial(DASH, ascent="joint"), "SGD", "zero0"),
    "plain SGD": (SAM, "plain SGD", "torch"),
    "Adam": (SAM, "Adam", "torch"),
    "AdamW": (SAM, "AdamW", "torch"),
    "Adagrad": (SAM, "Adagrad", "torch"),
    "a state": (GateSAM, "SGD", "torch"),
}
Found = dict[str, tuple[dict[str, Any], dict[str, Any]]]


def both(names: list[str]) -> Found:
    """What the host's decisions and the device's have left behind."""
    with Exchange(layout_from_environment(2), deadline=300) as exchange:
        chosen = {name: CASES[name] for name in names}
        return {
            n: (train(m(), o, e, False, exchange), train(m(), o, e, True, exchange)) for n, (m, o, e) in chosen.items()
        }


@pytest.fixture(scope="module")
def ranks() -> list[Found]:
    return on_ranks(2, both, list(CASES))


@pytest.mark.parametrize("case", CASES)
def test_the_device_decides_as_the_host_does(case: str, ranks: list[Found]) -> None:
    for found in ranks:
        host, device = found[case]
        assert not any(host["late"])
        assert all(late == device["can"] for late in device["late"])
        assert device["can"] or case == "Adagrad"  # whose fused kernels cannot in torch 2.11
        assert device["state"] == host["state"]
        assert device["row"] == host["row"] == [0.0, len(SICK) / STEPS]
        assert device["counted"] == host["counted"]
        assert device["known"] == ([0, *host["known"][:-1]] if device["can"] else host["known"])
    assert [found[case][1]["counted"] for found in ranks] == [0, 1]
    assert ranks[1][case][0]["known"] == [1, 2, 0, 0, 1, 0, 0, 1]


def lately(optimizers: list[partial[torch.optim.Optimizer]]) -> list[bool]:
    found = []
    with Exchange(layout_from_environment(1), deadline=300) as exchange:
        for optimizer in optimizers:
            owner = engine_named("torch", 0.0, torch.float32)
            owner.attach(network(0, False, torch.float32), optimizer, exchange)
            owner.decides_on_device = True
            member = Member(owner, 0, 1)
            member.backward(member.forward(torch.ones(2, FEATURES)).sum())
            member.step()
            found.append(isinstance(owner.skipped, Late))
    return found


def test_an_optimizer_that_cannot_leaves_it_to_the_host() -> None:
    optimizers = [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5, fused=True),
        partial(torch.optim.RMSprop, lr=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    ]
    assert on_ranks(1, lately, optimizers) == [[False, False, False, True]]
