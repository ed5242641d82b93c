"""DeepSpeed against plain torch, and what the engines must never do to an ensemble."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_dash.errors import RunFailed
from dist_dash.member.engine import Torch
from dist_dash.member.member import Member
from dist_dash.methods import DASH, SAM, SGD, Method
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.training.identity import check_members
from tests.distributed.small import CLASSES, FEATURES, batches, network, run_member
from tests.support.ranks import LIMIT, Ranks, on_ranks

METHODS: list[Method] = [SGD(), DASH(), DASH(gamma=0.5, ascent_sync="mean")]


def trained(engine: str, method: Method, replicas: int, **options: Any) -> list[dict[str, Any]]:
    data = batches(4, replicas, 2, torch.float32)
    settings = {"engine": engine, "clip": 0.5, "batch_norm": True, "dtype": torch.float32, **options}
    return on_ranks(2 * replicas, partial(run_member, **settings), method, 2, data)


@pytest.mark.parametrize("method", METHODS, ids=["SGD", "DASH", "DASH-gamma-mean"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_deepspeed_is_torch(method: Method, replicas: int) -> None:
    reference = trained("torch", method, replicas)
    for engine in ("zero0", "zero1", "zero2"):
        for ours, theirs in zip(trained(engine, method, replicas), reference, strict=True):
            for key, value in ours["weights"].items():
                np.testing.assert_allclose(value, theirs["weights"][key], rtol=0, atol=1e-6, err_msg=f"{engine} {key}")


def odd_count(member: int, dtype: torch.dtype) -> nn.Module:
    """103 parameters: as many are odd as numbers of classes are."""
    torch.manual_seed(member)
    return nn.Sequential(nn.Linear(FEATURES, 9), nn.Tanh(), nn.Linear(9, CLASSES)).to(dtype)


class Branches(nn.Module):
    """Each branch adds to the logits where a sample asks for it; `always` does so for all, first or last."""

    def __init__(self) -> None:
        super().__init__()
        self.rare, self.always, self.seldom = (nn.Linear(FEATURES, CLASSES) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        if x[:, 0].max() > 2:
            return self.rare(self.always(x)[:, :1].expand_as(x)) + self.always(x)
        return self.seldom(x) * self.always(x) if x[:, 0].min() < -2 else self.always(x)


def branches(member: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(member)
    return Branches().to(dtype)


@pytest.mark.parametrize("build", [odd_count, branches])
@pytest.mark.parametrize("method", [SGD(), SAM(rho=0.4)], ids=["SGD", "SAM"])
def test_zero_with_any_parameters(build: Any, method: Method) -> None:
    """An odd number of parameters, and parameters that only one replica's samples use."""
    data = batches(6, 2, 2, torch.float32)
    used = {build(0, torch.float32)(x).grad_fn.name() for step in data for replica in step for x, _ in replica}
    assert len(used) == (1 if build is odd_count else 3)
    settings = {"build": build, "clip": 0.5, "dtype": torch.float32}
    reference = on_ranks(2, partial(run_member, **settings), method, 1, data)
    for engine in ("zero0", "zero1", "zero2"):
        run = partial(run_member, engine=engine, **settings)
        whole = on_ranks(2, run, method, 1, data)
        begun = on_ranks(2, partial(run, part=(0, 3)), method, 1, data)
        resumed = on_ranks(2, partial(run, part=(3, 6), states=[r["state"] for r in begun]), method, 1, data)
        for rank in range(2):
            for key, value in whole[rank]["weights"].items():
                theirs = reference[rank]["weights"][key]
                np.testing.assert_allclose(value, theirs, rtol=0, atol=1e-6, err_msg=f"{engine} {key}")
                np.testing.assert_array_equal(resumed[rank]["weights"][key], value, err_msg=f"{engine} {key}")


def test_bf16_of_deepspeed_is_that_of_torch_and_not_fp32() -> None:
    reference, fp32 = trained("torch-bf16", DASH(), 2), trained("torch", DASH(), 2)
    gaps = [abs(reference[0]["weights"][key] - fp32[0]["weights"][key]).max() for key in ("0.weight", "3.weight")]
    assert max(gaps) > 1e-5
    for engine in ("zero0-bf16", "zero1-bf16", "zero2-bf16"):
        for ours, theirs in zip(trained(engine, DASH(), 2), reference, strict=True):
            for key, value in ours["weights"].items():
                assert value.dtype == theirs["weights"][key].dtype
                np.testing.assert_allclose(value, theirs["weights"][key], rtol=0, atol=1e-6, err_msg=f"{engine} {key}")


@pytest.mark.parametrize("engine", ["torch", "zero0", "zero1", "zero2"])
def test_replicas_are_equal_to_the_bit_and_members_are_not(engine: str) -> None:
    ranks = trained(engine, DASH(), 2)
    for key, value in ranks[0]["weights"].items():
        np.testing.assert_array_equal(value, ranks[1]["weights"][key])
        if not key.endswith("num_batches_tracked"):
            assert not np.array_equal(value, ranks[2]["weights"][key])


class OnWorld(Torch):
    """The commonest fault: plain DDP, whose group is the world; it copies rank 0's weights to all members."""

    def attach(self, module: torch.nn.Module, make_optimizer: Any, exchange: Exchange) -> None:
        super().attach(module, make_optimizer, exchange)
        torch.nn.parallel.DistributedDataParallel(module)


class DriftingReplica(Torch):
    """A replica whose weights were changed behind the engine's back."""

    def attach(self, module: torch.nn.Module, make_optimizer: Any, exchange: Exchange) -> None:
        super().attach(module, make_optimizer, exchange)
        if dist.get_rank() == 1:
            self.parameters[0].data[0, 0] += 1e-7


def attach_and_check(engine: Torch, members: int) -> str:
    layout = layout_from_environment(members)
    with Exchange(layout, deadline=300) as exchange:
        engine.attach(network(layout.member, False, torch.float32), lambda p: torch.optim.SGD(p, 0.1), exchange)
        try:
            check_members(exchange, engine.module, must_differ=True)
        except RunFailed as error:
            return str(error)
        return "fine"


def test_planted_faults_are_caught() -> None:
    assert set(on_ranks(2, attach_and_check, Torch(), 2)) == {"fine"}
    for text in on_ranks(2, attach_and_check, OnWorld(), 2):
        assert text.startswith("members 0 and 1 hold the same weights")
    for text in on_ranks(2, attach_and_check, DriftingReplica(), 1):
        assert text.startswith("member 0: its replicas (ranks [0, 1]) hold different weights")


def deepspeed_without_mpu() -> str:
    from dist_dash.member import deepspeed_engine

    class OnTheWorld(deepspeed_engine.OneMember):
        def get_data_parallel_group(self) -> Any:
            return dist.group.WORLD

    deepspeed_engine.OneMember = OnTheWorld  # type: ignore[misc]
    layout = layout_from_environment(2)
    with Exchange(layout, deadline=300) as exchange:
        try:
            net = network(layout.member, False, torch.float32)
            deepspeed_engine.DeepSpeed().attach(net, lambda p: torch.optim.SGD(p, 0.1), exchange)
        except RunFailed as error:
            return str(error)
    return "not caught"


def test_deepspeed_on_the_world_group_is_caught() -> None:
    for text in on_ranks(2, deepspeed_without_mpu):
        assert "averages over ranks [0, 1], not over this member's replicas" in text


def sick_member(engine: str, zero_replicas: int) -> list[Any]:
    """Member 1 has a NaN weight gradient at step 1: it must skip, keep its place, and infect nobody."""
    from tests.distributed.small import engine_named

    layout = layout_from_environment(2)
    with Exchange(layout, deadline=300) as exchange:
        owner = engine_named(engine, 1.0, torch.float32)
        net = network(layout.member, True, torch.float32)
        owner.attach(net, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), exchange)
        member = Member(owner, layout.member, 1)
        found = []
        for step in range(3):
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
            if step == 1 and layout.member == 1:
                x[0, 0] = torch.nan
            from dist_dash.member.batch import Batch, Progress, micro_batch

            target = torch.eye(4)[torch.arange(8) % 4]
            micro = micro_batch(x, target, torch.arange(8), None, 0.0, layout.device, torch.float32)
            before = {k: v.clone() for k, v in owner.module.state_dict().items()}
            measured = DASH().update(member, Batch([micro], Progress(step, 1000, 100)), exchange)
            same = all(torch.equal(v, before[k]) for k, v in owner.module.state_dict().items())
            found.append((same, bool(torch.isfinite(measured["diversity"])), member.skipped_in_a_row))
        return found


@pytest.mark.parametrize("engine", ["torch", "zero0", "zero1", "zero2"])
def test_a_sick_member_skips_and_does_not_infect(engine: str) -> None:
    healthy, sick = on_ranks(2, sick_member, engine, 1)
    assert [row[0] for row in healthy] == [False, False, False]
    assert all(finite for _, finite, _ in healthy)
    assert [row[0] for row in sick] == [False, True, False]
    assert [row[2] for row in sick] == [0, 1, 0]


def stands_still() -> None:
    layout = layout_from_environment(3)
    exchange = Exchange(layout, deadline=10)
    exchange.__enter__()
    exchange.step = 17
    exchange.collect(1)
    if layout.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    exchange.gather(torch.randn(4, 5)).wait()


def test_a_hung_rank_is_named() -> None:
    ranks = Ranks(3, stands_still)
    for rank in (0, 2):
        ranks.processes[rank].join(LIMIT)
    ranks.signal(signal.SIGKILL, [1])
    results = ranks.results()
    for rank in (0, 2):
        kind, text = results[rank]
        assert kind == "error"
        assert "RunFailed: step 17" in text
        assert "missing: member 1 (rank 1, " in text
        assert "member 0" not in text
        assert "member 2" not in text
