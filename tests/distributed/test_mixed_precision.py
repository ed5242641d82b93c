"""bf16 and fp16 on real ranks: against the float64 oracle with kernels that round, and one engine against the other."""

from __future__ import annotations

import copy
import math
import zlib
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_dash.member.batch import Batch
from dist_dash.member.loss_scale import LossScaling
from dist_dash.member.member import Member
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.methods.method import Measured
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests import oracle
from tests.distributed.small import CLASSES, FEATURES, Batches, batches, run_member
from tests.support.ranks import on_ranks

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
METHODS: dict[str, Method] = {
    "SAM": SAM(rho=0.1),
    "SAM p=3": SAM(rho=0.1, p=3.0),
    "DASH": DASH(rho_loss=0.1, rho_div=0.2),
    "DASH joint": DASH(rho_loss=0.1, ascent="joint", weight=0.1),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "SAM": {"method": "SAM", "rho": 0.1},
    "SAM p=3": {"method": "SAM", "rho": 0.1, "p": 3.0},
    "DASH": {"rho_loss": 0.1, "rho_div": 0.2},
    "DASH joint": {"rho_loss": 0.1, "ascent": "joint", "lam": 0.1},
}
SCALING = LossScaling(initial=2.0**19, interval=2, minimum=2.0**4)
OPTIMIZER = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
STEPS, SUDDEN, ACCUMULATION, CLIP = 6, 4, 2, 0.5
ENGINES = ("zero0", "zero1", "zero2", "offload1")
PARTS = (1, 2, 5)  # resumed right after a skip, one update before the scale grows, and after the sudden overflow


def odd_count(member: int, dtype: torch.dtype) -> nn.Module:
    """103 parameters; those of member 1 have larger gradients."""
    torch.manual_seed(member)
    net = nn.Sequential(nn.Linear(FEATURES, 9), nn.Tanh(), nn.Linear(9, CLASSES)).to(dtype)
    with torch.no_grad():
        net[2].weight.mul_(1 + 3 * member)
    return net


def data() -> Batches:
    """At one step the samples of one replica alone are so large that gradients overflow in fp16."""
    found = batches(STEPS, 2, ACCUMULATION, torch.float64)
    found[SUDDEN][1] = [(16 * x, target) for x, target in found[SUDDEN][1]]
    return found


def as_given(found: Batches, dtype: torch.dtype) -> Batches:
    return [[[(x.to(dtype), t.to(dtype)) for x, t in replica] for replica in step] for step in found]


# -- the oracle: a float64 loop whose kernels round --------------------------------------------------------------------


class Rounded(torch.autograd.Function):
    """A value as a type holds it; its gradient as the type holds it under the loss scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, scale: list[float]) -> Tensor:
        ctx.dtype, ctx.scale = dtype, scale[0] / ACCUMULATION  # by which a micro-batch's loss is divided before
        return x.to(dtype).double()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return (ctx.scale * gradient).to(ctx.dtype).double() / ctx.scale, None, None


class AsKernelsDo(nn.Module):
    """Autocast, spelled out: every operand, every result and every gradient of one is rounded once."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, scale: list[float]) -> None:
        super().__init__()
        self.net, self.round = net, lambda x: Rounded.apply(x, dtype, scale)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:  # type: ignore[attr-defined]
            if isinstance(layer, nn.Linear):
                operands = (self.round(t) for t in (x, layer.weight, layer.bias))
                x = self.round(nn.functional.linear(*operands))
            else:
                x = self.round(layer(x))
        return x


def by_the_oracle(name: str, precision: str) -> tuple[list[dict[str, Tensor]], Any, Any]:
    """Weights of each member, what was measured at each step, and after each step (skipped, scale) of each member."""
    scales = [[SCALING.initial if precision == "fp16" else 1.0] for _ in range(2)]
    quiet, velocity = [0, 0], [None, None]
    nets = [AsKernelsDo(odd_count(member, torch.float64), TYPES[precision], scales[member]) for member in range(2)]
    options = oracle.Options(**{"ascent_sync": "local", **OPTIONS[name]}, **OPTIMIZER, clip=CLIP)
    measured, history = [], []
    for step, replicas in enumerate(data()):
        before = copy.deepcopy([net.state_dict() for net in nets]), list(velocity)
        measured.append(oracle.train_step(nets, replicas, options, step, velocity))
        skipped = []
        for i, record in enumerate(measured[-1]):
            norms = ["grad_norm", "descent_norm"] + ["div_norm"] * name.startswith("DASH")
            skipped.append(not all(math.isfinite(record[key]) for key in norms))
            if skipped[i]:
                nets[i].load_state_dict(before[0][i])
                velocity[i] = before[1][i]
            if precision == "fp16":  # as torch.amp.GradScaler
                quiet[i] = 0 if skipped[i] else quiet[i] + 1
                if skipped[i]:
                    scales[i][0] = max(scales[i][0] / 2, SCALING.minimum)
                elif quiet[i] == SCALING.interval:
                    scales[i][0], quiet[i] = 2 * scales[i][0], 0
        history.append([(skipped[i], scales[i][0]) for i in range(2)])
    weights = [{k.removeprefix("net."): v for k, v in net.state_dict().items()} for net in nets]
    return weights, measured, history


class Watched(DASH):
    """Measures which collectives an update starts: a number for their names, types and shapes, in order."""

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        calls = []

        def noted(name: str) -> Any:
            function = getattr(dist, name)

            def call(*given: Any, **options: Any) -> Any:
                calls.append((name, [(t.dtype, t.shape) for t in given if isinstance(t, Tensor)]))
                return function(*given, **options)

            return call

        names = [name for name in ("all_reduce", "all_gather_into_tensor", "all_gather_single") if hasattr(dist, name)]
        with mock.patch.multiple(dist, **{name: noted(name) for name in names}):
            measured = super().update(member, batch, exchange)
        assert calls
        return {**measured, "collectives": torch.tensor(zlib.crc32(repr(calls).encode()), dtype=torch.float64)}


# -- real ranks --------------------------------------------------------------------------------------------------------


def all_runs(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All in one process per rank: engines of different types one after the other."""
    with Exchange(layout_from_environment(2), deadline=300) as exchange:
        return {name: run_member(members=2, joined=exchange, **run) for name, run in runs.items()}


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    """Each run's result on each of 2 members × 2 replicas, with 2 micro-batches."""
    common = {"clip": CLIP, "optimizer": OPTIMIZER, "dtype": torch.float32, "build": odd_count}
    common |= {"all_batches": as_given(data(), torch.float32)}
    fp16 = {"precision": {"scaling": SCALING}}
    runs: dict[str, dict[str, Any]] = {}
    for name, method in METHODS.items():
        for precision in TYPES:
            runs[f"{name} {precision}"] = {"method": method, "engine": f"torch-{precision}", **fp16}
    small = {"scaling": LossScaling(initial=2.0**6)}
    for precision in TYPES:
        runs[f"torch {precision} plain"] = {"method": SGD(), "engine": f"torch-{precision}", "precision": small}
    for engine in ("torch", *ENGINES):
        runs[f"{engine} fp16"] = {"method": Watched(0.1, 0.2), "engine": f"{engine}-fp16", **fp16, "kept_at": PARTS}
        if engine.startswith("offload"):
            continue
        compute = {"precision": {"reduce_in": "compute", **small}}
        for precision in TYPES:
            runs[f"{engine} {precision} reduced"] = {"method": SGD(), "engine": f"{engine}-{precision}", **compute}
        runs[f"{engine} fp32"] = {"method": METHODS["DASH"], "engine": engine}  # after fp16 in the same process
    runs = {name: {**common, **run} for name, run in runs.items()}
    first = on_ranks(4, all_runs, runs)
    resumed = {}
    for engine in ("torch", *ENGINES):
        for at in PARTS:
            states = [rank[f"{engine} fp16"]["kept"][at] for rank in first]
            resumed[f"{engine} from {at}"] = {**runs[f"{engine} fp16"], "part": (at, STEPS), "states": states}
    second = on_ranks(4, all_runs, resumed)
    return {name: [rank[name] for rank in ranks] for ranks in (first, second) for name in ranks[0]}


def gap(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    return max(float(np.abs(value - np.asarray(theirs[key])).max()) for key, value in ours.items())


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_oracle_up_to_rounding(found: Any, name: str, precision: str) -> None:
    weights, measured, history = by_the_oracle(name, precision)
    start = [odd_count(member, torch.float64).state_dict() for member in range(2)]
    unit = torch.finfo(TYPES[precision]).eps / 2
    for rank in found[f"{name} {precision}"]:
        i = rank["member"]
        if precision == "fp16":
            assert rank["scales"] == [step[i] for step in history]
            skipped = [skipped for skipped, _ in rank["scales"]]
            assert skipped[0]  # looking for the scale
            assert skipped[SUDDEN]
            assert skipped.count(False) >= 2
        moved = gap({k: v.numpy() for k, v in weights[i].items()}, start[i])
        assert gap(rank["weights"], weights[i]) <= {"bf16": 8, "fp16": 2}[precision] * unit * moved
        for step in range(STEPS):
            theirs, ours = (
                measured[step][i],
                [r["measured"][step] for r in found[f"{name} {precision}"] if r["member"] == i],
            )
            if math.isfinite(theirs["grad_norm"]) and "g_loss_norm" in ours[0]:
                assert np.mean([o["g_loss_norm"] for o in ours]) == pytest.approx(theirs["grad_norm"], rel=8 * unit)


@pytest.mark.parametrize("engine", ENGINES)
def test_deepspeed_is_torch(found: Any, engine: str) -> None:
    others = () if engine.startswith("offload") else ("fp32", "bf16 reduced", "fp16 reduced")
    for what in ("fp16", *others):
        for ours, theirs in zip(found[f"{engine} {what}"], found[f"torch {what}"], strict=True):
            assert ours["scales"] == theirs["scales"]
            # ZeRO 2 averages each micro-batch, so that in a small type each is rounded.
            rounded = 0.5 * torch.finfo(TYPES[what[:4]]).eps * (engine == "zero2") if "reduced" in what else 0
            assert gap(ours["weights"], theirs["weights"]) <= 1e-6 + rounded, what


@pytest.mark.parametrize("precision", TYPES)
def test_gradients_really_cross_in_the_smaller_type(found: Any, precision: str) -> None:
    """Otherwise the comparisons of engines above would show nothing."""
    reduced, plain = (found[f"torch {precision} {what}"][0]["weights"] for what in ("reduced", "plain"))
    assert 1e-5 < gap(reduced, plain) < torch.finfo(TYPES[precision]).eps


@pytest.mark.parametrize("engine", ["torch", "zero0"])
def test_a_skipped_update_starts_the_same_collectives(found: Any, engine: str) -> None:
    """At ZeRO 1 and 2 a member's replicas, which skip together, leave out gathering their weights."""
    for rank in found[f"{engine} fp16"]:
        assert len({step["collectives"] for step in rank["measured"]}) == 1


@pytest.mark.parametrize("engine", ["torch", *ENGINES])
def test_an_overflow_on_one_replica_is_one_of_both(found: Any, engine: str) -> None:
    ranks = found[f"{engine} fp16"]
    for one, other in (ranks[:2], ranks[2:]):
        assert one["scales"] == other["scales"]
        assert one["scales"][SUDDEN][0]
        assert gap(one["weights"], other["weights"]) == 0
    assert ranks[0]["scales"] != ranks[2]["scales"]  # members find their scales on their own


@pytest.mark.parametrize("engine", ["torch", *ENGINES])
def test_a_resumed_run_has_the_same_bits_and_the_same_scale(found: Any, engine: str) -> None:
    for at in PARTS:
        for part, whole in zip(found[f"{engine} from {at}"], found[f"{engine} fp16"], strict=True):
            assert part["scales"] == whole["scales"][at:]
            assert part["measured"] == whole["measured"][at:]
            for key, value in whole["weights"].items():
                np.testing.assert_array_equal(part["weights"][key], value, err_msg=f"{engine} from {at}: {key}")
