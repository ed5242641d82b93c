"""The sharpness family and repulsion on real ranks: two members of two replicas each, two micro-batches an update.

What each update does is compared with the float64 loops of `family_oracle.py` in `test_family_oracle_*`; here stands
what holds for all of them: special cases that are SAM to the bit, resumes, skipped updates, engines, counted passes.
"""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dist_dash.member.vector import ParameterVector
from dist_dash.methods import (
    AESAM,
    ASAM,
    DASH,
    ESAM,
    FSAM,
    GAM,
    GSAM,
    MSAM,
    SAM,
    SGD,
    LookSAM,
    Method,
    Repulsive,
)
from tests.distributed.small import Batches, batches, run_member
from tests.support.ranks import on_ranks
from tests.unit.methods.test_passes import measured

MEMBERS, REPLICAS, ACCUMULATION, STEPS, RHO = 2, 2, 2, 7, 0.1
SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
FAMILY: dict[str, Method] = {
    "ASAM": ASAM(),
    "GSAM": GSAM(RHO, 0.01),
    "GAM": GAM(ascent_sync="mean"),
    "GAM exact": GAM(form="exact"),
    "ESAM": ESAM(RHO),
    "ESAM, three forwards": ESAM(RHO, form="three_forwards"),
    "LookSAM": LookSAM(RHO, 3),
    "AESAM": AESAM(RHO),
    "FSAM": FSAM(RHO),
    "MSAM": MSAM(RHO),
    "Repulsive": Repulsive(),
    "Repulsive, SVGD": Repulsive(space="probs", kernel="svgd", base="SAM", rho=RHO),
    "Repulsive, weights": Repulsive(space="weights"),
    "DASH every 3": DASH(RHO, RHO, every=3),
    "DASH by ASAM": DASH(RHO, RHO, ascent_by="ASAM"),
    "DASH by FSAM": DASH(RHO, RHO, ascent_by="FSAM", ascent="joint"),
    "DASH by MSAM": DASH(RHO, RHO, ascent_by="MSAM"),
    "DASH of a layer": DASH(RHO, RHO, perturb="0.*"),
}


def data(dtype: torch.dtype = torch.float64) -> Batches:
    return batches(STEPS, REPLICAS, ACCUMULATION, dtype)


def ranks(method: Method, samples: Batches | None = None, **options: Any) -> list[dict[str, Any]]:
    run = partial(run_member, optimizer=SETTINGS, clip=0.4, **options)
    return on_ranks(MEMBERS * REPLICAS, run, method, MEMBERS, samples or data())


def furthest(ones: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """The largest difference of any weight on any rank."""
    return max(
        float(np.abs(value - other["weights"][key]).max())
        for one, other in zip(ones, others, strict=True)
        for key, value in one["weights"].items()
    )


def replicas_are_equal(found: list[dict[str, Any]]) -> bool:
    return furthest(found[::REPLICAS], found[1::REPLICAS]) == 0


@pytest.mark.parametrize("batch_norm", [False, True])
def test_special_cases_are_sam_to_the_bit(batch_norm: bool) -> None:
    local, mean, plain = (
        ranks(method, batch_norm=batch_norm) for method in (SAM(RHO), SAM(RHO, ascent_sync="mean"), SGD())
    )
    for method in (
        GSAM(RHO, alpha=0.0),
        ESAM(RHO, 1.0, 1.0),
        FSAM(RHO, sigma=0.0),
        AESAM(RHO, gate_start=-1e9, gate_end=-1e9),
        Repulsive(0.0, base="SAM", rho=RHO),
    ):
        assert furthest(ranks(method, batch_norm=batch_norm), local) == 0, type(method).__name__
    assert furthest(ranks(LookSAM(RHO, 1), batch_norm=batch_norm), mean) == 0
    for method in (MSAM(0.0), Repulsive(0.0)):
        assert furthest(ranks(method, batch_norm=batch_norm), plain) < 1e-13, type(method).__name__
    assert furthest(local, mean) > 1e-4 < furthest(local, plain)


@pytest.mark.parametrize("name", FAMILY)
def test_resumes_to_the_bit_with_equal_replicas(name: str) -> None:
    whole = ranks(FAMILY[name], batch_norm=True)
    assert replicas_are_equal(whole)
    begun = ranks(FAMILY[name], batch_norm=True, part=(0, 4))
    states = [rank["state"] for rank in begun]
    rest = ranks(FAMILY[name], batch_norm=True, part=(4, STEPS), states=states)
    assert furthest(rest, whole) == 0
    assert furthest(begun, whole) > 1e-4


@pytest.mark.parametrize("name", FAMILY)
def test_a_skipped_update_leaves_what_a_method_keeps_alone(name: str) -> None:
    broken = data()
    for replica in broken[3]:
        replica[1][0][0, 0] = torch.nan
    before, after = (ranks(FAMILY[name], broken, part=(0, last)) for last in (3, 4))
    assert furthest(before, after) == 0
    for one, other in zip(before, after, strict=True):
        kept, still = (torch.load(io.BytesIO(rank["state"]))["method"] for rank in (one, other))
        torch.testing.assert_close(kept, still, rtol=0, atol=0)
    assert furthest(after, ranks(FAMILY[name], broken)) > 1e-4  # goes on


@pytest.mark.parametrize("name", ["GSAM", "LookSAM", "FSAM", "DASH every 3"])
@pytest.mark.parametrize("engine", ["zero0", "zero2"])
def test_deepspeed_does_the_same(name: str, engine: str) -> None:
    options: dict[str, Any] = {"samples": data(torch.float32), "dtype": torch.float32}
    assert furthest(ranks(FAMILY[name], engine=engine, **options), ranks(FAMILY[name], **options)) < 1e-5


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "GAM exact"])
def test_members_that_are_equal_or_alone_stay_finite(name: str) -> None:
    def alone(method: Method) -> list[dict[str, Any]]:
        return on_ranks(1, partial(run_member, optimizer=SETTINGS), method, 1, batches(3, 1, 1, torch.float64))

    (found,) = alone(FAMILY[name])
    assert all(np.isfinite(value).all() for value in found["weights"].values())


def test_asam_has_its_radius_in_units_of_the_weights() -> None:
    class FakeMember:
        def __init__(self) -> None:
            torch.manual_seed(0)
            self.parameters = [
                torch.nn.Parameter(torch.randn(3, 4).double()),
                torch.nn.Parameter(torch.randn(3).double()),
            ]
            self.names = ["a.weight", "a.bias"]

    member, gradient = FakeMember(), ParameterVector([torch.randn(3, 4).double(), torch.randn(3).double()])
    for adapt, adapted in {"weights": (True, False), "matrices": (True, False), "all": (True, True)}.items():
        epsilon = ASAM(1.0, 0.01, adapt).direction(member, gradient).materialised()  # type: ignore[arg-type]
        sizes = [p.abs() + 0.01 if a else torch.ones_like(p) for p, a in zip(member.parameters, adapted, strict=True)]
        in_units = torch.cat([(e / t).flatten() for e, t in zip(epsilon, sizes, strict=True)])
        assert float(in_units.detach().norm()) == pytest.approx(1.0, abs=1e-12)


COSTS: list[tuple[type[Method], dict[str, Any], tuple[float, float]]] = [
    (ASAM, {}, (2, 2)),
    (GSAM, {}, (2, 2)),
    (GAM, {}, (4, 4)),
    (GAM, {"form": "authors"}, (4, 4)),
    (ESAM, {}, (2, 2)),
    (ESAM, {"form": "three_forwards"}, (2.5, 1.5)),
    (LookSAM, {"k": 5}, (2, 2)),  # the first update refreshes
    (AESAM, {}, (2, 2)),  # and is SAM's
    (FSAM, {}, (2, 2)),
    (MSAM, {}, (1, 1)),
    (Repulsive, {}, (1, 1)),
    (Repulsive, {"kernel": "svgd"}, (1, 1)),
    (Repulsive, {"space": "weights"}, (1, 1)),
    (Repulsive, {"base": "SAM"}, (2, 2)),
    (DASH, {"every": 2}, (2, 3)),
    (DASH, {"ascent_by": "ASAM"}, (2, 3)),
    (DASH, {"ascent_by": "MSAM"}, (2, 2)),
    (DASH, {"perturb": "0.*"}, (2, 3)),
]


def test_updates_cost_what_their_docstrings_say() -> None:
    cases = [(kind, options) for kind, options, _ in COSTS if kind is not MSAM]
    expected = [cost for kind, _, cost in COSTS if kind is not MSAM]
    for found in on_ranks(2, measured, cases, 2, 1):
        wrong = {str(case): both for case, *both in zip(cases, found, expected, strict=True) if both[0] != both[1]}
        assert not wrong
