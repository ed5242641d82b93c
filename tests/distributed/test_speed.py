"""What only makes a step faster changes results by roundings: networks with the channels innermost, compiled ones."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from dist_dash.ensembles.ensemble import load_ensemble, save_member
from dist_dash.errors import BadInput
from dist_dash.member.batch import Batch, Progress, micro_batch
from dist_dash.member.engine import Torch, in_channels_last
from dist_dash.member.member import Member
from dist_dash.member.optimizer import fused_by_default
from dist_dash.methods import DASH, SAM, SGD
from dist_dash.models import SmallCNN
from dist_dash.models.network import seeded_network
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.training import speed
from tests.distributed.small import state_of
from tests.e2e.runs import SMALL, assert_same_run
from tests.support.ranks import Ranks, on_ranks

How = Literal["plain", "channels_last", "compiled"]
SHAPE, CLASSES, SIZE = (3, 8, 8), 4, 8
METHODS = {"SGD": SGD(), "SAM": SAM(), "separate": DASH(), "γ": DASH(gamma=0.3), "control": DASH(direction="random")}
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def cnn(seed: int = 0) -> nn.Sequential:
    return seeded_network(seed, SmallCNN(width=4), SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, True)


def asked(memory_format: str) -> Any:
    return SimpleNamespace(memory_format=memory_format)


def trained(how: How, exchange: Exchange) -> dict[str, dict[str, Any]]:
    """Per method, a member's weights and buffers after three updates of two micro-batches, in float64."""
    found, rank, device = {}, exchange.layout.rank, exchange.layout.device
    for name, method in METHODS.items():
        engine, wanted = Torch("fp64"), "channels_last" if how == "channels_last" else "contiguous"
        network = speed.laid_out(asked(wanted), cnn(rank), device)
        engine.attach(network, partial(torch.optim.SGD, lr=0.05, momentum=0.9), exchange)
        draw = torch.Generator().manual_seed(3)
        x = torch.randint(256, (3, 2, SIZE, *SHAPE), generator=draw, dtype=torch.uint8)
        if how == "compiled":
            speed.compile_network(engine, x[0, 0].to(device))
        member, target = Member(engine, rank, 2), torch.eye(CLASSES)[torch.arange(SIZE) % CLASSES]
        for step in range(3):
            ids = torch.arange(SIZE)
            micro = [micro_batch(part, target, ids, None, 0.1, device, torch.float64) for part in x[step]]
            method.update(member, Batch(micro, Progress(step, 10, 5)), exchange)
        with member.evaluating(), torch.no_grad():
            logits = engine.forward(x[0, 0, :3].to(device))  # fewer: another graph
        assert in_channels_last(engine.module) == (how == "channels_last")
        found[name] = {**state_of(engine.module), "logits": logits.cpu().numpy()}
    return found


def each(hows: list[How]) -> dict[How, dict[str, dict[str, Any]]]:
    speed.BACKEND = "aot_eager"  # as torch.compile takes networks apart, without a compiler
    with Exchange(layout_from_environment(2), deadline=300) as exchange:
        return {how: trained(how, exchange) for how in hows}


def assert_equal_but_for_roundings(ranks: list[dict[How, dict[str, dict[str, Any]]]], atol: float) -> None:
    for found in ranks:
        plain = found.pop("plain")
        for how, name in product(found, METHODS):
            for key, value in found[how][name].items():
                np.testing.assert_allclose(value, plain[name][key], rtol=0, atol=atol, err_msg=f"{how} {name} {key}")


def test_results_differ_by_roundings() -> None:
    ranks = on_ranks(2, each, ["plain", "channels_last", "compiled"])
    plain = ranks[0]["plain"]
    for name in METHODS:
        differs = [key for key in plain[name] if not np.array_equal(plain[name][key], plain["SGD"][key])]
        assert bool(differs) == (name != "SGD")  # they are methods of their own
    assert_equal_but_for_roundings(ranks, 1e-10)


# -- channels innermost ------------------------------------------------------------------------------------------------


def test_channels_are_innermost_where_it_is_asked_for_or_on_a_gpu() -> None:
    def in_fact(memory_format: str, device: torch.device, network: nn.Module) -> bool:
        return in_channels_last(speed.laid_out(asked(memory_format), network, device))

    assert [in_fact("auto", device, cnn()) for device in (CPU, GPU)] == [False, True]
    assert [in_fact("contiguous", device, cnn()) for device in (CPU, GPU)] == [False, False]
    assert in_fact("channels_last", CPU, cnn())
    assert not in_fact("channels_last", GPU, nn.Linear(3, 4))


def test_what_is_stored_does_not_depend_on_it(tmp_path: Path) -> None:
    save_member(tmp_path / "one", cnn())
    save_member(tmp_path / "other", speed.laid_out(asked("channels_last"), cnn(), CPU))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


# -- fused optimizers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "fused"),
    [
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), True),
        (partial(torch.optim.AdamW, lr=0.1), True),
        (partial(torch.optim.SGD, lr=0.1, fused=False), False),
        (partial(torch.optim.SGD, lr=0.1, foreach=True), None),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5), None),
        (partial(torch.optim.RMSprop, lr=0.1), None),
    ],
)
def test_fused_kernels_are_taken_on_a_gpu_unless_the_user_has_chosen(make: Any, fused: bool | None) -> None:
    def of(device: torch.device) -> bool | None:
        (group,) = fused_by_default(make, device)(iter([nn.Parameter(torch.ones(2))])).param_groups
        return group.get("fused")

    assert of(GPU) is fused
    assert of(CPU) == make.keywords.get("fused")


# -- compiled networks -------------------------------------------------------------------------------------------------


def compiled_main(arguments: list[str]) -> int:
    from dist_dash.commands.cli import main

    speed.BACKEND = "aot_eager"
    return main(arguments)


def test_a_compiled_run_is_continued_to_the_bit(tmp_path: Path) -> None:
    settings = [*SMALL, "--method=SAM", "--members=1", "--compile=true", "--max_steps=8"]

    def run(name: str) -> Ranks:
        engine = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={tmp_path / f'{name}-orders'}"]
        return Ranks(1, compiled_main, ["train", *settings, *engine, f"--run={tmp_path / name}"])

    assert run("one").results() == [("value", 0)]
    (tmp_path / "other-orders").write_text("0 6 9")
    assert run("other").results()[0][0] == "killed"
    assert run("other").results() == [("value", 0)]
    assert_same_run(tmp_path / "other", tmp_path / "one")
    names = [*safetensors.torch.load_file(tmp_path / "one/ensemble/member_00.safetensors")]
    assert not any("_orig_mod" in name for name in names)
    assert len(load_ensemble(tmp_path / "one")) == 1
    assert '"compiled": true' in (tmp_path / "one/environment.json").read_text()


def test_what_cannot_be_compiled_is_refused(lone_engine: Torch, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(speed, "BACKEND", no_compiler)
    before = state_of(lone_engine.module)
    with pytest.raises(BadInput, match=r"compile: true is not possible here \(.*no C\+\+ compiler.*it must be false"):
        speed.compile_network(lone_engine, torch.zeros(2, *SHAPE, dtype=torch.uint8))
    for name, value in state_of(lone_engine.module).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.fixture
def lone_engine() -> Torch:
    engine, alone = Torch(), SimpleNamespace(layout=SimpleNamespace(device=CPU, replicas=1))
    engine.attach(cnn(), partial(torch.optim.SGD, lr=0.1), alone)  # type: ignore[arg-type]
    return engine
