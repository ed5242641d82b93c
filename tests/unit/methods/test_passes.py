"""The passes that updates make, counted by the member, against the formulas of the methods."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_dash.member.batch import Batch, Progress, micro_batch
from dist_dash.member.engine import Torch
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector
from dist_dash.methods import DASH, SAM, SGD, Measured, Method, Totals
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.distributed.small import batches, network
from tests.e2e.runs import finish, lines_of
from tests.support.ranks import on_ranks


def measured(cases: list[tuple[type[Method], dict[str, Any]]], members: int, accumulation: int) -> list[Any]:
    """What one update of each method cost, as its member has counted it."""
    layout, found = layout_from_environment(members), []
    with Exchange(layout, deadline=300) as exchange:
        for kind, options in cases:
            method, engine = kind(**options), Torch("fp64")
            net = network(layout.member, False, torch.float64)
            engine.attach(net, lambda p: torch.optim.SGD(p, lr=0.1), exchange)
            member = Member(engine, layout.member, accumulation)
            data = batches(1, 1, accumulation, torch.float64)[0][0]
            micro = [micro_batch(x, y, torch.arange(len(x)), None, 0.0, layout.device, torch.float64) for x, y in data]
            method.update(member, Batch(micro, Progress(0, 10, 5)), exchange)
            found.append(tuple(member.passes))
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


def formula(kind: type[Method], options: dict[str, Any]) -> tuple[float, float]:
    """What the docstrings of the methods say."""
    if kind is SGD:
        return 1, 1
    ascends_twice = (
        kind is DASH
        and options.get("ascent", "separate") == "separate"
        and options.get("diversity_in", "ascent") == "ascent"
        and options.get("direction", "diversity") == "diversity"
    )
    of_ensemble = options.get("gamma", 0.0) > 0
    return 2 + of_ensemble, 2 + ascends_twice + 2 * of_ensemble


@pytest.mark.parametrize("accumulation", [1, 3])
def test_methods_cost_what_their_formula_says(accumulation: int) -> None:
    expected = [formula(kind, options) for kind, options in CASES]
    assert set(expected) == {(1, 1), (2, 2), (2, 3), (3, 4), (3, 5)}
    for found in on_ranks(2, measured, CASES, 2, accumulation):
        wrong = {str(case): both for case, *both in zip(CASES, found, expected, strict=True) if both[0] != both[1]}
        assert not wrong


def test_a_member_without_peers_costs_sam() -> None:
    assert on_ranks(1, measured, [(DASH, {}), (DASH, {"gamma": 0.5}), (SAM, {})], 1, 2) == [[(2, 2)] * 3]


def test_parts_of_a_batch_count_by_their_share() -> None:
    # Two micro-batches; SAM's second pass sees half of each.
    assert on_ranks(1, measured, [(HalfSAM, {})], 1, 2) == [[(1.5, 1.5)]]


class HalfSAM(SAM):
    """SAM whose descent sees the first half of every micro-batch only."""

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals, g = Totals(len(batch)), ParameterVector([])
        for micro in batch:
            g += member.gradient(micro.loss(member.forward(micro.x)))
        with member.perturbed(g):
            for micro in batch:
                half = replace(micro, target=micro.target[: len(micro.x) // 2])
                member.backward(half.loss(member.forward(micro.x[: len(micro.x) // 2])))
        member.step()
        return totals.measured()


def test_a_run_writes_down_what_its_updates_cost(tmp_path: Path) -> None:
    """LookSAM with k = 3: one update in three costs twice as much; the mean over six is 4/3."""
    method = ["--method=tests.distributed.looksam.Looks", "--method.k=3"]
    finish(tmp_path / "run", 1, 1, "--engine=Torch", "--max_steps=6", "--record.every=6", *method)
    line = next(line for line in lines_of(tmp_path / "run") if line["kind"] == "train")
    assert (line["forwards"], line["backwards"]) == (pytest.approx([4 / 3]), pytest.approx([4 / 3]))
