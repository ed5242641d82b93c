"""What only a GPU can show: NCCL, several ranks on one device, DeepSpeed, bf16, exact repetition, and no needless wait.

That a stopped run goes on to the bit is shown by `benchmarks/gpu.sh`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.costs import Problem, stepper
from benchmarks.gpu import exchange as exchanges
from benchmarks.gpu.perturbation import realised
from benchmarks.gpu.two_members import TwoMembers
from benchmarks.gpu.waits import of_loop, of_updates, training
from dist_dash.data.workers import stream
from dist_dash.member.batch import micro_batch
from dist_dash.member.engine import Torch
from dist_dash.member.loss_scale import LossScaling
from dist_dash.methods import DASH, SAM
from dist_dash.models import ResNet
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.distributed.small import batches, run_member
from tests.distributed.test_late_decisions import both
from tests.distributed.test_speed import assert_equal_but_for_roundings, each
from tests.e2e.runs import assert_same_run, finish
from tests.gpu.waits import counted
from tests.support.ranks import on_ranks

GPUS = torch.cuda.device_count()
ONE, NONE = {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": ""}


def assert_same_weights(ranks: list[dict[str, Any]], others: list[dict[str, Any]], atol: float) -> None:
    for ours, theirs in zip(ranks, others, strict=True):
        for key, value in ours["weights"].items():
            np.testing.assert_allclose(value, theirs["weights"][key], rtol=0, atol=atol, err_msg=key)


# -- what crosses between ranks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2])
def test_two_ranks_on_one_gpu_equal_two_ranks_on_the_cpu(replicas: int) -> None:
    data, method = batches(4, replicas, 2, torch.float64), DASH(gamma=0.3, ascent_sync="mean")
    run = partial(run_member, batch_norm=True)
    shared, reference = (on_ranks(2, run, method, 2 // replicas, data, environment=where) for where in (ONE, NONE))
    assert_same_weights(shared, reference, 1e-9)


@pytest.mark.skipif(GPUS < 2, reason="NCCL needs a GPU per rank")
@pytest.mark.parametrize(("mode", "replicas"), [("gather", 1), ("reduce", 1), ("gather", 2)])
def test_nccl_equals_gloo(mode: str, replicas: int) -> None:
    data, method = batches(4, replicas, 2, torch.float64), DASH(ascent_sync="mean")
    run = partial(run_member, batch_norm=True, mode=mode)
    nccl, gloo = (on_ranks(2, run, method, 2 // replicas, data, environment=where) for where in ({}, NONE))
    assert_same_weights(nccl, gloo, 1e-8)


def test_nccl_with_one_rank() -> None:
    (found,) = on_ranks(1, exchanges.one_rank, 128, 1000, 3)
    assert found["backend"] == "nccl"
    assert found["equal"]


@pytest.mark.parametrize("mode", ["gather", "reduce"])
def test_peers_of_logits_that_are_still_being_computed(mode: str) -> None:
    shared, host = (on_ranks(3, exchanges.several, mode, 128, 1000, 8, environment=where) for where in (ONE, NONE))
    for ours, theirs in zip(shared, host, strict=True):
        assert ours["where"] == "cuda:0 by gloo"
        assert ours["counts"] == theirs["counts"] == [2.0] * 8
        np.testing.assert_allclose(ours["means"], theirs["means"], rtol=0, atol=1e-5)


def busy_after_exchange(mode: str) -> bool:
    """Whether the device still computes its backward when the peers' predictions have been received."""
    with Exchange(layout_from_environment(2), mode, deadline=60) as exchange:  # type: ignore[arg-type]
        logits = torch.randn(256, 1000, device=exchange.layout.device)
        backward, done = torch.eye(8192, device=exchange.layout.device), torch.cuda.Event()
        for _ in range(2):  # the first exchange allocates
            torch.cuda.synchronize()
            exchange.collect(0)
            pending = exchange.gather(logits)
            for _ in range(60):
                backward = backward @ backward
            done.record()
            pending.wait()
            busy = not done.query()
        return busy


@pytest.mark.parametrize("mode", ["gather", "reduce"])
def test_an_exchange_does_not_wait_for_the_backward_that_hides_it(mode: str) -> None:
    assert on_ranks(2, busy_after_exchange, mode, environment=ONE) == [True, True]


# -- engines and precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "replicas"),
    [
        ("zero0", 1),
        ("zero0-bf16", 2),
        ("zero1-bf16", 2),
        ("zero2", 2),
        ("zero0-fp16", 2),
        ("zero1-fp16", 2),
        ("offload1-fp16", 2),
    ],
)
def test_deepspeed_is_torch(engine: str, replicas: int) -> None:
    """In fp16 the first scale overflows: the updates that look for a lower one are part of the comparison."""
    data = batches(4, replicas, 2, torch.float32)
    scaling = LossScaling(initial=2.0**20, interval=2)
    run = partial(run_member, clip=0.5, batch_norm=True, dtype=torch.float32, precision={"scaling": scaling})
    torchs = engine.replace(engine.partition("-")[0], "torch")
    ours, reference = (
        on_ranks(2 * replicas, partial(run, engine=name), DASH(), 2, data, environment=ONE) for name in (engine, torchs)
    )
    assert_same_weights(ours, reference, 1e-6)
    assert [rank["scales"] for rank in ours] == [rank["scales"] for rank in reference]
    if engine.endswith("fp16"):
        assert {skipped for skipped, _ in ours[0]["scales"]} == {True, False}


def test_a_bf16_member_gets_the_perturbation_that_was_asked_for() -> None:
    (found,) = on_ranks(1, realised, Problem(ResNet(18), size=64, device="cuda", precision="bf16"), 20, environment=ONE)
    assert found["length"] == pytest.approx(1, abs=1e-3)
    assert found["restored"]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.2)


def test_a_fp16_member_gets_the_perturbation_that_was_asked_for() -> None:
    (found,) = on_ranks(1, realised, Problem(ResNet(18), size=64, device="cuda", precision="fp16"), 20, environment=ONE)
    assert found["length"] == pytest.approx(1, abs=1e-3)
    assert found["fp16"] == pytest.approx(found["fp32"], rel=0.05)


@pytest.mark.parametrize(
    ("engine", "precision"), [("Torch", "fp32"), ("DeepSpeed", "bf16"), ("DeepSpeed", "fp16"), ("Torch", "fp16")]
)
def test_a_run_repeats_to_the_bit(engine: str, precision: str, tmp_path: Path) -> None:
    for name in ("one", "other"):
        finish(tmp_path / name, 2, 2, f"--engine={engine}", f"--engine.precision={precision}", "--model=SmallCNN")
    assert_same_run(tmp_path / "one", tmp_path / "other")


# -- waits of the host for the device ----------------------------------------------------------------------------------


def test_an_update_does_not_wait() -> None:
    """Its one wait, for the decision about the update before it, is a poll, which is not counted."""
    problem = Problem(ResNet(18), size=4, device="cuda", precision="bf16", channels_last=True)
    (found,) = on_ranks(1, of_updates, problem, 3, environment=ONE)
    assert {name: max(map(len, places)) for name, places in found.items()} == dict.fromkeys(found, 0), found


def test_the_training_loop_does_not_wait() -> None:
    (found,) = on_ranks(1, of_loop, training("bf16"), 6, environment=ONE)
    assert all(places == [] for places in found), found


def ahead() -> list[bool]:
    """Per update, whether the device still computes it when the host has queued it."""
    found, problem = [], Problem(ResNet(18), size=512, device="cuda", precision="bf16", channels_last=True)
    with TwoMembers() as exchange:
        step = stepper(SAM(), Torch("bf16"), exchange, problem)
        for number in range(10):
            step(number)
            done = torch.cuda.Event()
            done.record()
            found.append(not done.query())
    return found[4:]  # cuDNN and the memory are warm


def test_the_host_is_an_update_ahead() -> None:
    assert on_ranks(1, ahead, environment=ONE) == [[True] * 6]


def test_the_device_decides_as_the_host_does() -> None:
    for found in on_ranks(2, both, ["DASH", "Adam", "a state"], environment=ONE):
        for host, device in found.values():
            assert all(device["late"])
            for name in ("state", "row", "counted"):
                assert device[name] == host[name]


# -- what makes a step faster ------------------------------------------------------------------------------------------


def test_results_differ_by_roundings() -> None:
    ranks = on_ranks(2, each, ["plain", "channels_last", "compiled"], environment=ONE)
    assert_equal_but_for_roundings(ranks, 1e-8)


def test_a_run_is_fast_by_default_and_says_so(tmp_path: Path) -> None:
    for name, asked in (("exact", []), ("fast", ["--speed=fast"])):
        finish(tmp_path / name, 1, 1, "--engine=Torch", "--model=SmallCNN", "--method=SGD", *asked)
    exact, fast = (
        json.loads((tmp_path / name / "environment.json").read_text())["kernels"] for name in ("exact", "fast")
    )
    shared = {
        "memory_format": "channels_last",
        "compiled": False,
        "fused_optimizer": True,
        "skips_decided_on": "device",
    }
    plain = {"deterministic_kernels": True, "cudnn_benchmark": False, "fp32_products": "highest"}
    assert exact == {"speed": "exact", **plain, **shared}
    free = {"deterministic_kernels": False, "cudnn_benchmark": True, "fp32_products": "high"}
    assert fast == {"speed": "fast", **free, **shared}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_page_locked_and_reach_the_device_without_a_wait(workers: int) -> None:
    from dist_dash.data.host_batch import HostBatch

    def assemble(number: int) -> HostBatch:
        ids, x, target = torch.arange(8)[None], torch.zeros(1, 8, 3, dtype=torch.uint8), torch.eye(8)[None]
        return HostBatch(0, number, ids, x, target, ids, torch.full((1, 8), 0.3))

    device = torch.device("cuda", 0)
    for host in stream(assemble, range(3), workers, pin_memory=True):
        assert all(tensor.is_pinned() for tensor in (host.x[0], host.target[0], host.mix[0]))
        with counted() as waits:
            micro = micro_batch(host.x[0], host.target[0], host.ids[0], None, 0.0, device, torch.float32)
            micro_batch(host.x[0], host.target[0], host.ids[0], host.mix[0], 0.1, device, torch.float32)
        assert waits.places == []
        assert torch.equal(micro.target.cpu(), host.target[0])
