"""What each method says that an update costs, against the passes that it really makes."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_dash.member.batch import Batch
from dist_dash.member.engine import Torch
from dist_dash.member.member import Member
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.distributed.looksam import LookSAM
from tests.distributed.small import batches, network
from tests.e2e.runs import finish
from tests.support.ranks import on_ranks


class Counting(Torch):
    """An engine that counts the passes through its network."""

    def __init__(self, passes: Counter[str]) -> None:
        super().__init__("fp64")
        self.passes = passes

    def forward(self, x: Tensor) -> Tensor:
        self.passes["forwards"] += 1
        return super().forward(x)

    def backward(self, loss: Tensor) -> None:
        self.passes["backwards"] += 1
        super().backward(loss)


def counted(cases: list[tuple[type[Method], dict[str, Any]]], members: int, accumulation: int) -> list[Any]:
    """For each method: what it says, and what one of its updates does per micro-batch."""
    from dist_dash.member.batch import micro_batch

    layout, found = layout_from_environment(members), []
    grad = torch.autograd.grad
    passes: Counter[str] = Counter()

    def gradient(*arguments: Any, **options: Any) -> Any:
        passes["backwards"] += 1
        return grad(*arguments, **options)

    torch.autograd.grad = gradient
    with Exchange(layout, deadline=300) as exchange:
        for kind, options in cases:
            method, engine = kind(**options), Counting(passes)
            net = network(layout.member, False, torch.float64)
            engine.attach(net, lambda p: torch.optim.SGD(p, lr=0.1), exchange)
            member = Member(engine, layout.member, accumulation)
            data = batches(1, 1, accumulation, torch.float64)[0][0]
            micro = [micro_batch(x, y, torch.arange(len(x)), None, 0.0, layout.device, torch.float64) for x, y in data]
            passes.clear()
            method.update(member, Batch(micro, 0), exchange)
            said = method.passes
            found.append((said and tuple(said), tuple(passes[n] / accumulation for n in ("forwards", "backwards"))))
    return found


DASHES = [
    dict(zip(("ascent", "diversity_in", "direction", "gamma", "peers", "classes"), values, strict=True))
    for values in itertools.product(
        ("separate", "joint"),
        ("ascent", "descent", "none"),
        ("diversity", "random"),
        (0.0, 0.5, 1.0),
        ("mean_logits", "mean_probs"),
        ("non_target",),
    )
    if not (values[1] != "ascent" and (values[0] == "joint" or values[2] == "random"))
    and not (values[0] == "joint" and values[2] == "random")
]
CASES: list[tuple[type[Method], dict[str, Any]]] = [
    (SGD, {}),
    (SAM, {}),
    (SAM, {"p": 3.0, "rho_warmup": 5, "ascent_sync": "mean"}),
    (SAM, {"rho": 0.0}),
    *((DASH, options) for options in DASHES),
    (DASH, {"classes": "all", "ascent_sync": "mean", "rho_div": 0.0}),
]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_methods_cost_what_they_say(accumulation: int) -> None:
    for found in on_ranks(2, counted, CASES, 2, accumulation):
        wrong = {str(case): both for case, both in zip(CASES, found, strict=True) if both[0] != both[1]}
        assert not wrong
        said = [costs for costs, _ in found]
        assert said[:2] == [(1, 1), (2, 2)]
        assert set(said[4:]) == {(2, 2), (2, 3), (3, 4), (3, 5)}


def test_without_peers_nothing_more_is_said_than_done() -> None:
    for found in on_ranks(1, counted, CASES[:3], 1, 1):
        assert all(said == done for said, done in found)


def test_a_method_that_does_not_say() -> None:
    ((said, _),) = on_ranks(1, counted, [(LookSAM, {"k": 3})], 1, 1)[0]
    assert said is None


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("--method=SGD", {"forwards": 1, "backwards": 1}),
        ("--method=tests.distributed.looksam.LookSAM", None),
    ],
)
def test_a_run_writes_down_what_its_method_says(method: str, passes: dict[str, int] | None, tmp_path: Path) -> None:
    finish(tmp_path / "run", 1, 1, "--engine=Torch", "--max_steps=2", method)
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["passes"] == passes
    assert environment["total_steps"] == 2
