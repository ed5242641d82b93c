"""Real ranks against the one-process float64 loop over the members, option by option."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dist_dash.methods import DASH, SAM, SGD
from tests import oracle
from tests.distributed.small import batches, network, random_direction, run_member
from tests.support.ranks import on_ranks

STEPS = 4
OPTIMIZER = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
MEASURED = {
    "loss": "loss",
    "perturbed_loss": "loss_perturbed",
    "g_loss_norm": "grad_norm",
    "g_div_norm": "div_norm",
    "ascent_cosine": "cosine",
    "diversity": "div",
}


def assert_equals_oracle(
    name: str,
    fields: dict[str, Any],
    members: int,
    replicas: int = 1,
    accumulation: int = 1,
    *,
    batch_norm: bool = False,
    clip: float = 0.0,
    smoothing: float = 0.0,
    mixed: bool = False,
    mode: str = "gather",
    tolerance: float = 1e-9,
) -> None:
    """Train with `members × replicas` processes and with the oracle; weights, buffers and measurements must agree."""
    data = batches(STEPS, replicas, accumulation, torch.float64, mixed)
    method = {"SGD": SGD, "SAM": SAM, "DASH": DASH}[name](**fields)
    ranks = on_ranks(
        members * replicas,
        partial(run_member, batch_norm=batch_norm, clip=clip, smoothing=smoothing, optimizer=OPTIMIZER, mode=mode),
        method,
        members,
        data,
    )
    renamed = {"weight": "lam", "rho_warmup": "warmup_steps"}
    options = oracle.Options(
        method=name,  # type: ignore[arg-type]
        **{"ascent_sync": "local", **{renamed.get(k, k): v for k, v in fields.items()}},
        **OPTIMIZER,
        clip=clip,
        smoothing=smoothing,
        random_direction=partial(random_direction, 0),
    )
    nets = [network(member, batch_norm, torch.float64) for member in range(members)]
    records = oracle.train(nets, data, options)
    for rank in ranks:
        expected = nets[rank["member"]].state_dict()
        for key, found in rank["weights"].items():
            np.testing.assert_allclose(found, expected[key].numpy(), rtol=0, atol=tolerance, err_msg=key)
    for step in range(STEPS):
        for member in range(members):
            own = [rank["measured"][step] for rank in ranks if rank["member"] == member]
            for ours, theirs in MEASURED.items():
                if ours in own[0] and not math.isnan(records[step][member][theirs]):
                    value = np.mean([one[ours] for one in own])
                    np.testing.assert_allclose(value, records[step][member][theirs], atol=tolerance, err_msg=ours)


DASH_OPTIONS: list[dict[str, Any]] = [
    {},
    {"rho_loss": 0.1, "rho_div": 0.3, "temperature": 2.0},
    {"peers": "mean_probs", "temperature": 1.7},
    {"ascent": "joint", "weight": 0.7},
    {"ascent": "joint", "peers": "mean_probs"},
    {"classes": "all"},
    {"classes": "all", "peers": "mean_probs"},
    {"diversity_in": "descent", "weight": 0.3},
    {"diversity_in": "descent", "peers": "mean_probs", "gamma": 0.4},
    {"diversity_in": "none"},
    {"direction": "random", "rho_div": 0.2},
    {"gamma": 0.5},
    {"gamma": 1.0, "ascent": "joint"},
    {"gamma": 0.3, "peers": "mean_probs"},
    {"rho_warmup": 3},
]


@pytest.mark.parametrize("fields", DASH_OPTIONS, ids=str)
def test_dash_of_three_ranks_is_the_oracle(fields: dict[str, Any]) -> None:
    assert_equals_oracle("DASH", fields, 3)


@pytest.mark.parametrize("members", [2, 4])
@pytest.mark.parametrize("fields", [{}, {"gamma": 0.5, "peers": "mean_probs"}], ids=str)
def test_dash_of_other_sizes_is_the_oracle(members: int, fields: dict[str, Any]) -> None:
    assert_equals_oracle("DASH", fields, members, batch_norm=True)


@pytest.mark.parametrize("p", [2.0, math.inf, 1.5, 4.0])
def test_sam_is_the_oracle(p: float) -> None:
    assert_equals_oracle("SAM", {"rho": 0.1, "p": p}, 2, batch_norm=p == 2)


def test_sgd_is_the_oracle() -> None:
    assert_equals_oracle("SGD", {}, 2, batch_norm=True, clip=0.5, smoothing=0.1)


@pytest.mark.parametrize("fields", [{}, {"gamma": 0.5}, {"diversity_in": "descent"}, {"ascent": "joint"}], ids=str)
def test_accumulation_clipping_smoothing_and_mixing(fields: dict[str, Any]) -> None:
    assert_equals_oracle("DASH", fields, 3, accumulation=3, batch_norm=True, clip=0.3, smoothing=0.1, mixed=not fields)


@pytest.mark.parametrize("sync", ["mean", "local"])
@pytest.mark.parametrize("fields", [{}, {"gamma": 0.5}, {"direction": "random"}], ids=str)
def test_replicas(sync: str, fields: dict[str, Any]) -> None:
    assert_equals_oracle(
        "DASH", {**fields, "ascent_sync": sync}, 2, replicas=2, accumulation=2, batch_norm=sync == "local", clip=0.5
    )


def test_replicas_of_sam() -> None:
    assert_equals_oracle("SAM", {"ascent_sync": "mean", "p": 3.0}, 2, replicas=2)


@pytest.mark.parametrize("fields", [{}, {"gamma": 0.5}, {"peers": "mean_probs", "ascent": "joint"}], ids=str)
def test_reduced_exchange_is_the_oracle(fields: dict[str, Any]) -> None:
    assert_equals_oracle("DASH", fields, 4, mode="reduce", tolerance=1e-8)


def test_one_member_is_sam_to_the_bit() -> None:
    data = batches(STEPS, 1, 1, torch.float64)
    dash = on_ranks(1, run_member, DASH(rho_loss=0.1, gamma=0.3), 1, data)[0]
    sam = on_ranks(1, run_member, SAM(rho=0.1), 1, data)[0]
    for key, value in dash["weights"].items():
        np.testing.assert_array_equal(value, sam["weights"][key])


@pytest.mark.parametrize("mean_of_replicas", [False, True])
def test_two_replicas_that_ascend_together_are_one_large_batch(mean_of_replicas: bool) -> None:
    small = batches(STEPS, 2, 1, torch.float64)
    large = [[[tuple(torch.cat(parts) for parts in zip(*(r[0] for r in step), strict=True))]] for step in small]
    sync = "mean" if mean_of_replicas else "local"
    two = on_ranks(4, run_member, DASH(ascent_sync=sync), 2, small)  # type: ignore[arg-type]
    one = on_ranks(2, run_member, DASH(), 2, large)
    gaps = [np.abs(two[2 * i]["weights"][k] - one[i]["weights"][k]).max() for i in range(2) for k in one[i]["weights"]]
    assert (max(gaps) < 1e-9) == mean_of_replicas  # m-sharpness is another method: this comparison can fail
