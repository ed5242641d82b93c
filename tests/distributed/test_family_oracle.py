"""The loops of ``family_oracle``, checked by what the definitions say and by the other oracle. One process each."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.distributed import family_oracle, proof_oracle
from tests.distributed.proof_oracle import Batches, OneMember, Outcome, Settings
from tests.distributed.test_proof_oracle import SYNCS, column, data, distance, nets, reference
from tests.oracle import Vector, add, dot, norm, p_norm, scale, unit, zeros

STEPS = 5
SETTINGS = {"clip": 0.4, "factors": [1.0, 0.9, 0.7, 0.4, 0.2]}
Rule = tuple[str, dict[str, Any]]


def ones(batch_norm: bool = False) -> list[list[Vector]]:
    """A mask of every weight, for every step and member."""
    return [[[torch.ones_like(p) for p in net.parameters()] for net in nets(batch_norm=batch_norm)]] * STEPS


def drawn(beta: float) -> list[list[Vector]]:
    draw = torch.Generator().manual_seed(5)

    def one(like: Tensor) -> Tensor:
        return (torch.rand(like.shape, generator=draw) < beta).double()

    return [[[one(p) for p in net.parameters()] for net in nets()] for _ in range(STEPS)]


def run(rule: Rule, batch_norm: bool = False, batches: Batches | None = None, **settings: Any) -> Outcome:
    name, options = rule
    chosen = Settings(**{**SETTINGS, **settings})  # type: ignore[arg-type]
    return getattr(family_oracle, name)(nets(batch_norm=batch_norm), batches or data(STEPS), chosen, **options)


def sam(batch_norm: bool = False, rho: float = 0.2, **settings: Any) -> list[dict[str, Tensor]]:
    chosen = Settings(**{**SETTINGS, **settings})  # type: ignore[arg-type]
    return reference(nets(batch_norm=batch_norm), data(STEPS), chosen, rho)


RULES: dict[str, Rule] = {
    "ASAM": ("asam", {"rho": 0.5}),
    "GSAM": ("gsam", {"rho": 0.3, "rho_min": 0.1, "alpha": 0.3, "factors": (0.2, 1.0)}),
    "GAM": ("gam", {"rho": 0.2, "r": 0.1, "alpha": 0.3}),
    "GAM exact": ("gam", {"rho": 0.2, "alpha": 0.3, "form": "exact"}),
    "GAM authors": ("gam", {"rho": 0.2, "r": 0.1, "form": "authors"}),
    "ESAM": ("esam", {"rho": 0.2, "beta": 0.6, "gamma": 0.5, "masks": drawn(0.6)}),
    "LookSAM": ("looksam", {"rho": 0.2, "k": 2}),
    "AE-SAM": ("aesam", {"rho": 0.2, "gate_start": 0.3, "gate_end": -0.3}),
    "F-SAM": ("fsam", {"rho": 0.2}),
    "MSAM": ("msam", {"rho": 0.2}),
}


@pytest.mark.parametrize("name", RULES)
def test_a_step_that_is_not_finite_leaves_no_trace(name: str) -> None:
    rule, batches = RULES[name], data(STEPS)
    batches[2][1][0][0][0, 0] = torch.nan
    found = run(rule, batches=batches)
    assert [row[0]["moved"] for row in found.records] == [True, True, False, True, True]
    assert all(bool(torch.isfinite(x).all()) for state in found.weights for x in state.values())
    if name in ("LookSAM", "AE-SAM", "GSAM", "ESAM"):
        return  # what they do depends on the number of the step
    without = [*batches[:2], *batches[3:]]
    factors = [f for step, f in enumerate(SETTINGS["factors"]) if step != 2]  # type: ignore[arg-type, var-annotated]
    assert distance(run(rule, batches=without, factors=factors).weights, found.weights) == 0


@pytest.mark.parametrize("name", RULES)
def test_equal_samples_on_replicas_are_one_replica(name: str) -> None:
    one = data(3, replicas=1)
    two = [[replicas[0], replicas[0]] for replicas in one]
    for sync in SYNCS:
        pair = [run(RULES[name], batches=batches, ascent_sync=sync) for batches in (one, two)]
        assert distance(pair[0].weights, pair[1].weights) < 1e-12


@pytest.mark.parametrize("name", RULES)
def test_only_some_rules_depend_on_the_replicas_ascent(name: str) -> None:
    mean, local = (run(RULES[name], batches=data(3), ascent_sync=sync) for sync in SYNCS)
    apart = distance(mean.weights, local.weights)
    assert apart == 0 if name in ("ESAM", "LookSAM", "MSAM") else apart > 1e-6


PLAIN: list[Rule] = [
    ("gsam", {"rho": 0.2, "alpha": 0.0}),
    ("fsam", {"rho": 0.2, "sigma": 0.0}),
]


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("rule", PLAIN)
def test_rules_that_are_sam(rule: Rule, sync: str) -> None:
    assert distance(run(rule, True, ascent_sync=sync).weights, sam(True, ascent_sync=sync)) < 1e-12


def test_an_asam_of_equal_lengths_is_sam() -> None:
    """T = η everywhere but for |θ| that does not matter: the radius is ρ in units of η."""
    found = run(("asam", {"rho": 0.2e-9, "eta": 1e9, "adapt": "all"}))
    assert distance(found.weights, sam()) < 1e-6


@pytest.mark.parametrize("adapt", ["weights", "matrices", "all"])
@pytest.mark.parametrize("sync", SYNCS)
def test_the_ascent_of_asam_has_length_rho_in_its_own_units(adapt: str, sync: str) -> None:
    found = run(("asam", {"rho": 0.7, "adapt": adapt}), True, data(1), ascent_sync=sync)
    for i, net in enumerate(nets(batch_norm=True)):
        adapts = {"weights": [0, 2, 4], "matrices": [0, 4], "all": list(range(6))}[adapt]
        t = [p.detach().abs() + 0.01 if k in adapts else torch.ones_like(p) for k, p in enumerate(net.parameters())]
        for eps in found.records[0][i]["eps"]:
            assert norm([e / s for e, s in zip(eps, t, strict=True)]) == pytest.approx(0.7, rel=1e-12)


def test_the_names_that_adapt() -> None:
    without, with_norms = ({a: run(("asam", {"rho": 0.5, "adapt": a}), bn) for a in KINDS} for bn in (False, True))
    assert distance(without["weights"].weights, without["matrices"].weights) == 0
    assert distance(with_norms["weights"].weights, with_norms["matrices"].weights) > 1e-6
    assert distance(without["weights"].weights, without["all"].weights) > 1e-6


KINDS = ["weights", "matrices", "all"]


def test_asam_never_divides_by_zero() -> None:
    g = [torch.randn(3, dtype=torch.float64)]
    assert norm(family_oracle.stretched(g, zeros(g))) == 0


def test_what_is_not_moved_is_not_perturbed() -> None:
    whole, first = (run(("asam", {"rho": 0.5, "moved": moved}), batches=data(1)) for moved in (None, [0, 1]))
    eps = first.records[0][0]["eps"][0]
    assert [float(e.abs().max()) > 0 for e in eps] == [True, True, False, False]
    assert distance(whole.weights, first.weights) > 1e-6


def small_member(sync: str = "local") -> OneMember:
    member = OneMember(nets()[0], Settings(ascent_sync=sync))  # type: ignore[arg-type]
    member.differentiate(data(1)[0])
    return member


def test_the_hessian_product_is_a_difference_of_gradients() -> None:
    member, replicas = small_member(), data(1)[0]
    draw = torch.Generator().manual_seed(9)
    along = [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in member.theta]
    exact = family_oracle.hessian_product(member, replicas, [zeros(along)] * 2, [along] * 2)
    up, down = (member.differentiate(replicas, [scale(h, along)] * 2)[0] for h in (1e-5, -1e-5))
    for a, b, c in zip(exact, up, down, strict=True):
        assert p_norm(add(a, scale(-1 / 2e-5, add(b, scale(-1, c)))), math.inf) < 1e-8


@pytest.mark.parametrize("sync", SYNCS)
def test_gam_by_differences_tends_to_the_exact_one(sync: str) -> None:
    exact = run(("gam", {"rho": 0.2, "alpha": 0.3, "form": "exact"}), True, data(1), ascent_sync=sync)
    gaps = [
        distance(
            exact.weights, run(("gam", {"rho": 0.2, "r": r, "alpha": 0.3}), True, data(1), ascent_sync=sync).weights
        )
        for r in (1e-2, 1e-3, 1e-4)
    ]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    assert gaps[2] < 1e-5


def test_gam_is_the_gradient_of_its_own_penalty() -> None:
    """The exact direction minus ∇L is the gradient of αρ‖∇L‖ at θ_a: a finite difference along a random direction."""
    member, replicas = small_member(), data(1, replicas=1)[0]
    g, _ = member.differentiate(replicas)
    far = scale(0.2, unit(family_oracle.hessian_product(member, replicas, [zeros(g[0])], [unit(g[0])])[0]))
    draw = torch.Generator().manual_seed(9)
    along = [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in member.theta]
    up, down = (norm(member.differentiate(replicas, [add(far, scale(h, along))])[0][0]) for h in (1e-5, -1e-5))
    found = run(("gam", {"rho": 0.2, "alpha": 0.3, "form": "exact"}), batches=[replicas])
    extra = add(found.records[0][0]["direction"][0], scale(-1, g[0]))
    assert dot(extra, along) == pytest.approx(0.3 * 0.2 * (up - down) / 2e-5, rel=1e-7)


def test_gam_without_weight_is_sgd_and_the_authors_is_twice_as_long() -> None:
    for form in ("difference", "exact"):
        found = run(("gam", {"rho": 0.2, "alpha": 0.0, "form": form}))
        assert distance(found.weights, sam(rho=0.0)) < 1e-12
    found = run(("gam", {"rho": 0.01, "r": 0.01, "form": "authors"}))
    lengths = [record["descent_norm"] / math.sqrt(record["squared"]) for record in (row[0] for row in found.records)]
    assert lengths[0] == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("form", ["two_forwards", "three_forwards"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_esam_of_everything_is_sam(form: str, batch_norm: bool) -> None:
    options = {"rho": 0.2, "beta": 1.0, "gamma": 1.0, "form": form}
    expected = sam(batch_norm, ascent_sync="local")
    for masks in (None, ones(batch_norm)):
        found = run(("esam", {**options, "masks": masks}), batch_norm)
        assert distance(found.weights, expected) < 1e-12


def test_the_forms_of_esam_differ_with_batch_norm_only() -> None:
    options = {"rho": 0.2, "beta": 1.0, "gamma": 0.5}
    for batch_norm in (False, True):
        two, three = (run(("esam", {**options, "form": f}), batch_norm) for f in ("two_forwards", "three_forwards"))
        assert (distance(two.weights, three.weights) < 1e-12) == (not batch_norm)
        assert [len(some) for some in column(two, "selected")[0]] == [5, 5]  # of 10 on each replica


def test_esam_is_the_small_system_of_the_proofs() -> None:
    for batch_norm in (False, True):
        old = proof_oracle.esam(nets(batch_norm=batch_norm), data(), Settings(ascent_sync="local"), rho=0.2, gamma=0.4)
        ours = family_oracle.esam(nets(batch_norm=batch_norm), data(), Settings(), rho=0.2, beta=1.0, gamma=0.4)
        assert distance(ours.weights, old.weights) < 1e-12
        assert column(ours, "selected") == column(old, "selected")


def test_a_masked_ascent_is_longer_by_beta() -> None:
    masks = drawn(0.6)
    found = run(("esam", {"rho": 0.2, "beta": 0.5, "gamma": 1.0, "masks": masks}), batches=data(1, 1, 1))
    (x, target), net = data(1, 1, 1)[0][0][0], nets()[0]
    loss = nn.functional.cross_entropy(net(x), target)
    g = torch.autograd.grad(loss, list(net.parameters()))
    length = torch.cat([a.reshape(-1) for a in g]).norm()
    with torch.no_grad():
        for p, a, m in zip(net.parameters(), g, masks[0][0], strict=True):
            p.add_(0.2 / 0.5 * m * a / length)
    assert found.records[0][0]["loss_perturbed"] == pytest.approx(nn.functional.cross_entropy(net(x), target).item())
    with pytest.raises(ValueError, match="masks"):
        run(("esam", {"rho": 0.2}))


def test_a_rise_that_is_not_finite_is_never_chosen() -> None:
    nan, inf = math.nan, math.inf
    assert family_oracle.risen(torch.tensor([nan, 1.0, inf, 1.0, 0.5, 1.0]), 0.3) == [1, 3]
    assert family_oracle.risen(torch.tensor([nan, 1.0, inf, -inf]), 0.75) == [1]
    assert family_oracle.risen(torch.tensor([nan, inf]), 0.5) == []
    assert family_oracle.risen(torch.tensor([0.0, 0.0, 0.0]), 0.01) == [0]


def test_a_chosen_sample_alone_goes_with_its_micro_batch() -> None:
    member, replicas = OneMember(nets(batch_norm=True)[0], Settings()), data(1, 1)[0]
    member.differentiate(replicas)
    nothing = [zeros(member.theta)]
    for chosen, same in (([2, 7], True), ([0, 1, 3], False)):
        whole, alone = (
            family_oracle.of_chosen(member, replicas, nothing, [chosen], [0.5], alone=a)[0] for a in (False, True)
        )
        assert (p_norm(add(whole, scale(-1, alone)), math.inf) < 1e-14) == same
        assert norm(alone) > 0


def test_every_update_a_refresh_of_looksam_is_sam() -> None:
    assert distance(run(("looksam", {"rho": 0.2, "k": 1}), True).weights, sam(True)) < 1e-12


def test_what_looksam_keeps_is_orthogonal_and_as_long_as_asked() -> None:
    found = run(("looksam", {"rho": 0.2, "k": 3, "alpha": 0.7}))
    first, second = found.records[0][0], found.records[1][0]
    assert dot(first["kept"], first["along"]) == pytest.approx(0, abs=1e-14)
    assert norm(first["kept"]) > 1e-3
    assert second["kept"] is first["kept"]
    assert found.records[3][0]["kept"] is not first["kept"]
    g = second["along"]
    expected = add(g, scale(0.7 * norm(g) / norm(first["kept"]), first["kept"]))
    assert second["descent_norm"] == pytest.approx(norm(expected))


def test_looksam_keeps_what_it_had_where_a_refresh_is_skipped() -> None:
    batches = data(STEPS)
    batches[2][0][0][0][0, 0] = torch.nan
    found = run(("looksam", {"rho": 0.2, "k": 2}), batches=batches)
    assert found.records[3][0]["kept"] is found.records[0][0]["kept"]
    batches = data(STEPS)
    batches[0][0][0][0][0, 0] = torch.nan
    found = run(("looksam", {"rho": 0.2, "k": 2}), batches=batches)
    assert found.records[1][0]["kept"] is None
    assert found.records[1][0]["descent_norm"] == pytest.approx(norm(found.records[1][0]["along"]))


def test_the_gate_of_ae_sam_takes_the_sync_given() -> None:
    options = {"rho": 0.2, "gate_start": 0.5, "gate_end": -0.5}
    given, set_before = (
        run(("aesam", {**options, "ascent_sync": "local"})),
        run(("aesam", options), ascent_sync="local"),
    )
    assert distance(given.weights, set_before.weights) == 0
    assert column(given, "sam")[0]
    mean = run(("aesam", options), ascent_sync="mean")
    assert all(a["squared"] > b["squared"] for a, b in zip(given.records[0], mean.records[0], strict=True))


def test_the_first_update_of_f_sam_is_sam() -> None:
    chosen = Settings(**{**SETTINGS, "ascent_sync": "local"})  # type: ignore[arg-type]
    found = family_oracle.fsam(nets(), data(1), chosen, rho=0.2)
    assert distance(found.weights, reference(nets(), data(1), chosen, 0.2)) < 1e-12
    assert distance(run(("fsam", {"rho": 0.2})).weights, sam()) > 1e-5


def test_f_sam_subtracts_the_mean_of_before() -> None:
    a, b = ([torch.tensor([x], dtype=torch.float64)] for x in (1.0, 3.0))
    assert family_oracle.blended(None, [a], 0.6) == [a]
    assert float(family_oracle.blended([a], [b], 0.6)[0][0]) == pytest.approx(0.6 * 1 + 0.4 * 3)


def test_msam_is_torchs_optimizer_with_moved_weights() -> None:
    for clip in (0.0, 0.3):
        ours = run(("msam", {"rho": 0.3}), True, data(STEPS, 1, 1), clip=clip, factors=None)
        net = nets(batch_norm=True)[0]
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for step in data(STEPS, 1, 1):
            before = [p.detach().clone() for p in net.parameters()]
            buffers = [optimizer.state[p].get("momentum_buffer") for p in net.parameters()]
            with torch.no_grad():
                for p, v in zip(net.parameters(), buffers, strict=True):
                    if v is not None:
                        p.sub_(0.3 * v / torch.cat([b.reshape(-1) for b in buffers if b is not None]).norm())
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(step[0][0][0]), step[0][0][1]).backward()
            with torch.no_grad():
                for p, old in zip(net.parameters(), before, strict=True):
                    p.copy_(old)
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
        assert distance(ours.weights[:1], [net.state_dict()]) < 1e-12
    with pytest.raises(ValueError, match="momentum"):
        run(("msam", {"rho": 0.3}), momentum=0.0)
