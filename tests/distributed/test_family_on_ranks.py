"""Every method of the sharpness family, and repulsion, on real ranks against float64 loops that share no code with it.

Two members of two replicas each, two micro-batches an update, momentum, weight decay, clipping, with and without batch
norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_dash.methods import AESAM, ASAM, DASH, ESAM, FSAM, GAM, GSAM, MSAM, LookSAM, Method, Repulsive, SharpBalance
from dist_dash.seeds import derived_seed
from tests.distributed import family_oracle as family
from tests.distributed import peers_oracle as peers
from tests.distributed import repulsion_oracle as repulsion
from tests.distributed.proof_oracle import Outcome, Settings
from tests.distributed.proofs import TwoSnapshots
from tests.distributed.small import CLASSES, FEATURES, MICRO, network
from tests.distributed.test_family import ACCUMULATION, MEMBERS, REPLICAS, STEPS, data, furthest, ranks

EPOCH = max(1, STEPS // 2)  # updates, as `run_member` has it
BETA = 0.6

Loop = Callable[..., Outcome]
CASES: dict[str, tuple[Method, Loop, dict[str, Any]]] = {
    "ASAM": (ASAM(0.5), family.asam, {"rho": 0.5}),
    "ASAM of matrices, mean": (
        ASAM(0.5, 0.0, "matrices", "mean"),
        family.asam,
        {"rho": 0.5, "eta": 0.0, "adapt": "matrices", "sync": "mean"},
    ),
    "ASAM of all": (ASAM(0.5, 0.1, "all"), family.asam, {"rho": 0.5, "eta": 0.1, "adapt": "all"}),
    "GSAM": (GSAM(0.2, alpha=0.3), family.gsam, {"rho": 0.2, "alpha": 0.3}),
    "GSAM, mean": (GSAM(0.2, None, 0.3, "mean"), family.gsam, {"rho": 0.2, "alpha": 0.3, "sync": "mean"}),
    "GAM": (GAM(0.2, 0.05, 0.3), family.gam, {"rho": 0.2, "r": 0.05, "alpha": 0.3}),
    "GAM, mean": (
        GAM(0.2, 0.05, 0.3, ascent_sync="mean"),
        family.gam,
        {"rho": 0.2, "r": 0.05, "alpha": 0.3, "sync": "mean"},
    ),
    "GAM, exact": (GAM(0.2, alpha=0.3, form="exact"), family.gam, {"rho": 0.2, "alpha": 0.3, "form": "exact"}),
    "GAM, exact, mean": (
        GAM(0.2, alpha=0.3, form="exact", ascent_sync="mean"),
        family.gam,
        {"rho": 0.2, "alpha": 0.3, "form": "exact", "sync": "mean"},
    ),
    "GAM of the authors": (GAM(0.2, 0.05, form="authors"), family.gam, {"rho": 0.2, "r": 0.05, "form": "authors"}),
    "ESAM": (ESAM(0.1, BETA, 0.5), family.esam, {"rho": 0.1, "gamma": 0.5, "drawn": True}),
    "ESAM, three forwards": (
        ESAM(0.1, BETA, 0.4, "three_forwards"),
        family.esam,
        {"rho": 0.1, "gamma": 0.4, "form": "three_forwards", "drawn": True},
    ),
    "LookSAM": (LookSAM(0.1, 3, 0.5), family.looksam, {"rho": 0.1, "k": 3, "alpha": 0.5}),
    "AESAM": (
        AESAM(0.1, 0.8, 0.5, -0.5),
        family.aesam,
        {"rho": 0.1, "delta": 0.8, "gate_start": 0.5, "gate_end": -0.5},
    ),
    "AESAM, mean": (AESAM(0.1, ascent_sync="mean"), family.aesam, {"rho": 0.1, "sync": "mean"}),
    "FSAM": (FSAM(0.1, 0.9, 0.7), family.fsam, {"rho": 0.1, "sigma": 0.9, "decay": 0.7}),
    "FSAM, mean": (FSAM(0.1, ascent_sync="mean"), family.fsam, {"rho": 0.1, "sync": "mean"}),
    "MSAM": (MSAM(0.1), family.msam, {"rho": 0.1}),
    "DASH every 3": (
        DASH(0.1, 0.2, every=3, alpha=0.5),
        peers.dash,
        {"rho_loss": 0.1, "rho_div": 0.2, "every": 3, "alpha": 0.5},
    ),
    "DASH every 2, mean": (
        DASH(0.1, 0.2, every=2, ascent_sync="mean"),
        peers.dash,
        {"rho_loss": 0.1, "rho_div": 0.2, "every": 2, "sync": "mean"},
    ),
    **{
        f"DASH by {name}": (
            DASH(0.1, 0.2, ascent_by=name),  # type: ignore[arg-type]
            peers.dash,
            {"rho_loss": 0.1, "rho_div": 0.2, "ascent_by": name},
        )
        for name in ("ASAM", "FSAM", "MSAM")
    },
    "DASH by MSAM every 3": (
        DASH(0.1, 0.2, ascent_by="MSAM", every=3),
        peers.dash,
        {"rho_loss": 0.1, "rho_div": 0.2, "ascent_by": "MSAM", "every": 3},
    ),
    "DASH of one layer": (
        DASH(0.1, 0.2, perturb="0.*"),
        peers.dash,
        {"rho_loss": 0.1, "rho_div": 0.2, "moved": (0, 1)},
    ),
    "LookSAM of one layer": (LookSAM(0.1, 2, perturb="0.*"), family.looksam, {"rho": 0.1, "k": 2, "moved": (0, 1)}),
    "ASAM of one layer": (ASAM(0.5, perturb="0.*"), family.asam, {"rho": 0.5, "moved": (0, 1)}),
    **{
        f"Repulsive in {space}, {kernel}, {bandwidth}, {base}": (
            Repulsive(2.0, space, kernel, bandwidth, base, 0.1),  # type: ignore[arg-type]
            repulsion.repulsive,
            {"weight": 2.0, "space": space, "kernel": kernel, "bandwidth": bandwidth, "base": base, "rho": 0.1},
        )
        for space, kernel, bandwidth, base in (
            ("logits", "kde", "pairs", "SGD"),
            ("logits", "svgd", "authors", "SAM"),
            ("probs", "kde", "authors", "SAM"),
            ("probs", "svgd", "pairs", "SGD"),
            ("weights", "kde", "pairs", "SGD"),
            ("weights", "svgd", "pairs", "SAM"),
        )
    },
}


def masks(batch_norm: bool) -> list[list[list[Tensor]]]:
    """ESAM's, `[step][member][parameter]`, as the members draw them."""
    found = []
    for step in range(STEPS):
        of_members = []
        for member in range(MEMBERS):
            drawn = torch.Generator().manual_seed(derived_seed("esam", 0, member, step))
            like = network(member, batch_norm, torch.float64).parameters()
            of_members.append([torch.empty_like(p).bernoulli_(BETA, generator=drawn) for p in like])
        found.append(of_members)
    return found


def expected(loop: Loop, options: dict[str, Any], batch_norm: bool, samples: Any) -> Outcome:
    options = dict(options)
    modules: list[nn.Module] = [network(member, batch_norm, torch.float64) for member in range(MEMBERS)]
    settings = Settings(weight_decay=5e-4, clip=0.4, ascent_sync=options.pop("sync", "local"))
    if options.pop("drawn", False):
        options |= {"beta": BETA, "masks": masks(batch_norm)}
    if options.get("space") == "weights":
        options["updates_per_epoch"] = EPOCH
    return loop(modules, samples, settings, **options)


def assert_weights(found: list[dict[str, Any]], outcome: Outcome) -> None:
    for rank in found:
        for key, value in rank["weights"].items():
            wanted = outcome.weights[rank["member"]][key].numpy()
            np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop(case: str, batch_norm: bool) -> None:
    method, loop, options = CASES[case]
    if batch_norm and "moved" in options:
        options = {**options, "moved": (0, 1)}
    assert_weights(ranks(method, batch_norm=batch_norm), expected(loop, options, batch_norm, data()))


@pytest.mark.parametrize("case", ["LookSAM", "AESAM", "FSAM", "DASH every 3", "DASH by FSAM", "MSAM"])
def test_a_skipped_update_is_that_of_the_loop(case: str) -> None:
    method, loop, options = CASES[case]
    broken = data()
    for replica in broken[3]:
        replica[1][0][0, 0] = torch.nan
    assert_weights(ranks(method, broken), expected(loop, options, False, broken))


def test_gsam_s_radius_follows_the_rate() -> None:
    factors = [TwoSnapshots().factor(step, EPOCH, STEPS) for step in range(STEPS)]
    settings = Settings(weight_decay=5e-4, clip=0.4, ascent_sync="local", factors=factors)
    modules: list[nn.Module] = [network(member, False, torch.float64) for member in range(MEMBERS)]
    low, high = TwoSnapshots().rate_range(EPOCH, STEPS)
    outcome = family.gsam(modules, data(), settings, rho=0.2, rho_min=0.05, alpha=0.3, factors=(low, high))
    found = ranks(GSAM(0.2, 0.05, 0.3), trajectory=TwoSnapshots())
    assert_weights(found, outcome)
    assert len({round(measured["radius"], 9) for measured in found[0]["measured"]}) > 2


def of_a_split(seed: int = 3) -> tuple[Any, Any, Any]:
    """A training split whose ids have gaps, batches that are drawn from it, and which samples those hold."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(60, generator=draw)[:40]
    x = torch.randn(40, FEATURES, generator=draw, dtype=torch.float64)
    target = nn.functional.one_hot(torch.randint(CLASSES, (40,), generator=draw), CLASSES).double()
    size = MICRO - 2  # so that 1 over the samples of an update has no exact value in single precision
    places = torch.stack([torch.randperm(40, generator=draw)[: 4 * size] for _ in range(STEPS)])
    places = places.reshape(STEPS, REPLICAS, ACCUMULATION, size)
    samples = [[[(x[p], target[p]) for p in micros] for micros in replicas] for replicas in places]
    return (x, target, numbers), samples, [[[numbers[p] for p in micros] for micros in each] for each in places]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"rho": 0.1, "share": 0.3},
        {"rho": 0.2, "share": 0.5, "sharpest": "low", "rest": "all_but_split", "part": 2},
        {"rho": 0.1, "share": 0.05, "part": 20},  # some parts of micro-batches hold one sample, or none
    ],
)
def test_sharpbalance_equals_a_loop(options: dict[str, Any], batch_norm: bool) -> None:
    train, samples, ids = of_a_split()
    modules: list[nn.Module] = [network(member, batch_norm, torch.float64) for member in range(MEMBERS)]
    settings = Settings(weight_decay=5e-4, clip=0.4, ascent_sync="local")
    outcome = peers.sharpbalance(modules, samples, settings, from_step=EPOCH, train=train, ids=ids, **options)
    method = SharpBalance(from_epoch=1, **options)
    whole = ranks(method, samples, batch_norm=batch_norm, train=train, ids=ids)
    assert_weights(whole, outcome)
    begun = ranks(method, samples, batch_norm=batch_norm, train=train, ids=ids, part=(0, 5))
    states = [rank["state"] for rank in begun]
    rest = ranks(method, samples, batch_norm=batch_norm, train=train, ids=ids, part=(5, STEPS), states=states)
    assert furthest(rest, whole) == 0


def test_the_loops_see_what_is_planted() -> None:
    """A method with another parameter, or the other way to average, is no longer equal."""
    for case, other in {"LookSAM": LookSAM(0.1, 3, 0.4), "FSAM": FSAM(0.1, 0.9, 0.7, "mean")}.items():
        _, loop, options = CASES[case]
        with pytest.raises(AssertionError):
            assert_weights(ranks(other), expected(loop, options, False, data()))
