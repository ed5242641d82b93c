"""The loops of ``peers_oracle`` and ``repulsion_oracle``, checked by what the definitions say. One process each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import oracle
from tests.distributed import peers_oracle, repulsion_oracle
from tests.distributed.proof_oracle import Batches, OneMember, Outcome, Settings
from tests.distributed.test_proof_oracle import FEATURES, SYNCS, column, data, distance, nets, reference
from tests.oracle import add, dot, norm, p_norm, scale, unit

STEPS = 3
MICRO = 5


def settings(**options: Any) -> Settings:
    return Settings(**{"clip": 0.4, **options})


# ------------------------------------------------------------------------------------------------- SharpBalance


def split(batches: Batches) -> tuple[peers_oracle.Split, peers_oracle.Identities]:
    """All samples of all batches as the training split, with ids that are not positions."""
    micros = [micro for step in batches for replica in step for micro in replica]
    x, target = (torch.cat([micro[part] for micro in micros]) for part in (0, 1))
    names = 1000 - torch.arange(len(x))
    pieces = iter(names.split(MICRO))
    return (x, target, names), [[[next(pieces) for _ in replica] for replica in step] for step in batches]


def balanced(batch_norm: bool = False, replicas: int = 2, **options: Any) -> Outcome:
    batches = data(STEPS, replicas)
    train, ids = split(batches)
    chosen = {"rho": 0.2, "from_step": 1, "part": 2, **options}
    made = nets(batch_norm=batch_norm)
    return peers_oracle.sharpbalance(made, batches, settings(), train=train, ids=ids, **chosen)


def test_the_norm_of_one_sample() -> None:
    net, (x, target) = nets(batch_norm=True)[0], data(1)[0][0][0]
    scores = peers_oracle.sample_norms(OneMember(net, settings()), x, target)
    assert net.training
    net.eval()
    for s, score in enumerate(scores):
        loss = nn.functional.cross_entropy(net(x[s : s + 1]), target[s : s + 1])
        squares = sum(float((g**2).sum()) for g in torch.autograd.grad(loss, list(net.parameters())))
        assert score == pytest.approx(squares)


def test_the_sharp_and_the_rest() -> None:
    scores, ids = [1.0, 5.0, 2.0, 5.0, 0.5, 2.0], [9, 8, 7, 6, 5, 4]
    assert peers_oracle.sharp(scores, ids, 0.5, "high") == {6, 8, 4}  # of 4 and 7 the smaller id
    assert peers_oracle.sharp(scores, ids, 0.34, "low") == {5, 9}
    assert peers_oracle.sharp(scores, ids, 0.1, "high") == set()
    found, everyone = [{1, 2}, {2, 3}], list(range(10))  # free: 0 4 5 6 7 8 9
    assert peers_oracle.sam_sets(found, everyone, "split", 3) == [{2, 3, 0, 6, 9}, {1, 2, 4, 7}]
    assert peers_oracle.sam_sets(found, everyone, "all_but_split", 3)[0] == {2, 3, 4, 5, 7, 8}
    assert peers_oracle.sam_sets([{1}], everyone, "split", 1) == [set(everyone) - {1}]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_set_of_all_samples_is_sam_and_of_none_sgd(batch_norm: bool) -> None:
    local = settings(ascent_sync="local")
    for rest, rho in (("split", 0.2), ("all_but_split", 0.0)):
        found = balanced(batch_norm, share=0.0, part=1, rest=rest, from_step=0)
        expected = reference(nets(batch_norm=batch_norm), data(STEPS), local, rho)
        assert distance(found.weights, expected) < 1e-12
    before = balanced(batch_norm, from_step=STEPS)
    assert distance(before.weights, reference(nets(batch_norm=batch_norm), data(STEPS), local, 0.2)) < 1e-12


def test_the_mixed_descent_is_the_authors_without_batch_norm() -> None:
    """(n_p/n) ∇CE_plain(θ) + (n_s/n) ∇CE_set(θ + ρ unit(∇CE_set(θ))), forwards of the two parts apart."""
    found = balanced(replicas=1, from_step=0, share=0.3)
    (micros,), picked = data(1, 1)[0], found.records[0][0]["sam"][0]
    x, target = (torch.cat([micro[part] for micro in micros]) for part in (0, 1))
    net, plain = nets()[0], [s for s in range(len(x)) if s not in picked]
    assert 0 < len(picked) < len(x)

    def slope(some: list[int]) -> oracle.Vector:
        loss = nn.functional.cross_entropy(net(x[some]), target[some])
        return list(torch.autograd.grad(loss, list(net.parameters())))

    at_rest, ascent = slope(plain), slope(picked)
    with torch.no_grad():
        for p, e in zip(net.parameters(), unit(ascent), strict=True):
            p.add_(0.2 * e)
    expected = add(scale(len(plain) / len(x), at_rest), scale(len(picked) / len(x), slope(picked)))
    assert found.records[0][0]["descent_norm"] == pytest.approx(norm(expected), rel=1e-12)


def test_the_sets_are_measured_once_and_by_the_peer() -> None:
    found = balanced(True, share=0.25)
    low = balanced(True, share=0.25, sharpest="low")
    assert "set" not in found.records[0][0]
    for i in range(2):
        later = [found.records[step][i]["set"] for step in (1, 2)]
        assert later[0] == later[1]
        assert later[0] != found.records[1][1 - i]["set"]
        assert later[0] != low.records[1][i]["set"]


# ------------------------------------------------------------------------------------------------- DASH


def dashed(batch_norm: bool = False, batches: Batches | None = None, sync: str = "mean", **options: Any) -> Outcome:
    chosen = {"rho_loss": 0.2, "rho_div": 0.3, **options}
    made = nets(3, batch_norm)
    return peers_oracle.dash(made, batches or data(STEPS), settings(ascent_sync=sync), **chosen)


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_dash_is_that_of_the_other_oracle(sync: str, batch_norm: bool) -> None:
    made, own = nets(3, batch_norm), {"momentum": 0.9, "weight_decay": 5e-4, "clip": 0.4}
    options = oracle.Options(rho_loss=0.2, rho_div=0.3, ascent_sync=sync, **own)  # type: ignore[arg-type]
    oracle.train(made, data(STEPS), options)
    assert distance(dashed(batch_norm, sync=sync).weights, [net.state_dict() for net in made]) < 1e-12
    every = dashed(batch_norm, sync=sync, every=2)
    assert distance(every.weights, [net.state_dict() for net in made]) > 1e-4


@pytest.mark.parametrize("ascent", ["SAM", "ASAM", "FSAM", "MSAM"])
def test_the_parts_of_an_ascent(ascent: str) -> None:
    both, loss, apart = (
        dashed(batches=data(1), ascent_by=ascent, rho_loss=a, rho_div=b).records[0][0]["eps"][0]
        for a, b in ((0.2, 0.3), (0.2, 0.0), (0.0, 0.3))
    )
    assert p_norm(add(both, scale(-1, add(loss, apart))), math.inf) < 1e-15
    assert norm(apart) == pytest.approx(0.3)
    if ascent in ("SAM", "FSAM"):
        assert norm(loss) == pytest.approx(0.2)
    elif ascent == "MSAM":
        assert norm(loss) == 0  # no momentum yet
    moved = dashed(ascent_by=ascent, moved=[1, 2])
    for record in moved.records:
        assert [float(e.abs().max()) > 0 for e in record[1]["eps"][0]] == [False, True, True, False]
    if ascent == "FSAM":
        plain = dashed(ascent_by=ascent, sigma=0.0)
        assert distance(plain.weights, dashed().weights) < 1e-12


def test_between_full_updates_the_kept_part_is_used() -> None:
    found = dashed(every=2, sync="local")
    assert ["eps" in record[0] for record in found.records] == [True, False, True]
    full, between = found.records[0][0], found.records[1][0]
    assert dot(full["kept"], full["along"]) == pytest.approx(0, abs=1e-14)
    assert between["kept"] is full["kept"]
    g = between["along"]
    expected = add(g, scale(0.7 * norm(g) / norm(full["kept"]), full["kept"]))
    assert between["descent_norm"] == pytest.approx(norm(expected))
    batches = data(STEPS)
    batches[0][0][0][0][0, 0] = torch.nan
    first = dashed(every=STEPS, batches=batches)
    assert first.records[1][0]["descent_norm"] == pytest.approx(math.sqrt(first.records[1][0]["squared"]))


def test_dash_alone_is_its_ascent() -> None:
    made = nets(1)
    found = peers_oracle.dash(made, data(STEPS), settings(), rho_loss=0.2, rho_div=0.3)
    assert distance(found.weights, reference(nets(1), data(STEPS), settings(), 0.2)) < 1e-12


# ------------------------------------------------------------------------------------------------- repulsion


def repelled(members: int = 3, batches: Batches | None = None, made: list[nn.Module] | None = None, **options: Any):
    return repulsion_oracle.repulsive(made or nets(members), batches or data(STEPS), settings(), **options)


def numeric(f: Callable[[Tensor], float], at: Tensor, h: float = 1e-6) -> Tensor:
    steps = h * torch.eye(at.numel(), dtype=torch.float64)
    return torch.stack([torch.tensor((f(at + s) - f(at - s)) / (2 * h)) for s in steps.reshape(-1, *at.shape)])


def points(count: int, width: int = 6) -> list[Tensor]:
    draw = torch.Generator().manual_seed(count)
    return [torch.randn(width, generator=draw, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("bandwidth", ["pairs", "authors"])
def test_the_force_is_a_finite_difference(bandwidth: str) -> None:
    f, s = points(4), points(8)[:4]
    k, h = repulsion_oracle.kernels(f, bandwidth, 4)  # type: ignore[arg-type]

    def log_sum(x: Tensor) -> float:
        return math.log(1 + sum(math.exp(-float(((x - f[j]) ** 2).sum()) / (2 * h)) for j in (1, 2, 3)))

    kde = repulsion_oracle.directions(f, s, 0.7, "kde", bandwidth, "finite")[0]  # type: ignore[arg-type]
    assert float((kde - s[0] - 0.7 * numeric(log_sum, f[0])).abs().max()) < 1e-8
    svgd = repulsion_oracle.directions(f, s, 0.7, "svgd", bandwidth, "finite")[0]  # type: ignore[arg-type]
    expected = torch.zeros(6, dtype=torch.float64)
    for j in range(4):

        def one(x: Tensor) -> float:
            return math.exp(-float(((x - f[0]) ** 2).sum()) / (2 * h))

        expected += (k[j][0] * s[j] - 0.7 * numeric(one, f[j])) / 4
    assert float((svgd - expected).abs().max()) < 1e-8


def test_the_median_is_the_true_one() -> None:
    line = [torch.tensor([x], dtype=torch.float64) for x in (0.0, 1.0, 3.0)]  # squared distances 1, 9, 4
    assert repulsion_oracle.kernels(line, "pairs", 3)[1] == pytest.approx(4 / (2 * math.log(4)))
    assert repulsion_oracle.kernels(line, "authors", 3)[1] == pytest.approx(1 / (2 * math.log(4)))
    two = line[:1] + line[2:]
    assert repulsion_oracle.kernels(two, "pairs", 2)[1] == pytest.approx(9 / (2 * math.log(3)))
    assert repulsion_oracle.kernels(two, "authors", 2)[1] == pytest.approx(4.5 / (2 * math.log(3)))


@pytest.mark.parametrize("kind", ["kde", "svgd"])
def test_a_sick_member_is_left_out(kind: str) -> None:
    f, s = points(4), points(8)[:4]
    sick = [*f[:3], f[3] * math.inf]
    ours = repulsion_oracle.directions(sick, s, 0.7, kind, "pairs", "finite")  # type: ignore[arg-type]
    alone = repulsion_oracle.directions(f[:3], s[:3], 0.7, kind, "pairs", "finite")  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(ours, alone, strict=False))
    batches = data(STEPS)
    made = nets(3)
    with torch.no_grad():
        next(made[2].parameters()).fill_(math.nan)
    for space in ("logits", "probs", "weights"):
        found = repelled(made=made, batches=batches, kernel=kind, space=space)
        two = repelled(2, batches, kernel=kind, space=space)
        assert distance(found.weights[:2], two.weights) == 0
        assert not any(column(found, "moved", 2))


@pytest.mark.parametrize("kind", ["kde", "svgd"])
@pytest.mark.parametrize("space", ["logits", "probs", "weights"])
@pytest.mark.parametrize("base", ["SGD", "SAM"])
def test_equal_members_and_a_single_one_feel_no_force(kind: str, space: str, base: str) -> None:
    expected = reference(nets(1), data(2), settings(ascent_sync="local"), 0.2 if base == "SAM" else 0.0)
    options = {"kernel": kind, "space": space, "base": base, "rho": 0.2}
    for made in (nets(1), [nets(1)[0] for _ in range(3)]):
        found = repelled(made=made, batches=data(2), **options)
        assert distance(found.weights, expected * len(made)) < 1e-12


@pytest.mark.parametrize("space", ["logits", "probs"])
def test_the_repulsion_of_outputs_is_the_gradient_of_one_loss(space: str) -> None:
    """∇_θ [L + (λ/n) log Σ_j k(f_i, f_j)] by autograd, on one micro-batch, at the member's SAM point."""
    batches = data(1, 1, 1)
    (x, target), made = batches[0][0][0], nets(3)
    found = repelled(batches=batches, weight=2.0, space=space, base="SAM", rho=0.2)
    for net in made:
        g = torch.autograd.grad(nn.functional.cross_entropy(net(x), target), list(net.parameters()))
        with torch.no_grad():
            for p, e in zip(net.parameters(), unit(list(g)), strict=True):
                p.add_(0.2 * e)
    outputs = [net(x) if space == "logits" else net(x).softmax(1) for net in made]
    _, h = repulsion_oracle.kernels([f.detach() for f in outputs], "pairs", 3)
    for i, net in enumerate(made):
        near = [torch.exp(-((outputs[i] - f.detach()) ** 2).sum() / (2 * h)) for f in outputs]
        loss = nn.functional.cross_entropy(net(x), target) + 2.0 / MICRO * torch.stack(near).sum().log()
        expected = list(torch.autograd.grad(loss, list(net.parameters()), retain_graph=True))
        gap = p_norm(add(found.records[0][i]["direction"][0], scale(-1, expected)), math.inf)
        assert gap < 1e-14
        assert float(torch.stack(near).sum()) > 1.01


def test_the_repulsion_of_weights_counts_the_samples_of_an_epoch() -> None:
    plain, short, long = (
        repelled(2, data(1), weight=w, space="weights", updates_per_epoch=u).records[0][0]["direction"]
        for w, u in ((0.0, 1), (40.0, 2), (40.0, 8))
    )
    forces = [[add(a, scale(-1, b)) for a, b in zip(some, plain, strict=True)] for some in (short, long)]
    assert p_norm(add(forces[0][0], scale(-4, forces[1][0])), math.inf) < 1e-14
    assert p_norm(add(forces[0][0], scale(-1, forces[0][1])), math.inf) < 1e-14  # equal on replicas
    a, b = ([p.detach() for p in net.parameters()] for net in nets())
    away = add(b, scale(-1, a))  # descending it leads away from the other member
    k = math.exp(-math.log(3))  # m = 2: d²/2h = ln 3
    h = dot(away, away) / (2 * math.log(3))
    expected = scale(40 / (20 * 2) * k / (1 + k) / h, away)
    assert p_norm(add(forces[0][0], scale(-1, expected)), math.inf) < 1e-14


def test_the_spaces_and_kernels_differ() -> None:
    cases = [{"kernel": k, "space": s} for k in ("kde", "svgd") for s in ("logits", "probs", "weights")]
    ends = [repelled(weight=5.0, **case).weights for case in cases]
    ends.append(repelled(weight=5.0, bandwidth="authors").weights)
    assert min(distance(a, b) for k, a in enumerate(ends) for b in ends[:k]) > 1e-6
    assert nets()[0][0].in_features == FEATURES
