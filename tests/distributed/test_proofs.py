"""The interfaces carry what is to come: six small systems equal float64 loops, and resume to the bit.

Two members of two replicas each, two micro-batches an update.
"""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_dash.methods import SAM, SGD, Method
from dist_dash.seeds import derived_seed
from tests.distributed import proof_oracle as oracle
from tests.distributed.proofs import ChosenSAM, GateSAM, Heads, RandomMask, RateSAM, TwoSnapshots
from tests.distributed.small import CLASSES, FEATURES, Batches, batches, network, run_member
from tests.e2e.runs import assert_same_run, finish, lines_of, start
from tests.support.ranks import on_ranks

MEMBERS, REPLICAS, ACCUMULATION, STEPS = 2, 2, 2, 8
SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
HEADS = (2, 2)


def on_real_ranks(method: Method, data: Batches, **options: Any) -> list[dict[str, Any]]:
    run = partial(run_member, optimizer=SETTINGS, clip=0.4, **options)
    return on_ranks(MEMBERS * REPLICAS, run, method, MEMBERS, data)


def modules(batch_norm: bool = False) -> list[nn.Module]:
    return [network(member, batch_norm, torch.float64) for member in range(MEMBERS)]


def settings(**options: Any) -> oracle.Settings:
    return oracle.Settings(lr=0.1, momentum=0.9, weight_decay=5e-4, clip=0.4, **options)


def assert_weights(ranks: list[dict[str, Any]], expected: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        for key, value in rank["weights"].items():
            np.testing.assert_allclose(value, expected[rank["member"]][key].numpy(), rtol=0, atol=1e-11, err_msg=key)


def data() -> Batches:
    return batches(STEPS, REPLICAS, ACCUMULATION, torch.float64)


def test_gsam_follows_the_learning_rate() -> None:
    factors = [TwoSnapshots().factor(step, 4, STEPS) for step in range(STEPS)]
    options = {"rho": (0.05, 0.2), "alpha": 0.3, "factors": (min(factors), max(factors))}
    outcome = oracle.gsam(modules(True), data(), settings(factors=factors), **options)
    ranks = on_real_ranks(RateSAM(0.2, 0.05, 0.3), data(), batch_norm=True, trajectory=TwoSnapshots())
    assert_weights(ranks, outcome.weights)
    assert len({record[0]["rho"] for record in outcome.records}) > 2


def test_the_gate_of_ae_sam_is_the_same_on_replicas() -> None:
    options = {"rho": 0.1, "gate": (0.5, -0.5)}
    outcome = oracle.ae_sam(modules(), data(), settings(ascent_sync="local"), **options)
    ranks = on_real_ranks(GateSAM(0.1, gate_start=0.5, gate_end=-0.5), data())
    assert_weights(ranks, outcome.weights)
    for rank in ranks:
        decided = [bool(measured["sam"]) for measured in rank["measured"]]
        assert decided == [record[rank["member"]]["sam"] for record in outcome.records]
        assert {True, False} == set(decided)


def test_a_skipped_step_leaves_the_state_of_ae_sam_alone() -> None:
    broken = data()
    broken[3][0][0][0][0, 0] = torch.nan
    outcome = oracle.ae_sam(modules(), broken, settings(ascent_sync="local"), rho=0.1, gate=(0.5, -0.5))
    assert_weights(on_real_ranks(GateSAM(0.1, gate_start=0.5, gate_end=-0.5), broken), outcome.weights)
    assert not outcome.records[3][0]["moved"]


def test_esam_weighs_samples_over_an_update() -> None:
    outcome = oracle.esam(modules(True), data(), settings(), rho=0.1, gamma=0.4)
    assert_weights(on_real_ranks(ChosenSAM(0.1, 0.4), data(), batch_norm=True), outcome.weights)
    size = len(data()[0][0][0][0])
    shares = [sum(k < size for k in record[0]["selected"][0]) for record in outcome.records]
    assert any(
        share != len(record[0]["selected"][0]) / 2 for share, record in zip(shares, outcome.records, strict=True)
    )


def two_headed(member: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(100 + member)
    return Heads(FEATURES, HEADS).to(dtype)


def test_a_two_headed_network_has_one_loss() -> None:
    both = [[[(x, side_by_side(target)) for x, target in micro] for micro in replicas] for replicas in data()]
    nets = [two_headed(member, torch.float64) for member in range(MEMBERS)]
    outcome = oracle.sam(nets, both, settings(losses=oracle.of_heads(HEADS)), rho=0.1)
    options: dict[str, Any] = {"build": two_headed, "heads": HEADS}
    whole = on_real_ranks(SAM(0.1, ascent_sync="mean"), both, **options)
    assert_weights(whole, outcome.weights)
    begun = on_real_ranks(SAM(0.1, ascent_sync="mean"), both, part=(0, 5), **options)
    states = [rank["state"] for rank in begun]
    rest = on_real_ranks(SAM(0.1, ascent_sync="mean"), both, part=(5, STEPS), states=states, **options)
    for resumed, uninterrupted in zip(rest, whole, strict=True):
        for key, value in uninterrupted["weights"].items():
            np.testing.assert_array_equal(resumed["weights"][key], value, err_msg=key)


def side_by_side(target: Tensor) -> Tensor:
    """Targets of two heads from those of one: which half of the classes, and which within its half."""
    half = target.reshape(len(target), *HEADS)
    assert HEADS[0] * HEADS[1] == CLASSES
    return torch.cat([half.sum(2), half.sum(1)], 1)


def test_two_snapshots_of_one_chain() -> None:
    outcome = oracle.snapshots(modules(True), data(), settings(), cycles=2)
    ranks = on_real_ranks(SGD(), data(), batch_norm=True, trajectory=TwoSnapshots())
    assert_weights(ranks, outcome.weights)
    for rank in ranks:
        for found, expected in zip(rank["saves"], outcome.saves[rank["member"]], strict=True):
            for key, value in found.items():
                np.testing.assert_allclose(value, expected[key].numpy(), rtol=0, atol=1e-11, err_msg=key)


def masks(member: int, density: float) -> list[Tensor]:
    """As the double draws them: of matrices only."""
    found = []
    for position, parameter in enumerate(network(member, False, torch.float64).parameters()):
        generator = torch.Generator().manual_seed(derived_seed("mask", 0, member, position))
        mask = torch.rand(parameter.shape, generator=generator) < density
        found.append(mask.double() if parameter.dim() >= 2 else torch.ones_like(parameter))
    return found


def test_a_fixed_mask() -> None:
    expected = oracle.sam(modules(), data(), settings(), rho=0.1, masks=[masks(m, 0.5) for m in range(MEMBERS)])
    ranks = on_real_ranks(SAM(0.1, ascent_sync="mean"), data(), sparsity=RandomMask(0.5))
    assert_weights(ranks, expected.weights)
    for rank in ranks:
        for mask, value in zip(masks(rank["member"], 0.5), rank["weights"].values(), strict=True):
            assert not value[mask.numpy() == 0].any()


@pytest.mark.parametrize("engine", ["zero0", "zero1"])
def test_masks_and_gates_with_deepspeed(engine: str) -> None:
    single = batches(STEPS, REPLICAS, ACCUMULATION, torch.float32)
    sparsity = {"sparsity": RandomMask(0.5)} if engine == "zero0" else {}
    found = [
        on_real_ranks(GateSAM(0.1, gate_start=0.5, gate_end=-0.5), single, engine=name, dtype=torch.float32, **sparsity)
        for name in (engine, "torch")
    ]
    for ours, theirs in zip(*found, strict=True):
        for key, value in theirs["weights"].items():
            np.testing.assert_allclose(ours["weights"][key], value, rtol=0, atol=1e-6, err_msg=key)


def test_a_method_may_look_at_all_samples_before_an_epoch(tmp_path: Path) -> None:
    """Two replicas see what one rank alone does: every sample of the split, once."""
    for world in (2, 4):
        method = ["--method=tests.distributed.proofs.LooksAhead", "--max_steps=1", "--loader.batch_size=64"]
        finish(tmp_path / str(world), world, MEMBERS, "--engine=Torch", *method)
    one, two = (next(x for x in lines_of(tmp_path / w) if x["kind"] == "train") for w in ("2", "4"))
    assert one["samples"] == two["samples"] == [1348.0] * MEMBERS
    np.testing.assert_allclose(one["ahead"], two["ahead"], rtol=1e-6)


def test_a_run_tells_its_method_the_time_and_of_restarts(tmp_path: Path) -> None:
    options = ["--method=tests.distributed.proofs.Reports", "--schedule=tests.distributed.proofs.TwoChains"]
    finish(tmp_path / "run", 1, 1, "--engine=Torch", "--max_steps=12", "--init=own", *options)
    lines = [line for line in lines_of(tmp_path / "run") if line["kind"] == "train"]
    factors = [TwoSnapshots().factor(step, 1, 12) for step in range(12)]
    for step, line in enumerate(lines):
        assert line["rate"] == [pytest.approx(factors[step])]
        assert (line["low"], line["high"]) == ([pytest.approx(min(factors))], [pytest.approx(max(factors))])
        assert (line["at"], line["total"], line["steps_per_epoch"]) == ([step], [12], [1348 // 32])
        assert line["restarts"] == [float(step >= 6)]
    # Fresh weights are no better than chance, and were trained a little by the first half.
    assert lines[6]["loss"][0] > lines[5]["loss"][0]


SYSTEMS = {
    "RateSAM": ["--method=tests.distributed.proofs.RateSAM"],
    "GateSAM": ["--method=tests.distributed.proofs.GateSAM"],
    "ChosenSAM": ["--method=tests.distributed.proofs.ChosenSAM"],
    "two snapshots": ["--method=SGD", "--schedule=tests.distributed.proofs.TwoSnapshots"],
    "two chains": ["--method=tests.distributed.proofs.GateSAM", "--schedule=tests.distributed.proofs.TwoChains"],
    "a look ahead": ["--method=tests.distributed.proofs.LooksAhead"],
    "mask": ["--method=SAM", "--sparsity=tests.distributed.proofs.RandomMask"],
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_resumes_to_the_bit(system: str, tmp_path: Path) -> None:
    options = [*SYSTEMS[system], "--loader.accumulation=2", "--loader.batch_size=80"]
    undisturbed, run, orders = tmp_path / "undisturbed", tmp_path / "run", tmp_path / "orders"
    finish(undisturbed, MEMBERS * REPLICAS, MEMBERS, "--engine=Torch", *options)
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={orders}"]
    orders.write_text(f"0 6 {signal.SIGTERM}")
    ranks = start(run, MEMBERS * REPLICAS, MEMBERS, *options, *struck)
    assert ranks.results(300) == [("value", 75)] * MEMBERS * REPLICAS, ranks.output(0)
    orders.write_text("9 0 0")
    finish(run, MEMBERS * REPLICAS, MEMBERS, *options, *struck)
    assert_same_run(run, undisturbed)
    for snapshot in (undisturbed / "snapshots").glob("*"):
        assert (run / "snapshots" / snapshot.name).read_bytes() == snapshot.read_bytes()
    assert (undisturbed / "snapshots").exists() == ("two" in system)
