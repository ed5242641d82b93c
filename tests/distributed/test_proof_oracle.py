"""The loops of ``proof_oracle``, checked by what the definitions say and by the other oracle. One process each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests import oracle
from tests.distributed import proof_oracle
from tests.distributed.proof_oracle import Batches, Outcome, Settings

STEPS, CLASSES, FEATURES = 6, 5, 4
FACTORS = [1.0, 0.9, 0.7, 0.4, 0.2, 0.1]
SYNCS = ["mean", "local"]


def nets(count: int = 2, batch_norm: bool = False, outputs: int = CLASSES) -> list[nn.Module]:
    made: list[nn.Module] = []
    for i in range(count):
        torch.manual_seed(10 + i)
        middle = [nn.BatchNorm1d(6)] if batch_norm else []
        made.append(nn.Sequential(nn.Linear(FEATURES, 6), *middle, nn.Tanh(), nn.Linear(6, outputs)).double())
    return made


def data(steps: int = STEPS, replicas: int = 2, micros: int = 2, size: int = 5) -> Batches:
    draw = torch.Generator().manual_seed(3)

    def one() -> tuple[Tensor, Tensor]:
        x = torch.randn(size, FEATURES, generator=draw, dtype=torch.float64)
        y = torch.randint(CLASSES, (2, size), generator=draw)
        one_hot = torch.eye(CLASSES, dtype=torch.float64)
        return x, 0.8 * one_hot[y[0]] + 0.2 * one_hot[y[1]]

    return [[[one() for _ in range(micros)] for _ in range(replicas)] for _ in range(steps)]


def reference(
    members: list[nn.Module], batches: Batches, settings: Settings, rho: float | list[float] = 0.0
) -> list[dict[str, Tensor]]:
    """SAM of the other oracle, with the rate and the radius of every step; SGD where the radius is 0."""
    velocity: list[oracle.Vector | None] = [None for _ in members]
    for step, replicas in enumerate(batches):
        radius = rho[step] if isinstance(rho, list) else rho
        options = oracle.Options(
            method="SAM" if radius else "SGD",
            rho=radius,
            lr=settings.lr * settings.factor(step),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            ascent_sync=settings.ascent_sync,
        )
        oracle.train_step(members, replicas, options, step, velocity)
    return [member.state_dict() for member in members]


def distance(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> float:
    pairs = [(one[name], two[name]) for one, two in zip(a, b, strict=True) for name in two]
    assert all(set(one) == set(two) for one, two in zip(a, b, strict=True))
    return max(float((one.double() - two.double()).abs().max()) for one, two in pairs)


def column(outcome: Outcome, name: str, member: int = 0) -> list:
    return [step[member][name] for step in outcome.records]


def test_members_are_left_as_they_were() -> None:
    members = nets(batch_norm=True)
    before = [oracle.copies(member.state_dict()) for member in members]
    after = proof_oracle.sam(members, data(), Settings(), rho=0.1)
    assert distance([member.state_dict() for member in members], before) == 0
    assert distance(after.weights, before) > 1e-3


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_sam_is_the_other_oracle(sync: str, clip: float) -> None:
    settings = Settings(ascent_sync=sync, clip=clip, factors=FACTORS)
    ours = proof_oracle.sam(nets(batch_norm=True), data(), settings, rho=0.2)
    assert distance(ours.weights, reference(nets(batch_norm=True), data(), settings, 0.2)) < 1e-12
    assert min(column(ours, "descent_norm")) > 0.3  # the clip acts


@pytest.mark.parametrize("sync", SYNCS)
def test_gsam_without_decomposition_is_sam_of_the_same_radii(sync: str) -> None:
    settings = Settings(ascent_sync=sync, factors=FACTORS, clip=0.3)
    ours = proof_oracle.gsam(nets(), data(), settings, rho=(0.1, 0.4), alpha=0.0, factors=(0.1, 1.0))
    radii = [0.1 + 0.3 * (f - 0.1) / 0.9 for f in FACTORS]
    assert column(ours, "rho") == pytest.approx(radii)
    assert (radii[0], radii[-1]) == pytest.approx((0.4, 0.1))
    assert distance(ours.weights, reference(nets(), data(), settings, radii)) < 1e-12
    other = proof_oracle.gsam(nets(), data(), settings, rho=(0.1, 0.4), alpha=0.3, factors=(0.1, 1.0))
    assert distance(ours.weights, other.weights) > 1e-5


def test_gsam_of_a_constant_rate_has_the_largest_radius() -> None:
    ours = proof_oracle.gsam(nets(), data(), Settings(), rho=(0.1, 0.4), alpha=0.0)
    assert distance(ours.weights, reference(nets(), data(), Settings(), 0.4)) < 1e-12


def test_gsam_subtracts_a_share_of_what_is_orthogonal() -> None:
    generator = torch.Generator().manual_seed(1)
    g, g_p = ([torch.randn(n, generator=generator, dtype=torch.float64) for n in (3, 4)] for _ in range(2))
    a, b = torch.cat(g), torch.cat(g_p)
    added = torch.cat(proof_oracle.decomposed(g, g_p, 0.4)) - b
    assert float(added @ b) == pytest.approx(0, abs=1e-12)
    orthogonal = math.sqrt(float(a @ a) - float(a @ b) ** 2 / float(b @ b))
    assert float(added @ a) == pytest.approx(-0.4 * orthogonal**2)
    assert float(added.norm()) == pytest.approx(0.4 * orthogonal)
    assert all(float(x.abs().max()) == 0 for x in proof_oracle.decomposed(g, oracle.zeros(g), 0.4))


@pytest.mark.parametrize("sync", SYNCS)
def test_gsam_under_mean_is_one_large_batch(sync: str) -> None:
    all_of = [[batch for micros in step for batch in micros] for step in data()]
    large = [[[tuple(torch.cat(part) for part in zip(*batches, strict=True))]] for batches in all_of]
    settings = Settings(ascent_sync=sync)
    two = proof_oracle.gsam(nets(), data(), settings, rho=(0.3, 0.3), alpha=0.4)
    one = proof_oracle.gsam(nets(), large, settings, rho=(0.3, 0.3), alpha=0.4)
    assert (distance(two.weights, one.weights) < 1e-12) == (sync == "mean")


@pytest.mark.parametrize("sync", SYNCS)
def test_ae_sam_whose_gate_is_always_or_never_open(sync: str) -> None:
    settings = Settings(ascent_sync=sync, factors=FACTORS)
    always = proof_oracle.ae_sam(nets(), data(), settings, rho=0.2, gate=(-math.inf, -math.inf))
    never = proof_oracle.ae_sam(nets(), data(), settings, rho=0.2, gate=(math.inf, math.inf))
    assert distance(always.weights, reference(nets(), data(), settings, 0.2)) < 1e-12
    assert distance(never.weights, reference(nets(), data(), settings)) < 1e-12
    assert column(always, "sam") == [True] * STEPS
    assert column(never, "sam") == [False] * STEPS
    low = proof_oracle.ae_sam(nets(), data(), settings, rho=0.2, gate=(-1e9, -1e9))
    high = proof_oracle.ae_sam(nets(), data(), settings, rho=0.2, gate=(1e9, 1e9))
    assert distance(low.weights, always.weights) == 0
    assert column(high, "sam") == [True] + [False] * (STEPS - 1)


def test_ae_sam_gates_by_weighted_sums_of_the_past() -> None:
    steps, delta, gate = 12, 0.8, (0.5, -0.5)
    ours = proof_oracle.ae_sam(nets(), data(steps), Settings(), rho=0.2, delta=delta, gate=gate)
    for member in range(2):
        squared, sam = column(ours, "squared", member), column(ours, "sam", member)
        means, deviations = [], []
        for t in range(steps):
            shares = [delta**t, *((1 - delta) * delta ** (t - s) for s in range(1, t + 1))]
            means.append(sum(a * b for a, b in zip(shares, squared, strict=False)))
            deviations.append((squared[t] - means[t]) ** 2)
            variance = sum(a * b for a, b in zip(shares[1:], deviations[1:], strict=True))
            record = ours.records[t][member]
            assert (record["mu"], record["variance"]) == pytest.approx((means[t], variance))
            c = gate[0] * (1 - t / steps) + gate[1] * t / steps
            assert record["gate"] == pytest.approx(c)
            assert sam[t] == (t == 0 or squared[t] >= means[t] + c * math.sqrt(variance))
        assert len(set(sam)) == 2
        assert [math.isfinite(r[member].get("loss_perturbed", math.nan)) for r in ours.records] == sam


@pytest.mark.parametrize("bad", [0, 3])
def test_ae_sam_is_as_if_a_skipped_step_had_not_been(bad: int) -> None:
    batches = data()
    x, target = batches[bad][1][0]
    poisoned = [list(step) for step in batches]
    poisoned[bad] = [batches[bad][0], [(x * math.nan, target), batches[bad][1][1]]]
    gate = {"rho": 0.2, "gate": (0.1, 0.1)}
    ours = proof_oracle.ae_sam(nets(), poisoned, Settings(), **gate)
    without = proof_oracle.ae_sam(nets(), batches[:bad] + batches[bad + 1 :], Settings(), **gate)
    assert distance(ours.weights, without.weights) == 0
    assert column(ours, "moved") == [step != bad for step in range(STEPS)]
    for name in ("sam", "mu", "variance"):
        assert column(ours, name)[:bad] + column(ours, name)[bad + 1 :] == column(without, name)


@pytest.mark.parametrize("sync", SYNCS)
def test_esam_of_all_samples_is_sam(sync: str) -> None:
    settings = Settings(ascent_sync=sync, clip=0.3)
    ours = proof_oracle.esam(nets(batch_norm=True), data(), settings, rho=0.2, gamma=1.0)
    assert distance(ours.weights, reference(nets(batch_norm=True), data(), settings, 0.2)) < 1e-12


def test_esam_descends_the_chosen_samples_of_an_update() -> None:
    """One step by hand: unweighted means over the samples that the definition names, by torch's own optimizer."""
    batches = data(1, micros=3)
    ours = proof_oracle.esam(nets(), batches, Settings(), rho=0.3, gamma=0.3)
    uneven = False
    for i, net in enumerate(nets()):
        every = [tuple(torch.cat(part) for part in zip(*micros, strict=True)) for micros in batches[0]]
        loss = nn.CrossEntropyLoss(reduction="none")
        weights = list(net.parameters())
        before = [loss(net(x), target) for x, target in every]
        g = torch.autograd.grad(torch.cat(before).mean(), weights)
        length = math.sqrt(sum(float((part**2).sum()) for part in g))
        with torch.no_grad():
            for p, part in zip(weights, g, strict=True):
                p.add_(part, alpha=0.3 / length)
        after = [loss(net(x), target) for x, target in every]
        chosen = [(a - b).argsort(descending=True)[:5] for a, b in zip(after, before, strict=True)]  # ⌈0.3 · 15⌉
        assert ours.records[0][i]["selected"] == [sorted(keep.tolist()) for keep in chosen]
        uneven |= any(len(set(torch.bincount(keep // 5, minlength=3).tolist())) > 1 for keep in chosen)
        torch.cat([a[keep] for a, keep in zip(after, chosen, strict=True)]).mean().backward()
        with torch.no_grad():
            for p, part in zip(weights, g, strict=True):
                p.sub_(part, alpha=0.3 / length)
        torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=5e-4).step()
        assert distance([ours.weights[i]], [net.state_dict()]) < 1e-12
    assert uneven  # a choice per micro-batch would have given another answer


def test_esam_selects_by_rise_then_position() -> None:
    rise = torch.tensor([0.1, 0.5, 0.5, math.nan, 0.5, math.inf], dtype=torch.float64)
    assert proof_oracle.selected(rise, 0.3).tolist() == [1, 2]  # ⌈1.8⌉
    assert proof_oracle.selected(rise, 0.51).tolist() == [0, 1, 2, 4]
    assert proof_oracle.selected(rise, 0.01).tolist() == [1]
    assert proof_oracle.selected(rise, 1.0).tolist() == [0, 1, 2, 3, 4, 5]
    assert proof_oracle.selected(torch.zeros(5000), 0.5).tolist() == list(range(2500))


def test_one_head_is_the_plain_loss() -> None:
    plain = proof_oracle.sam(nets(), data(), Settings(), rho=0.2)
    one = proof_oracle.sam(nets(), data(), Settings(losses=proof_oracle.of_heads([CLASSES])), rho=0.2)
    assert distance(one.weights, plain.weights) == 0


def test_two_heads_with_nothing_shared_are_two_networks() -> None:
    """Linear heads share no weight: with ρ = 0 each trains as if alone. With ρ > 0 one ε joins them."""

    def linear(outputs: list[int]) -> list[nn.Module]:
        torch.manual_seed(1)
        whole = nn.Linear(FEATURES, 2 * CLASSES).double()
        part = nn.Linear(FEATURES, len(outputs)).double()
        with torch.no_grad():
            part.weight.copy_(whole.weight[outputs])
            part.bias.copy_(whole.bias[outputs])
        return [part]

    first, second = data(), [[[(x, t.roll(1, 1)) for x, t in micros] for micros in step] for step in data()]
    both = [[[(x, torch.cat([t, t.roll(1, 1)], 1)) for x, t in micros] for micros in step] for step in first]
    heads = Settings(losses=proof_oracle.of_heads([CLASSES, CLASSES]))
    for rho, equal in ((0.0, True), (0.3, False)):
        joint = proof_oracle.sam(linear(list(range(2 * CLASSES))), both, heads, rho=rho)
        one = proof_oracle.sam(linear(list(range(CLASSES))), first, Settings(), rho=rho)
        two = proof_oracle.sam(linear(list(range(CLASSES, 2 * CLASSES))), second, Settings(), rho=rho)
        joined = {name: torch.cat([one.weights[0][name], two.weights[0][name]]) for name in ("weight", "bias")}
        assert (distance(joint.weights, [joined]) < 1e-12) == equal


@pytest.mark.parametrize(("steps", "ends"), [(6, [3, 6]), (7, [4, 7]), (5, [2, 5])])
def test_snapshots_are_points_of_one_plain_run(steps: int, ends: list[int]) -> None:
    batches = data(steps)
    ours = proof_oracle.snapshots(nets(batch_norm=True), batches, Settings(), cycles=2)
    assert proof_oracle.boundaries(steps, 2) == ends
    lengths = [ends[0], ends[1] - ends[0]]
    factors = [0.5 + 0.5 * math.cos(math.pi * s / length) for length in lengths for s in range(length)]
    assert column(ours, "factor") == pytest.approx(factors, abs=1e-15)
    for cycle, end in enumerate(ends):
        plain = reference(nets(batch_norm=True), batches[:end], Settings(factors=factors))
        assert distance([saves[cycle] for saves in ours.saves], plain) < 1e-12
    assert distance(ours.weights, [saves[-1] for saves in ours.saves]) == 0
    assert distance([saves[0] for saves in ours.saves], ours.weights) > 1e-3


def test_a_mask_of_ones_is_sam() -> None:
    ones = [[torch.ones_like(p) for p in net.parameters()] for net in nets()]
    settings = Settings(clip=0.3)
    ours = proof_oracle.sam(nets(), data(), settings, rho=0.2, masks=ones)
    assert distance(ours.weights, reference(nets(), data(), settings, 0.2)) < 1e-12


def test_absent_weights_stay_absent() -> None:
    draw = torch.Generator().manual_seed(5)
    masks = [[torch.rand(p.shape, generator=draw) < 0.5 for p in net.parameters()] for net in nets()]
    ours = proof_oracle.sam(nets(), data(), Settings(), rho=0.2, masks=masks)
    for state, momentum, mask in zip(ours.weights, ours.momentum, masks, strict=True):
        for weight, velocity, kept in zip(state.values(), momentum, mask, strict=True):
            assert not weight[~kept].any()
            assert not velocity[~kept].any()
            assert weight[kept].all()


@pytest.mark.parametrize("sync", SYNCS)
def test_masked_inputs_are_a_network_without_them(sync: str) -> None:
    """Norms, ε and clipping of a masked member are those of the smaller network that it is."""
    masks = [[torch.ones_like(p) for p in net.parameters()] for net in nets()]
    small = nets()
    for mask, net in zip(masks, small, strict=True):
        mask[0][:, 2:] = 0
        cut = nn.Linear(2, 6).double()
        cut.load_state_dict({"weight": net[0].weight[:, :2], "bias": net[0].bias})
        net[0] = cut
    settings = Settings(ascent_sync=sync, clip=0.3)
    ours = proof_oracle.sam(nets(), data(), settings, rho=0.3, masks=masks)
    cut_data = [[[(x[:, :2], t) for x, t in micros] for micros in step] for step in data()]
    want = reference(small, cut_data, settings, 0.3)
    for state in ours.weights:
        state["0.weight"] = state["0.weight"][:, :2]
    assert distance(ours.weights, want) < 1e-12
