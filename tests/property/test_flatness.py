"""Flatness of losses whose Hessian is known, against dense linear algebra and the exact maximum on a ball."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from dist_dash.analysis.flatness.ball import ascend, projected, random_directions, random_rises
from dist_dash.analysis.flatness.curvature import LEAST_PROBES, LEAST_STEPS, top_eigenvalue, trace
from dist_dash.analysis.flatness.measure import FlatnessOptions, flatness_around
from dist_dash.analysis.flatness.weight_space import barrier, plane_through


@dataclass
class Quadratic:
    """`L(θ + δ) = c + gᵀδ + ½ δᵀHδ`; remembers where it was asked."""

    hessian: np.ndarray
    slope: np.ndarray
    constant: float = 0.5

    def __post_init__(self):
        self.centre = torch.linspace(-1, 2, len(self.slope), dtype=torch.float64)
        self.asked = []

    def value(self, offset: np.ndarray) -> float:
        return self.constant + self.slope @ offset + offset @ self.hessian @ offset / 2

    def loss(self, at):
        self.asked.append((at - self.centre).numpy())
        return float(self.value(self.asked[-1]))

    def gradient(self, at):
        value = self.loss(at)
        return value, torch.from_numpy(self.slope + self.hessian @ self.asked[-1])

    def hessian_times(self, vector):
        return torch.from_numpy(self.hessian @ vector.numpy())


@st.composite
def quadratics(draw, convex=False, most=14):
    size = draw(st.integers(1, most))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    rotation = np.linalg.qr(generator.standard_normal((size, size)))[0]
    values = draw(st.sampled_from([0.1, 1.0, 20.0])) * generator.standard_normal(size)
    values = np.abs(values) if convex else values
    hessian = rotation @ np.diag(values) @ rotation.T
    slope = draw(st.sampled_from([0.01, 1.0, 5.0])) * generator.standard_normal(size)
    return Quadratic((hessian + hessian.T) / 2, slope)


def highest_rise(surface: Quadratic, rho: float) -> float:
    """`max gᵀδ + ½δᵀHδ, ‖δ‖ ≤ ρ`: δ = (μI − H)⁻¹ g with μ ≥ max(0, λ₁), of length ρ unless μ = 0."""
    values, vectors = np.linalg.eigh(surface.hessian)
    g = vectors.T @ surface.slope

    def offset(mu):
        return g / (mu - values)

    if values[-1] < 0 and np.linalg.norm(offset(0.0)) <= rho:
        best = offset(0.0)
    else:
        low = max(0.0, values[-1])
        high = low + np.linalg.norm(g) / rho + 1
        assume(np.linalg.norm(offset(low + 1e-12)) > rho)  # else the "hard case", where λ₁'s eigenvector is added
        best = offset(brentq(lambda mu: np.linalg.norm(offset(mu)) - rho, low + 1e-12, high, xtol=1e-14))
    return float(g @ best + best @ (values * best) / 2)


# -- the worst point within ρ ------------------------------------------------------------------------------------------


@given(quadratics(), st.sampled_from([0.01, 0.3, 2.0]), st.integers(1, 8))
def test_the_ascent_equals_a_loop_written_from_its_definition(surface, rho, steps):
    found = ascend(surface, rho, steps)
    slope = surface.slope
    offset = rho * slope / np.linalg.norm(slope)
    best = 0.0
    assert found.one_step == pytest.approx(surface.value(offset) - surface.constant, abs=1e-12)
    for _ in range(steps):
        best = max(best, surface.value(offset) - surface.constant)
        slope = surface.slope + surface.hessian @ offset
        offset = offset + rho / 2 * slope / np.linalg.norm(slope)
        offset = offset * min(1.0, rho / np.linalg.norm(offset))
    assert found.worst == pytest.approx(best, abs=1e-10)
    assert found.loss == surface.constant
    assert found.gradient_norm == pytest.approx(np.linalg.norm(surface.slope))
    rise_there = surface.value(found.offset.numpy()) - surface.constant
    assert rise_there == pytest.approx(found.worst, abs=1e-10)


@given(quadratics(), st.sampled_from([0.01, 0.3, 2.0]), st.integers(1, 12))
def test_every_point_asked_for_lies_in_the_ball_and_none_is_above_the_true_maximum(surface, rho, steps):
    found = ascend(surface, rho, steps)
    assert max(np.linalg.norm(offset) for offset in surface.asked) <= rho * (1 + 1e-12) + 1e-15
    assert len(surface.asked) == steps + 1
    assert found.worst >= 0
    assert found.one_step <= found.worst
    assert found.worst <= highest_rise(surface, rho) + 1e-9


@given(quadratics(), st.sampled_from([0.05, 1.0]))
def test_more_steps_never_find_less(surface, rho):
    found = [ascend(surface, rho, steps).worst for steps in range(1, 8)]
    assert all(more >= less - 1e-12 for less, more in pairwise(found))


@given(quadratics(convex=True), st.sampled_from([0.01, 0.1, 0.5]))
def test_on_a_convex_loss_the_ascent_comes_close_to_the_true_maximum(surface, rho):
    """One step gains at least ρ‖g‖, and no point more than ρ‖g‖ + ½ρ²λ₁; thirty steps end at the maximum where the
    slope outweighs the curvature, for the sphere then has one maximum only."""
    slope, top = np.linalg.norm(surface.slope), np.linalg.eigvalsh(surface.hessian)[-1]
    highest = highest_rise(surface, rho)
    assert ascend(surface, rho, 5).worst >= highest / (1 + rho * top / (2 * slope)) - 1e-12
    if rho * top <= slope / 2:
        assert ascend(surface, rho, 5).worst >= 0.95 * highest
        assert ascend(surface, rho, 30).worst >= 0.9999 * highest


def test_the_true_maximum_of_these_tests_is_scipys():
    generator = np.random.default_rng(5)
    for _ in range(5):
        square = generator.standard_normal((4, 4))
        surface = Quadratic(square + square.T, generator.standard_normal(4))
        ball = {"type": "ineq", "fun": lambda d: 0.49 - d @ d}
        starts = generator.standard_normal((20, 4))
        ends = [minimize(lambda d: -surface.value(d), 0.3 * s, constraints=ball, method="SLSQP") for s in starts]  # noqa: B023
        assert max(-end.fun for end in ends) - surface.constant == pytest.approx(highest_rise(surface, 0.7), rel=1e-5)


def test_at_a_point_without_a_slope_the_ascent_stays():
    surface = Quadratic(np.eye(3), np.zeros(3))
    found = ascend(surface, 0.5, 4)
    assert (found.one_step, found.worst, found.gradient_norm) == (0.0, 0.0, 0.0)
    assert not found.offset.any()


def test_a_descent_is_reported_as_such_and_never_as_the_worst():
    surface = Quadratic(np.array([[-100.0]]), np.array([1.0]))
    found = ascend(surface, 0.5, 1)
    assert found.one_step == pytest.approx(0.5 - 12.5)
    assert found.worst == 0.0


@given(st.integers(1, 30), st.integers(0, 2**32), st.sampled_from([0.1, 1.0]))
def test_projection_keeps_what_is_inside_and_shortens_what_is_not(size, seed, rho):
    vector = torch.from_numpy(np.random.default_rng(seed).standard_normal(size))
    found = projected(vector, rho)
    if vector.norm() <= rho:
        assert torch.equal(found, vector)
    else:
        assert float(found.norm()) == pytest.approx(rho)
        assert float(found @ vector) == pytest.approx(rho * float(vector.norm()))


@given(quadratics(), st.sampled_from([0.05, 1.0]), st.integers(0, 100))
def test_random_rises_are_those_on_the_sphere(surface, rho, seed):
    found = random_rises(surface, surface.constant, rho, 6, seed)
    lengths = [np.linalg.norm(offset) for offset in surface.asked]
    assert lengths == pytest.approx([rho] * 6)
    assert found == pytest.approx([surface.value(offset) - surface.constant for offset in surface.asked], abs=1e-12)
    assert found == random_rises(surface, surface.constant, rho, 6, seed)
    assert len(surface.slope) == 1 or found != random_rises(surface, surface.constant, rho, 6, seed + 1)


def test_random_directions_favour_none():
    found = torch.stack(random_directions(torch.zeros(3, dtype=torch.float64), 4000, 0))
    assert found.mean(0).abs().max() < 0.05
    assert (found.T @ found / 4000 - torch.eye(3, dtype=torch.float64) / 3).abs().max() < 0.03
    single = random_directions(torch.zeros(3), 4000, 0)
    assert single[0].dtype == torch.float32
    assert torch.allclose(torch.stack(single).double(), found, atol=1e-6)


# -- curvature ---------------------------------------------------------------------------------------------------------


@given(quadratics(), st.integers(0, 5))
def test_top_eigenvalue_and_trace_equal_dense_linear_algebra(surface, seed):
    values = np.linalg.eigvalsh(surface.hessian)
    size, scale = len(values), np.abs(values).max()
    found = top_eigenvalue(surface, 1e-10, 60, seed)
    assert found.value == pytest.approx(values[-1], abs=1e-9 * scale)
    vector = found.vector.numpy()
    assert np.linalg.norm(vector) == pytest.approx(1)
    there = np.linalg.norm(surface.hessian @ vector - found.value * vector)
    assert found.residual == pytest.approx(there / abs(found.value), abs=1e-10 * scale / abs(found.value))
    assert found.converged == (found.residual <= 1e-10)
    basis = torch.stack(found.basis).numpy()
    assert np.allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-10)
    assert found.products == len(basis) + 1 <= size + 1
    if len(basis) == size:
        whole = trace(surface, found, 0.01, 50, seed)
        assert (whole.error, whole.probes, whole.converged) == (0.0, 0, True)
        assert whole.value == pytest.approx(values.sum(), abs=1e-9 * scale * size)


@given(quadratics(), st.integers(1, 6), st.integers(0, 5))
def test_few_steps_never_overshoot_and_their_residual_bounds_the_error(surface, steps, seed):
    values = np.linalg.eigvalsh(surface.hessian)
    found = top_eigenvalue(surface, 1e-12, steps, seed)
    scale = np.abs(values).max()
    assert len(found.basis) <= steps
    assert values[0] - 1e-10 * scale <= found.value <= values[-1] + 1e-10 * scale
    assert np.abs(values - found.value).min() <= found.residual * abs(found.value) + 1e-9 * scale


@given(quadratics(), st.integers(1, 5), st.integers(0, 3))
def test_the_trace_is_within_its_error_whatever_was_deflated(surface, steps, seed):
    """Five standard errors over sixty cases and 200 probes: a biased estimator would leave them."""
    truth = np.trace(surface.hessian)
    known = top_eigenvalue(surface, 1e-12, steps, seed)
    found = trace(surface, known, 1e-12, 200, seed)
    assert abs(found.value - truth) <= 5 * found.error + 1e-9 * np.abs(surface.hessian).max() * len(surface.slope)


def test_probes_and_error_are_hutchinsons():
    """The plain estimator, its standard error by NumPy, from the same vectors."""
    generator = np.random.default_rng(1)
    square = generator.standard_normal((30, 30))
    surface = Quadratic(square @ square.T, np.ones(30))
    known = top_eigenvalue(surface, 1e-12, 1, 0)
    found = trace(surface, known, 1e-12, 40, 7)
    torch_generator = torch.Generator().manual_seed(7)
    q = known.basis[0].numpy()
    values = []
    for _ in range(40):
        z = 2.0 * torch.randint(2, (30,), generator=torch_generator).numpy() - 1
        assert set(z) == {-1, 1}
        z = z - (q @ z) * q
        values.append(z @ surface.hessian @ z)
    assert found.probes == 40
    assert not found.converged
    assert found.value == pytest.approx(q @ surface.hessian @ q + np.mean(values))
    assert found.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(40))


@pytest.mark.parametrize("share", [0.3, 0.1, 0.05])
def test_probing_ends_at_the_error_asked_for(share):
    generator = np.random.default_rng(2)
    square = generator.standard_normal((60, 60))
    surface = Quadratic(square @ square.T, np.ones(60))
    known = top_eigenvalue(surface, 1e-3, 1, 0)
    found = trace(surface, known, share, 1000, 0)
    assert found.converged
    assert found.error <= share * found.value
    assert LEAST_PROBES <= found.probes < 1000
    one_less = trace(surface, known, 1e-9, found.probes - 1, 0) if found.probes > LEAST_PROBES else None
    assert one_less is None or one_less.error > share * one_less.value
    assert abs(found.value - np.trace(surface.hessian)) < 4 * found.error


def test_deflation_spares_probes_where_few_eigenvalues_are_large():
    generator = np.random.default_rng(3)
    rotation = np.linalg.qr(generator.standard_normal((200, 200)))[0]
    values = np.concatenate([np.full(190, 0.01), np.linspace(5, 50, 10)])
    surface = Quadratic(rotation @ np.diag(values) @ rotation.T, np.ones(200))
    plain = trace(surface, top_eigenvalue(surface, 1e-3, 1, 0), 0.05, 2000, 0)
    deflated = trace(surface, top_eigenvalue(surface, 1e-3, 60, 0), 0.05, 2000, 0)
    assert deflated.probes == LEAST_PROBES < plain.probes
    assert deflated.value == pytest.approx(values.sum(), rel=0.01)


def test_lanczos_stops_when_its_tolerance_is_reached_and_not_long_before_or_after():
    generator = np.random.default_rng(4)
    rotation = np.linalg.qr(generator.standard_normal((150, 150)))[0]
    values = np.linspace(0, 1, 150)
    surface = Quadratic(rotation @ np.diag(values) @ rotation.T, np.ones(150))
    rough, fine = top_eigenvalue(surface, 1e-2, 100, 0), top_eigenvalue(surface, 1e-6, 100, 0)
    for found, tolerance in ((rough, 1e-2), (fine, 1e-6)):
        assert found.converged
        assert found.residual <= tolerance
    assert LEAST_STEPS < len(rough.basis) < len(fine.basis) < 100
    assert rough.residual > 1e-3  # it would not have gone on for nothing
    assert fine.value == pytest.approx(1, abs=1e-10)
    cut = top_eigenvalue(surface, 1e-6, 20, 0)
    assert not cut.converged
    assert len(cut.basis) == 20
    assert cut.residual > 1e-6
    assert cut.value == pytest.approx(1, abs=0.01)


def test_the_largest_eigenvalue_is_the_algebraic_one():
    surface = Quadratic(np.diag([-50.0, -3.0, 0.5, 2.0]), np.ones(4))
    assert top_eigenvalue(surface, 1e-8, 60, 0).value == pytest.approx(2.0)
    below = Quadratic(np.diag([-50.0, -3.0]), np.ones(2))
    assert top_eigenvalue(below, 1e-8, 60, 0).value == pytest.approx(-3.0)


@pytest.mark.parametrize("size", [1, 2, 40])
def test_a_flat_loss_has_no_curvature(size):
    surface = Quadratic(np.zeros((size, size)), np.ones(size))
    found = flatness_around(surface, FlatnessOptions(rho=0.5, steps=3))
    assert (found.eigenvalue, found.eigenvalue_residual, found.eigenvalue_converged) == (0.0, 0.0, True)
    assert (found.trace, found.trace_error, found.trace_converged) == (0.0, 0.0, True)
    assert found.one_step_rise == pytest.approx(0.5 * math.sqrt(size))
    assert found.worst_rise == pytest.approx(0.5 * math.sqrt(size))


@given(quadratics(most=8), st.sampled_from([0.5, 3.0]))
def test_curvature_and_rises_scale_with_the_loss(surface, factor):
    options = FlatnessOptions(rho=0.2, steps=4, seed=3)
    scaled = Quadratic(factor * surface.hessian, factor * surface.slope, factor * surface.constant)
    one, other = flatness_around(surface, options), flatness_around(scaled, options)
    for name in ("loss", "gradient_norm", "one_step_rise", "worst_rise", "random_rise", "eigenvalue", "trace"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=1e-7, abs=1e-9)
    assert other.weight_norm == one.weight_norm == pytest.approx(float(surface.centre.norm()))
    assert other.random_rise == pytest.approx(np.mean(other.random_rises), abs=1e-12)


# -- lines and planes --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=15))
def test_the_barrier_equals_a_loop_written_from_its_definition(losses):
    n = len(losses)
    heights = [losses[k] - (losses[0] + (losses[-1] - losses[0]) * k / (n - 1)) for k in range(n)]
    found = barrier(np.array(losses))
    assert found == pytest.approx(max(heights), abs=1e-12)
    assert found >= 0
    assert barrier(np.array(losses[::-1])) == pytest.approx(found, abs=1e-12)
    assert barrier(np.array([1.0, 0.2, 0.4, 3.0])) == 0  # below the line everywhere


@given(st.integers(2, 40), st.integers(0, 2**32), st.sampled_from([1e-3, 1.0, 100.0]))
def test_the_plane_keeps_distances_and_holds_its_points(size, seed, scale):
    generator = np.random.default_rng(seed)
    three = [torch.from_numpy(scale * generator.standard_normal(size)) for _ in range(3)]
    plane = plane_through(*three)
    assert torch.allclose(plane.basis @ plane.basis.T, torch.eye(2, dtype=torch.float64), atol=1e-8)
    for index, (point, (a, b)) in enumerate(zip(three, plane.points, strict=True)):
        assert torch.allclose(plane.at(a, b), point, atol=1e-9 * scale)
        for other in range(index):
            apart = np.linalg.norm(plane.points[index] - plane.points[other])
            assert apart == pytest.approx(float((point - three[other]).norm()), rel=1e-9)
    assert plane.points[0].tolist() == [0, 0]
    assert plane.points[1][1] == 0
    assert plane.points[1][0] > 0
    assert plane.points[2][1] > 0
