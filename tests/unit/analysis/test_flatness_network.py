"""Flatness of networks small enough for their whole Hessian."""

import copy

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector

from dist_dash.analysis.flatness import surface as surface_module
from dist_dash.analysis.flatness.ball import random_directions
from dist_dash.analysis.flatness.curvature import top_eigenvalue, trace
from dist_dash.analysis.flatness.measure import FlatnessOptions, flatness_of
from dist_dash.analysis.flatness.surface import NetworkLoss, NotFinite
from dist_dash.analysis.flatness.weight_space import BetweenMembers, plane_through
from dist_dash.errors import BadInput
from dist_dash.models import MLP, SmallCNN
from dist_dash.models.network import seeded_network

CLASSES = 3


def samples(n=40, shape=(4,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((n, *shape), generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def small(architecture, shape=(4,), seed=0):
    statistics = (0.1,), (1.3,), False
    return seeded_network(seed, architecture, shape, CLASSES, *statistics)


class Tanh(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, CLASSES))

    def forward(self, x):
        return self.net(x.to(self.net[0].weight.dtype))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.embed, self.head = nn.Linear(1, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        tokens = self.embed(x.to(self.embed.weight.dtype)[:, None, :, None])  # one head: this shape has a fused kernel
        mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(mixed.mean((1, 2)))


def whole_hessian(network, x, y):
    """By autograd's own function, sample by sample, in float64; and the gradient."""
    network = copy.deepcopy(network).double().eval()
    names, shapes = zip(*((name, p.shape) for name, p in network.named_parameters()), strict=True)

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            logits = functional_call(network, weights, (x,))
        return -sum(torch.log_softmax(row, 0)[label] for row, label in zip(logits, y, strict=True)) / len(y)

    theta = parameters_to_vector(network.parameters()).detach()
    hessian = torch.autograd.functional.hessian(loss, theta)
    return loss(theta).item(), torch.autograd.functional.jacobian(loss, theta), (hessian + hessian.T) / 2


NETWORKS = {
    "relu": lambda: small(MLP(hidden=8, depth=2)),
    "batch norm": lambda: small(MLP(hidden=6, norm="batch")),
    "linear": lambda: small(MLP(depth=0)),
    "tanh": Tanh,
    "attention": Attention,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_curvature_equals_that_of_the_whole_hessian(name):
    network, (x, y) = NETWORKS[name](), samples()
    loss, gradient, hessian = whole_hessian(network, x, y)
    values = torch.linalg.eigvalsh(hessian)
    assert len(hessian) <= 200
    found = flatness_of(network, x, y, FlatnessOptions(tolerance=1e-8, most_steps=200))
    assert found.parameters == len(hessian)
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-9)
    assert found.eigenvalue == pytest.approx(float(values[-1]), rel=1e-9)
    assert found.eigenvalue_converged
    few = top_eigenvalue(NetworkLoss(network, x, y), 1e-3, 60, 0)
    assert few.value == pytest.approx(float(values[-1]), rel=1e-6)
    for basis in (2, 12):
        rough = top_eigenvalue(NetworkLoss(network, x, y), 1e-12, basis, 1)
        estimate = trace(NetworkLoss(network, x, y), rough, 0.02, 60, 2)
        assert abs(estimate.value - float(hessian.trace())) <= 4 * estimate.error


@pytest.mark.parametrize("name", NETWORKS)
def test_products_with_the_hessian_equal_the_whole_one(name):
    network, (x, y) = NETWORKS[name](), samples()
    _, gradient, hessian = whole_hessian(network, x, y)
    for size in (None, 7, 40):
        surface = NetworkLoss(network, x, y, batch_size=size)
        assert torch.allclose(surface.gradient(surface.centre)[1], gradient, atol=1e-12)
        for vector in random_directions(surface.centre, 3, 1):  # one after another, so that a kept graph is used again
            assert torch.allclose(surface.hessian_times(vector), hessian @ vector, atol=1e-12)


def test_the_top_eigenvalue_is_that_of_scipys_eigsh():
    network, (x, y) = small(SmallCNN(width=4), (1, 6, 6)), samples(30, (1, 6, 6))
    surface = NetworkLoss(network, x, y)
    size = len(surface.centre)
    operator = LinearOperator(
        (size, size), matvec=lambda v: surface.hessian_times(torch.from_numpy(v.ravel())).numpy(), dtype=np.float64
    )
    expected = eigsh(operator, k=1, which="LA", tol=1e-10)[0][0]
    assert top_eigenvalue(surface, 1e-4, 60, 0).value == pytest.approx(expected, rel=1e-7)


def test_logistic_regression_has_its_analytic_hessian():
    """`∇² = mean (diag p − p pᵀ) ⊗ x̃ x̃ᵀ`; the weights come row by row, the biases last."""
    network, (x, y) = small(MLP(depth=0)), samples()
    features = (x.double() - 0.1) / 1.3  # what `Normalise` makes of the samples
    weight, bias = (p.detach().double() for p in network.parameters())
    probs = torch.softmax(features @ weight.T + bias, -1)
    inputs = torch.cat([features, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    hessian = torch.zeros(15, 15, dtype=torch.float64)
    for p, one in zip(probs, inputs, strict=True):
        hessian += torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(one, one)) / len(x)
    values = torch.linalg.eigvalsh(hessian)
    found = flatness_of(network, x, y, FlatnessOptions(tolerance=1e-6))
    assert found.eigenvalue == pytest.approx(float(values[-1]), rel=1e-6)
    assert abs(found.trace - float(hessian.trace())) <= 4 * found.trace_error <= 4 * 0.05 * found.trace
    assert found.worst_rise > 0
    # Convex: no point of the ball rises by less than the linear term says, and none by more than with λ₁ on top.
    slope, rho = found.gradient_norm, 0.05
    assert rho * slope <= found.one_step_rise <= found.worst_rise <= rho * slope + rho**2 * float(values[-1]) / 2


def test_rises_equal_losses_of_networks_with_those_weights():
    network, (x, y) = small(MLP(hidden=8)), samples()
    found = flatness_of(network, x, y, FlatnessOptions(rho=0.3, steps=1, directions=2))

    def loss_at(offset):
        moved = copy.deepcopy(network).double().eval()
        start = 0
        for p in moved.parameters():
            p.data += offset[start : start + p.numel()].view(p.shape)
            start += p.numel()
        return nn.functional.cross_entropy(moved(x), y).item()

    reference = copy.deepcopy(network).double().eval()
    nn.functional.cross_entropy(reference(x), y).backward()
    gradient = torch.cat([p.grad.flatten() for p in reference.parameters()])
    stepped = loss_at(0.3 * gradient / gradient.norm())
    assert found.one_step_rise == pytest.approx(stepped - found.loss, rel=1e-9)
    assert found.worst_rise == pytest.approx(max(0.0, stepped - found.loss), rel=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was_and_measured_in_evaluation_mode(training):
    network, (x, y) = small(SmallCNN(width=3), (1, 6, 6)), samples(30, (1, 6, 6))
    network(2 * x + 1)  # running statistics that differ from the batch's
    network.train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = flatness_of(network, x, y, FlatnessOptions(steps=3, most_steps=5, most_probes=3))
    assert network.training == training
    assert all(module.training == training for module in network.modules())
    after = network.state_dict()
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    assert all(p.grad is None and p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    expected = copy.deepcopy(network).eval().double()
    assert found.loss == pytest.approx(nn.functional.cross_entropy(expected(x), y).item(), rel=1e-12)


def test_dropout_is_off():
    network, (x, y) = small(MLP(hidden=8, dropout=0.9)).train(), samples()
    one, other = (flatness_of(network, x, y, FlatnessOptions(most_probes=2)) for _ in range(2))
    assert one == other


def test_parts_that_are_not_trained_are_no_direction():
    network, (x, y) = small(MLP(hidden=8, depth=1)), samples()
    network.net[1].weight.requires_grad_(False)
    surface = NetworkLoss(network, x, y)
    assert len(surface.centre) == sum(p.numel() for p in network.parameters()) - 32
    expected = copy.deepcopy(network).double()
    nn.functional.cross_entropy(expected(x), y).backward()
    gradient = torch.cat([p.grad.flatten() for p in expected.parameters() if p.grad is not None])
    assert torch.allclose(surface.gradient(surface.centre)[1], gradient, atol=1e-13)


def test_batches_are_as_large_as_the_memory_allows_and_change_nothing(monkeypatch):
    network, (x, y) = small(SmallCNN(width=3), (1, 6, 6)), samples(30, (1, 6, 6))
    whole = NetworkLoss(network, x, y)
    assert whole._size == 30
    sizes = []
    for memory in (10**6, 10**5, 1):
        monkeypatch.setattr(surface_module, "MEMORY", memory)
        cut = NetworkLoss(network, x, y)
        sizes.append(cut._size)
        assert cut.loss(cut.centre) == pytest.approx(whole.loss(whole.centre), rel=1e-13)
        vector = random_directions(cut.centre, 1, 0)[0]
        assert torch.allclose(cut.hessian_times(vector), whole.hessian_times(vector), atol=1e-13)
    assert 30 >= sizes[0] > sizes[1] > sizes[2] == 1


def test_float32_agrees_to_its_precision():
    network, (x, y) = small(SmallCNN(width=3), (1, 6, 6)), samples(30, (1, 6, 6))
    double, single = (flatness_of(network, x, y, FlatnessOptions(dtype=dtype)) for dtype in ("float64", "float32"))
    for name in ("loss", "gradient_norm", "one_step_rise", "worst_rise", "eigenvalue", "trace"):
        assert getattr(single, name) == pytest.approx(getattr(double, name), rel=2e-3), name
    assert single.random_rises == pytest.approx(double.random_rises, abs=1e-5)


def test_the_seed_decides_and_nothing_else_does():
    network, (x, y) = small(MLP(hidden=8)), samples()
    torch.manual_seed(1)
    one = flatness_of(network, x, y, FlatnessOptions(seed=1, most_steps=3))
    drawn = torch.rand(1)
    torch.manual_seed(2)
    other = flatness_of(network, x, y, FlatnessOptions(seed=1, most_steps=3))
    assert one == other
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn), "measuring draws from the global generator"
    third = flatness_of(network, x, y, FlatnessOptions(seed=2, most_steps=3))
    assert (third.random_rises, third.trace) != (one.random_rises, one.trace)
    assert third.worst_rise == one.worst_rise


def test_a_network_without_a_finite_loss_has_no_flatness():
    network, (x, y) = small(MLP(hidden=8)), samples()
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    with pytest.raises(NotFinite):
        flatness_of(network, x, y)


class NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.where(
            gradient.abs() > 0, torch.sqrt(gradient * 0) / torch.sqrt(gradient * 0 + 1) + 1, 1
        )


def test_a_curvature_that_is_not_finite_is_said_to_be():
    class Kinked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, CLASSES)

        def forward(self, x):
            return NoSecondDerivative.apply(self.net(x.double()))

    with pytest.raises(NotFinite, match="Hessian"):
        flatness_of(Kinked(), *samples())


def test_what_cannot_be_measured_is_refused():
    x, y = samples()
    with pytest.raises(BadInput, match="no trainable parameter"):
        NetworkLoss(nn.Flatten(), x, y)
    for wrong in ((x[:0], y[:0]), (x, y[:-1])):
        with pytest.raises(BadInput, match="samples: "):
            NetworkLoss(small(MLP()), *wrong)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("rho", 0.0, "> 0"),
        ("rho", float("nan"), "> 0"),
        ("rho", float("inf"), "finite"),
        ("tolerance", -1.0, "> 0"),
        ("trace_error", 0.0, "> 0"),
        ("steps", 0, "≥ 1"),
        ("directions", 0, "≥ 1"),
        ("most_steps", 0, "≥ 1"),
        ("most_probes", 1, "≥ 2"),
        ("seed", -1, "≥ 0"),
        ("batch_size", 0, "≥ 1"),
        ("dtype", "float16", "float64 or float32"),
    ],
)
def test_an_option_out_of_its_range_is_named(name, value, allowed):
    with pytest.raises(BadInput) as caught:
        FlatnessOptions(**{name: value})
    text = str(caught.value)
    assert text.startswith(f"{name.replace('_', '-')}: {value!r} is not allowed")
    assert allowed in text


# -- between members ---------------------------------------------------------------------------------------------------


def test_three_points_on_a_line_span_no_plane():
    one, other = torch.randn(6), torch.randn(6)
    for three in ((one, other, (one + other) / 2), (one, one, other), (one, other, one), (one, other, other)):
        with pytest.raises(BadInput, match="line"):
            plane_through(*three)


def test_scores_between_members_are_those_of_networks_with_fresh_statistics():
    """The oracle: the network's own weights set one by one, statistics by layers of momentum 1 in one pass."""
    x, y = samples(50, (1, 6, 6))
    of_training, _ = samples(64, (1, 6, 6), seed=5)
    networks = [small(SmallCNN(width=3), (1, 6, 6), seed) for seed in (0, 1)]
    for network in networks:
        network(3 * x)
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    between = BetweenMembers([network.eval() for network in networks], [of_training], x, y)
    assert between.batch_norm
    mixed = copy.deepcopy(networks[0])
    for t in (0.0, 0.3, 1.0):
        for p, a, b in zip(*(n.parameters() for n in (mixed, *networks)), strict=True):
            p.data = (1 - t) * a.data + t * b.data
        for module in mixed.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            mixed.train()(of_training)
            logits = mixed.eval()(x)
        loss, accuracy = between.score(torch.lerp(*between.weights, t))
        assert loss == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
        assert accuracy == pytest.approx(float((logits.argmax(1) == y).float().mean()))
    for network, state in zip(networks, before, strict=True):
        assert [n for n, t in network.state_dict().items() if not torch.equal(t, state[n])] == []


def test_dropout_while_statistics_are_estimated_is_the_same_each_time():
    x, y = samples()
    networks = [small(MLP(hidden=8, norm="batch", dropout=0.5), seed=seed).eval() for seed in (0, 1)]
    between = BetweenMembers(networks, [x], x, y)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    found = {between.score(between.weights[1]) for _ in range(3)}
    assert len(found) == 1
    assert torch.equal(torch.rand(1), expected)


def test_members_that_are_not_alike_are_refused():
    x, y = samples()
    alike = [small(MLP(hidden=8), seed=seed) for seed in (0, 1)]
    for other in (small(MLP(hidden=9)), small(MLP(hidden=8, norm="batch")), small(MLP(hidden=8, dropout=0.1))):
        with pytest.raises(BadInput, match="member 2 has another architecture"):
            BetweenMembers([*alike, other], [x], x, y)
    alike[1].normalise.mean += 1
    with pytest.raises(BadInput, match="members 0 and 1 store different values"):
        BetweenMembers(alike, [x], x, y)
