"""A later method is one new file: named by class path, checked, recorded, stopped and resumed like those of the box."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_dash.methods import SAM
from tests.distributed.looksam import Looks
from tests.distributed.repulsion import Repels
from tests.distributed.small import batches, network, run_member
from tests.e2e.runs import assert_same_run, finish, lines_of, start
from tests.support.ranks import on_ranks

LOOK = ["--method=tests.distributed.looksam.Looks", "--method.k=3"]


def struck(run: Path, orders: str) -> list[str]:
    run.with_name("orders").write_text(orders)
    return ["--engine=tests.e2e.faults.Struck", f"--engine.orders={run.with_name('orders')}"]


def test_looksam_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    finish(undisturbed, 2, 2, "--engine=Torch", *LOOK)
    # It goes on at steps 8 and 10, both between two SAM steps: with the direction that was kept.
    ranks = start(run, 2, 2, *LOOK, *struck(run, f"0 6 {signal.SIGTERM}"))
    assert ranks.results() == [("value", 75)] * 2, ranks.output(0)
    ranks = start(run, 2, 2, *LOOK, *struck(run, f"1 12 {signal.SIGKILL}"))
    assert ("killed", 9) in ranks.results()
    assert sorted(path.name for path in (run / "checkpoints").glob("step_*")) == ["step_00000008", "step_00000010"]
    finish(run, 2, 2, *LOOK, *struck(run, "9 0 0"))
    assert_same_run(run, undisturbed)


def test_a_method_that_forgets_is_found_out(tmp_path: Path) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    forgetful = ["--method=tests.distributed.looksam.Forgetful", "--method.k=3"]
    finish(undisturbed, 2, 2, "--engine=Torch", *forgetful)
    ranks = start(run, 2, 2, *forgetful, *struck(run, f"0 6 {signal.SIGTERM}"))
    assert ranks.results() == [("value", 75)] * 2, ranks.output(0)
    finish(run, 2, 2, *forgetful, *struck(run, "9 0 0"))
    with pytest.raises(AssertionError):
        assert_same_run(run, undisturbed)


@pytest.mark.parametrize("engine", ["torch", "zero0", "zero1"])
def test_looksam_at_every_step_is_sam(engine: str) -> None:
    dtype = torch.float64 if engine == "torch" else torch.float32
    data = batches(4, 1, 2, dtype)
    settings = {"engine": engine, "batch_norm": True, "dtype": dtype, "clip": 0.5}
    look = on_ranks(2, partial(run_member, **settings), Looks(k=1, rho=0.1), 2, data)
    sam = on_ranks(2, partial(run_member, **settings), SAM(rho=0.1), 2, data)
    other = on_ranks(2, partial(run_member, **settings), Looks(k=2, rho=0.1), 2, data)
    tolerance = 1e-12 if engine == "torch" else 1e-6
    for ours, theirs, between in zip(look, sam, other, strict=True):
        for key, value in theirs["weights"].items():
            np.testing.assert_allclose(ours["weights"][key], value, rtol=0, atol=tolerance, err_msg=key)
        assert any(np.abs(between["weights"][k] - v).max() > 1e-5 for k, v in theirs["weights"].items())


def test_a_field_of_its_own_is_checked_and_named(tmp_path: Path) -> None:
    for arguments, expected in (
        (["--method.k=0"], "method.k: 0 is not allowed; it must be a whole number ≥ 1"),
        (["--method.kk=3"], "method.kk: no such field; "),
    ):
        ranks = start(tmp_path / "run", 2, 2, "--engine=Torch", LOOK[0], *arguments)
        assert ranks.results() == [("value", 2)] * 2
        assert ranks.output(0).startswith(f"dist-dash: {expected}")


# -- a method that compares all pairs --------------------------------------------------------------------------------


def repelled(weight: float, steps: int) -> list[dict[str, np.ndarray]]:
    """Three members trained in this process, by the formula."""
    nets = [network(member, False, torch.float64) for member in range(3)]
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3) for n in nets]
    for ((x, target),) in (step[0] for step in batches(steps, 1, 1, torch.float64)):
        outputs = [torch.log_softmax(net(x), -1) for net in nets]
        constants = [output.detach().exp() for output in outputs]
        pairs = sorted(float(((a - b) ** 2).sum()) for a in constants for b in constants)
        h = max(pairs[(len(pairs) - 1) // 2], 1e-6)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            loss = -(target * output).sum(-1).mean()
            kernels = [torch.exp(-((output.exp() - other) ** 2).sum() / h) for other in constants]
            optimizer.zero_grad()
            (loss + weight * torch.log(sum(kernels[1:], kernels[0]))).backward()
            optimizer.step()
    return [{name: tensor.detach().numpy() for name, tensor in net.state_dict().items()} for net in nets]


def test_a_repulsive_ensemble_is_its_formula() -> None:
    settings: dict[str, Any] = {"optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}}
    data = batches(4, 1, 1, torch.float64)
    ranks = on_ranks(3, partial(run_member, **settings), Repels(weight=2.0), 3, data)
    for rank, expected in zip(ranks, repelled(2.0, 4), strict=True):
        for key, value in expected.items():
            np.testing.assert_allclose(rank["weights"][key], value, rtol=0, atol=1e-12, err_msg=key)


def test_a_repulsive_ensemble_trains_and_disagrees_more(tmp_path: Path) -> None:
    found = {}
    for weight in (0, 10):
        run = tmp_path / str(weight)
        method = ["--method=tests.distributed.repulsion.Repels", f"--method.weight={weight}"]
        finish(run, 3, 3, "--engine=Torch", "--max_steps=60", "--labels.noise=0", *method)
        lines = [line for line in lines_of(run) if line["kind"] == "train"]
        assert np.isfinite([line[name] for line in lines for name in ("loss", "repulsion")]).all()
        found[weight] = json.loads((run / "evaluation.json").read_text())["diversity"]["kl"]
    assert found[10] > 1.1 * found[0] > 0
