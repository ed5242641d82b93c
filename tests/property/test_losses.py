import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dist_dash.member.losses import cross_entropy, diversity, ensemble_loss, smoothed


@st.composite
def cases(draw, excluded=True, spread=4.0):
    """Own logits, peers' logits, excluded classes (at least two remain) in float64."""
    n, classes = draw(st.integers(1, 5)), draw(st.integers(4, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    own, peers = (spread * torch.randn(2, n, classes, generator=generator, dtype=torch.float64)).unbind()
    out = torch.zeros(n, classes, dtype=torch.bool)
    if excluded and draw(st.booleans()):
        for row in out:  # one true class, or two of a mixed pair
            row[torch.randperm(classes, generator=generator)[: draw(st.integers(1, 2))]] = True
    return own, peers, out if out.any() else None


def softmax(values: list[float]) -> list[float]:
    largest = max(values)
    powers = [math.exp(v - largest) for v in values]
    return [p / sum(powers) for p in powers]


def diversity_by_definition(own: Tensor, peers: Tensor, excluded: Tensor | None, temperature: float) -> float:
    total = 0.0
    for i in range(len(own)):
        kept = [c for c in range(own.shape[1]) if excluded is None or not excluded[i, c]]
        p = softmax([float(own[i, c]) / temperature for c in kept])
        q = softmax([float(peers[i, c]) / temperature for c in kept])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(own)
    return total


def gradient(function, at: Tensor) -> Tensor:
    at = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(at), at)
    return found


def finite_differences(function, at: Tensor, h: float = 1e-6) -> Tensor:
    found = torch.empty_like(at)
    for index in range(at.numel()):
        step = torch.zeros_like(at).flatten()
        step[index] = h
        step = step.view_as(at)
        found.view(-1)[index] = (function(at + step) - function(at - step)) / (2 * h)
    return found


@given(cases(), st.floats(0.3, 5.0))
def test_diversity_is_the_kl_of_its_definition(case, temperature):
    own, peers, excluded = case
    found = diversity(own, peers, excluded, temperature)
    expected = diversity_by_definition(own, peers, excluded, temperature)
    assert found >= 0
    assert abs(found - expected) < 1e-9 * max(1.0, expected)


@given(cases(spread=1.5), st.floats(0.5, 3.0))
def test_its_gradient_is_that_of_the_value(case, temperature):
    own, peers, excluded = case

    def value(z):
        return diversity(z, peers, excluded, temperature)

    assert torch.allclose(gradient(value, own), finite_differences(value, own), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@given(case=cases(spread=20.0))
def test_equal_members_have_exactly_no_diversity_and_no_gradient(dtype, case):
    own, _, excluded = case
    own = own.to(dtype)
    assert diversity(own, own.clone(), excluded) == 0
    assert torch.equal(gradient(lambda z: diversity(z, own.clone(), excluded), own), torch.zeros_like(own))


@given(cases())
def test_no_gradient_flows_into_a_peer(case):
    own, peers, excluded = case
    own, peers = own.requires_grad_(), peers.requires_grad_()
    into_own, into_peers = torch.autograd.grad(diversity(own, peers, excluded), (own, peers), allow_unused=True)
    assert into_peers is None
    assert into_own.abs().max() > 0
    probs = torch.softmax(peers, -1)
    target = torch.full_like(own, 1 / own.shape[1]).detach()
    into_own, into_peers = torch.autograd.grad(ensemble_loss(own, probs, 2, target), (own, peers), allow_unused=True)
    assert into_peers is None
    assert into_own.abs().max() > 0


@given(cases(), st.floats(-50, 50), st.floats(-50, 50))
def test_a_shift_of_the_logits_changes_nothing(case, a, b):
    own, peers, excluded = case
    found, shifted = diversity(own, peers, excluded), diversity(own + a, peers + b, excluded)
    assert abs(found - shifted) < 1e-10 * max(1.0, float(found))


@given(cases(), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_an_excluded_class_has_no_influence(case, a, b):
    own, peers, excluded = case
    if excluded is None:
        excluded = torch.zeros_like(own, dtype=torch.bool)
        excluded[:, 1] = True
    own_moved, peers_moved = own.masked_fill(excluded, a), peers.masked_fill(excluded, b)
    assert diversity(own, peers, excluded) == diversity(own_moved, peers_moved, excluded)
    slope = gradient(lambda z: diversity(z, peers, excluded), own)
    assert torch.equal(slope[excluded], torch.zeros_like(slope[excluded]))
    assert torch.equal(slope, gradient(lambda z: diversity(z, peers_moved, excluded), own_moved))


@given(cases(excluded=False))
def test_opposite_certainties_stay_finite(case):
    own, peers, _ = case
    own, peers = 1e4 * own.float(), -1e4 * peers.float()
    assert diversity(own, peers).isfinite()
    assert gradient(lambda z: diversity(z, peers), own).isfinite().all()


@given(cases(excluded=False), st.floats(0, 0.9), st.integers(0, 2**32))
def test_cross_entropy_equals_that_of_torch(case, smoothing, seed):
    own, _, _ = case
    classes = own.shape[1]
    labels = torch.randint(classes, (len(own),), generator=torch.Generator().manual_seed(seed))
    target = smoothed(torch.nn.functional.one_hot(labels, classes).double(), smoothing)
    assert torch.allclose(target.sum(-1), torch.ones(len(own), dtype=torch.float64), atol=1e-12)
    for reduction in ("mean", "none"):
        expected = torch.nn.functional.cross_entropy(own, labels, reduction=reduction, label_smoothing=smoothing)
        assert torch.allclose(cross_entropy(own, target, reduction), expected, rtol=1e-10, atol=1e-12)


@given(cases(excluded=False), st.floats(0, 1))
def test_cross_entropy_of_a_mixed_label_is_the_mixture(case, share):
    own, _, _ = case
    first, second = torch.eye(own.shape[1], dtype=torch.float64)[:2]
    mixed = share * first + (1 - share) * second
    expected = [share * cross_entropy(z, first) + (1 - share) * cross_entropy(z, second) for z in own]
    assert abs(cross_entropy(own, mixed.expand_as(own)) - sum(expected) / len(expected)) < 1e-10


@given(cases(excluded=False, spread=2.0), st.integers(0, 3), st.integers(0, 2**32))
def test_ensemble_loss_is_that_of_the_mean_softmax(case, peers, seed):
    own, _, _ = case
    generator = torch.Generator().manual_seed(seed)
    others = torch.randn(peers, *own.shape, generator=generator, dtype=torch.float64)
    target = torch.softmax(torch.randn(own.shape, generator=generator, dtype=torch.float64), -1)
    probs = torch.softmax(others, -1).mean(0) if peers else torch.softmax(own, -1)

    def value(z):
        return ensemble_loss(z, probs, torch.tensor(peers), target)

    expected = 0.0
    for i in range(len(own)):
        everyones = [softmax(z[i].tolist()) for z in [own, *others]]
        mean = [sum(column) / (peers + 1) for column in zip(*everyones, strict=True)]
        expected -= sum(float(t) * math.log(m) for t, m in zip(target[i], mean, strict=True)) / len(own)
    assert abs(value(own) - expected) < 1e-10
    assert torch.allclose(gradient(value, own), finite_differences(value, own), rtol=1e-5, atol=1e-8)


def test_an_impossible_class_costs_a_finite_ensemble_loss():
    own = torch.tensor([[200.0, -200.0]])
    loss = ensemble_loss(own, torch.tensor([[1.0, 0.0]]), 1, torch.tensor([[0.0, 1.0]]))
    assert loss.isfinite()
    assert loss > 80
