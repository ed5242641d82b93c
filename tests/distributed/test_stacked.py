"""Several members of one rank: the same numbers as on ranks of their own, to rounding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_dash.member.batch import Batch, Progress, micro_batch
from dist_dash.member.engine import Torch
from dist_dash.member.member import Member
from dist_dash.member.sketch import Sketch
from dist_dash.member.stacked import StackedMember
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.distributed.small import CLASSES, FEATURES, batches, network, state_of
from tests.support.ranks import on_ranks

MEMBERS, STEPS = 4, 4
Found = tuple[int, dict[str, Any], list[dict[str, float]], int]


class Poisoned(nn.Module):
    """A layer that multiplies by a buffer, which a test makes infinite for one member."""

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Looking(nn.Module):
    """A layer that looks at values, which `vmap` refuses."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.detach().mean()) > 0 else 0.5 * x


def looking(member: int, dtype: torch.dtype) -> nn.Sequential:
    return nn.Sequential(Looking(), network(member, True, dtype))


def tied(member: int, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(100 + member)
    first, second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(FEATURES, CLASSES)).to(dtype)


def convolutions(member: int, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(100 + member)
    first = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return nn.Sequential(first, nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(8, CLASSES)).to(dtype)


KINDS: dict[str, Callable[[int, torch.dtype], nn.Module]] = {
    "batch norm": lambda member, dtype: network(member, True, dtype),
    "looking": looking,
    "tied": tied,
    "convolutions": convolutions,
}


def train(
    method: Method,
    per_rank: int,
    *,
    accumulation: int = 1,
    clip: float = 0.0,
    mode: str = "gather",
    kind: str = "batch norm",
    optimizer: str = "SGD",
    dtype: torch.dtype = torch.float64,
    poisoned: tuple[int, ...] = (),
    batched: bool | None = None,
) -> list[Found]:
    """What each member of this rank has become: its number, its state, what was measured, updates skipped in a row.

    Member 2 is infinite in the steps that `poisoned` names.
    """
    torch.set_num_threads(1)
    layout = layout_from_environment(MEMBERS, None, per_rank)
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 1e-3} | ({"momentum": 0.9} if optimizer == "SGD" else {})
    with Exchange(layout, mode, deadline=300) as exchange:  # type: ignore[arg-type]
        each = []
        for number in layout.own_members:
            net = KINDS[kind](number, dtype)
            engine = Torch("fp64" if dtype == torch.float64 else "fp32", clip)
            make = getattr(torch.optim, optimizer)
            engine.attach(nn.Sequential(Poisoned(), net), lambda p: make(p, **settings), exchange)  # noqa: B023
            each.append(Member(engine, number, accumulation))
        member: Member = each[0]
        if per_rank > 1:
            member = stacked = StackedMember(each, torch.zeros(2, FEATURES, dtype=dtype))
            assert stacked.network.batched == (kind not in ("convolutions", "looking"))
            stacked.network.batched = stacked.network.batched if batched is None else batched
        measured: list[list[dict[str, float]]] = [[] for _ in each]
        for step, replicas in enumerate(batches(STEPS, 1, accumulation, dtype)):
            for own in each:
                bad = step in poisoned and own.index == 2
                own.engine.module[0].factor.fill_(torch.inf if bad else 1.0)  # type: ignore[index, union-attr, operator]
            micro = [micro_batch(x, t, torch.arange(len(x)), None, 0.1, layout.device, dtype) for x, t in replicas[0]]
            member.sketch = sketch = Sketch() if step == STEPS - 1 else None
            found = method.update(member, Batch(micro, Progress(step, STEPS, 2)), exchange)
            for place, values in enumerate(measured):
                values.append({name: float(value.reshape(-1)[place]) for name, value in found.items()})
            cosines = sketch.cosines(exchange) if sketch is not None else None
            for own, values in zip(each, measured, strict=True):
                values[-1] |= {f"cosine {i}": c for i, c in enumerate(cosines[own.index])} if cosines else {}
        states = [{k: v for k, v in state_of(own.engine.module).items() if "factor" not in k} for own in each]
        return [(m.index, s, v, m.skipped_in_a_row) for m, s, v in zip(each, states, measured, strict=True)]


CASES: dict[str, tuple[Method, dict[str, Any]]] = {
    "sgd": (SGD(), {}),
    "sgd in turn": (SGD(), {"batched": False}),
    "sgd of convolutions": (SGD(), {"kind": "convolutions"}),
    "sgd of convolutions at once": (SGD(), {"kind": "convolutions", "batched": True}),
    "looking": (DASH(0.1, 0.2), {"kind": "looking"}),
    "tied": (DASH(0.1, 0.2), {"kind": "tied"}),
    "adam": (SGD(), {"optimizer": "AdamW", "poisoned": (1,)}),
    "sam": (SAM(0.1), {"accumulation": 2, "clip": 0.3}),
    "sam, p = 3": (SAM(0.1, p=3.0), {}),
    "sam, p = inf": (SAM(0.1, p=float("inf")), {"kind": "tied"}),  # the sign of a bias before batch norm is noise
    "dash": (DASH(0.1, 0.2), {}),
    "dash in turn": (DASH(0.1, 0.2), {"batched": False}),
    "dash, all options": (DASH(0.1, 0.2), {"accumulation": 2, "clip": 0.3}),
    "dash of convolutions": (DASH(0.1, 0.2), {"kind": "convolutions", "batched": True}),
    "dash by sums": (DASH(0.1, 0.2), {"mode": "reduce"}),
    "dash, warm-up, of probabilities": (DASH(0.1, 0.2, peers="mean_probs", rho_warmup=3, temperature=2.0), {}),
    "joint": (DASH(0.1, 0.2, ascent="joint", weight=0.7), {"accumulation": 2}),
    "random": (DASH(0.1, 0.2, direction="random"), {}),
    "descent": (DASH(0.1, 0.2, diversity_in="descent", classes="all"), {}),
    "none": (DASH(0.1, 0.2, diversity_in="none"), {}),
    "gamma": (DASH(0.1, 0.2, gamma=0.3), {"accumulation": 2}),
    "gamma by sums": (DASH(0.1, 0.2, gamma=0.3), {"mode": "reduce"}),
    "not finite, sgd": (SGD(), {"poisoned": (1, 2)}),
    "not finite, dash": (DASH(0.1, 0.2), {"poisoned": (1, 2), "accumulation": 2, "clip": 0.3}),
    "not finite, dash by sums": (DASH(0.1, 0.2), {"poisoned": (3,), "mode": "reduce"}),
    "not finite, gamma": (DASH(0.1, 0.2, gamma=0.3), {"poisoned": (1,)}),
    "not finite, at once, of convolutions": (DASH(0.1), {"poisoned": (1,), "kind": "convolutions", "batched": True}),
    "fp32": (DASH(0.1, 0.2), {"dtype": torch.float32, "accumulation": 2, "clip": 0.3}),
    "fp32 of convolutions": (DASH(0.1, 0.2), {"dtype": torch.float32, "kind": "convolutions", "batched": True}),
}


def train_all(per_rank: int) -> list[list[Found]]:
    return [train(method, per_rank, **options) for method, options in CASES.values()]


@functools.cache
def everyones(per_rank: int) -> list[list[Found]]:
    """For each case what each member has become, in the order of the members."""
    ranks = on_ranks(MEMBERS // per_rank, train_all, per_rank)
    return [[found for of_rank in of_case for found in of_rank] for of_case in zip(*ranks, strict=True)]


@pytest.mark.parametrize("per_rank", [4, 2])
@pytest.mark.parametrize("case", CASES)
def test_members_of_one_rank_equal_members_on_ranks_of_their_own(case, per_rank):
    place, tolerance = [*CASES].index(case), 1e-6 if case.startswith("fp32") else 1e-9
    together, separate = everyones(per_rank)[place], everyones(1)[place]
    assert [found[0] for found in together] == [found[0] for found in separate] == [*range(MEMBERS)]
    for (member, state, measured, skipped), (_, own, alone, counted) in zip(together, separate, strict=True):
        assert state.keys() == own.keys()
        assert skipped == counted
        for name, value in state.items():
            np.testing.assert_allclose(value, own[name], rtol=0, atol=tolerance, err_msg=f"member {member}: {name}")
        for step, (here, there) in enumerate(zip(measured, alone, strict=True)):
            assert here.keys() == there.keys()
            for name, value in here.items():
                what = f"member {member}, step {step}: {name}"
                np.testing.assert_allclose(value, there[name], rtol=10 * tolerance, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("not finite")])
def test_a_member_that_is_not_finite_infects_no_other(case):
    (_, options), found = CASES[case], everyones(4)[[*CASES].index(case)]
    ends_badly = STEPS - 1 in options["poisoned"]
    assert [skipped for _, _, _, skipped in found] == [0, 0, int(ends_badly), 0]
    for member, state, measured, _ in found:
        assert all(np.isfinite(value).all() for value in state.values())
        finite = [np.isfinite(values["loss"]) for values in measured]
        assert finite == [not (member == 2 and step in options["poisoned"]) for step in range(STEPS)]
