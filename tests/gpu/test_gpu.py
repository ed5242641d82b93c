"""What only a GPU can show: NCCL, several ranks on one device through pinned memory, bf16, exact resume."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_dash.methods import DASH
from tests.distributed.small import batches, run_member
from tests.e2e.runs import assert_same_run, finish
from tests.support.ranks import on_ranks

GPUS = torch.cuda.device_count()


def test_two_ranks_on_one_gpu_equal_two_ranks_on_the_cpu() -> None:
    data = batches(4, 1, 2, torch.float64)
    run = partial(run_member, batch_norm=True)
    one = {"CUDA_VISIBLE_DEVICES": "0"}
    shared, reference = (
        on_ranks(2, run, DASH(gamma=0.3), 2, data, environment=variables)
        for variables in (one, {"CUDA_VISIBLE_DEVICES": ""})
    )
    for ours, theirs in zip(shared, reference, strict=True):
        for key, value in ours["weights"].items():
            np.testing.assert_allclose(value, theirs["weights"][key], rtol=0, atol=1e-9, err_msg=key)


@pytest.mark.skipif(GPUS < 2, reason="NCCL needs a GPU per rank")
@pytest.mark.parametrize("mode", ["gather", "reduce"])
def test_nccl_equals_gloo(mode: str) -> None:
    data = batches(4, 1, 2, torch.float64)
    run = partial(run_member, batch_norm=True, mode=mode)
    nccl = on_ranks(2, run, DASH(), 2, data)
    gloo = on_ranks(2, run, DASH(), 2, data, environment={"CUDA_VISIBLE_DEVICES": ""})
    for ours, theirs in zip(nccl, gloo, strict=True):
        for key, value in ours["weights"].items():
            np.testing.assert_allclose(value, theirs["weights"][key], rtol=0, atol=1e-8, err_msg=key)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_repeats_to_the_bit(precision: str, tmp_path: Path) -> None:
    for name in ("one", "other"):
        finish(tmp_path / name, 2, 2, f"--engine.precision={precision}", "--model=SmallCNN")
    assert_same_run(tmp_path / "one", tmp_path / "other")
