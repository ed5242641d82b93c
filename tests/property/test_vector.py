import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dist_dash.member.vector import ParameterVector, cosine, sam_perturbation, unit

SHAPES = [(3,), (2, 4), (), (1, 1, 5)]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
NORMS = st.one_of(st.sampled_from([2.0, math.inf]), st.floats(1.1, 10.0))
SCALES = st.floats(-3, 3).filter(lambda s: abs(s) > 1e-3)


@st.composite
def vectors(draw, dtypes=(torch.float64, torch.float32), decades=25):
    """Dense or sparse directions of very different lengths; never 0."""
    dtype, magnitude = draw(st.sampled_from(dtypes)), 10.0 ** draw(st.integers(-decades, decades))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) * magnitude for shape in SHAPES]
    if draw(st.booleans()):
        tensors[1].zero_()
        tensors[3][..., 1:] = 0
    return ParameterVector(tensors)


def flat(vector: ParameterVector) -> Tensor:
    return torch.cat([t.reshape(-1) for t in vector.materialised()]).double()


def norm_by_definition(values: Tensor, p: float) -> float:
    values = [abs(v) for v in values.tolist()]
    largest = max(values)
    return largest if math.isinf(p) else largest * sum((v / largest) ** p for v in values) ** (1 / p)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("p", [2.0, math.inf, 1.1, 3.0, 10.0])
def test_zero_has_no_direction(dtype, p):
    zero = ParameterVector([torch.zeros(shape, dtype=dtype) for shape in SHAPES])
    assert torch.equal(flat(unit(zero)), torch.zeros(17, dtype=torch.float64))
    assert torch.equal(flat(sam_perturbation(zero, 0.1, p)), torch.zeros(17, dtype=torch.float64))
    assert cosine(zero, zero) == 0


@given(vectors())
def test_a_unit_vector_has_length_one_and_keeps_the_direction(vector):
    found, original, tolerance = flat(unit(vector)), flat(vector), TOLERANCE[vector.tensors[0].dtype]
    assert abs(found.norm() - 1) < tolerance
    assert torch.allclose(found, original / norm_by_definition(original, 2), rtol=tolerance, atol=tolerance)
    assert torch.equal(flat(unit(vector, vector.norm())), found)


@given(vectors(), st.sampled_from([2.0, math.inf, 1.0, 3.5]), SCALES)
def test_a_norm_is_that_of_the_scaled_elements(vector, p, scale):
    expected = abs(scale) * norm_by_definition(flat(vector), p)
    found = (scale * vector).norm(p)
    assert found.dtype == torch.float64
    assert abs(found - expected) <= 1e-6 * expected


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-7), (torch.float64, 1e-13)])
@pytest.mark.parametrize("kind", ["equal", "normal", "of many sizes"])
def test_a_long_vector_loses_no_digits(kind, dtype, tolerance):
    """Two million elements: squares added up one after the other in fp32 are wrong in the fourth digit."""
    drawn = torch.randn(2, 1_000_003, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = {"equal": torch.full_like(drawn, 1 / 3), "normal": drawn, "of many sizes": (5 * drawn).exp()}[kind].to(
        dtype
    )
    expected = math.sqrt(math.fsum((values.double() ** 2).flatten().tolist()))
    found = ParameterVector([values[0], values[1].reshape(1, -1)]).norm()
    assert float(found) == pytest.approx(expected, rel=tolerance)


@given(vectors(), NORMS, st.floats(1e-3, 10.0))
def test_a_perturbation_has_length_rho_and_maximises_the_linearised_loss(vector, p, rho):
    epsilon, g, tolerance = flat(sam_perturbation(vector, rho, p)), flat(vector), TOLERANCE[vector.tensors[0].dtype]
    q = 1.0 if math.isinf(p) else p / (p - 1)
    assert abs(norm_by_definition(epsilon, p) - rho) < 10 * tolerance * rho
    gain, largest_possible = float((g * epsilon).sum()), rho * norm_by_definition(g, q)
    assert abs(gain - largest_possible) < 10 * tolerance * largest_possible


@given(vectors(decades=8), st.floats(1.2, 6.0), st.integers(0, 2**32))
def test_no_other_vector_of_the_ball_rises_more(vector, p, seed):
    g, best = flat(vector), flat(sam_perturbation(vector, 1.0, p))
    others = torch.randn(200, len(g), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    others = torch.cat([others, best + 0.05 * others])
    others /= torch.stack([torch.linalg.vector_norm(o, p) for o in others])[:, None]
    assert (others @ g).max() <= (best @ g) * (1 + 1e-5)


@given(vectors(), vectors(dtypes=(torch.float64,), decades=3), SCALES)
def test_arithmetic_leaves_its_operands_alone(vector, other, scale):
    other = ParameterVector([t.to(vector.tensors[0].dtype) for t in other.tensors])
    before = [t.clone() for v in (vector, other) for t in v.tensors]
    scaled = scale * (2.0 * vector)
    results = [unit(scaled), scaled + other, scaled - other, vector + other, other - scaled]
    results += [sam_perturbation(scaled, 0.1, p) for p in (2.0, 3.0, math.inf)]
    numbers = [scaled.norm(), scaled.dot(other), cosine(scaled, other), *(flat(r).sum() for r in results)]
    assert all(number.isfinite() for number in numbers)
    after = [t for v in (vector, other) for t in v.tensors]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@given(vectors(dtypes=(torch.float64,), decades=3), vectors(dtypes=(torch.float64,), decades=3), SCALES, SCALES)
def test_sums_and_products_are_those_of_the_elements(a, b, s, t):
    x, y = flat(a), flat(b)
    left, right = s * a, torch.tensor(t, dtype=torch.float64) * b
    size = abs(s) * x.norm() + abs(t) * y.norm()
    assert torch.allclose(flat(left + right), s * x + t * y, rtol=0, atol=1e-12 * float(size))
    assert torch.allclose(flat(left - right), s * x - t * y, rtol=0, atol=1e-12 * float(size))
    assert abs(left.dot(right) - s * t * (x @ y)) <= 1e-12 * abs(s * t) * x.norm() * y.norm()
    assert torch.equal(flat(ParameterVector([]) + left), flat(left))
    assert torch.equal(flat(left + ParameterVector([])), flat(left))


@given(st.lists(vectors(dtypes=(torch.float64,), decades=3), min_size=1, max_size=4), SCALES)
def test_accumulating_in_place_equals_adding(terms, scale):
    terms = [*terms, scale * terms[-1]]
    untouched = [t.clone() for t in terms[-2].tensors] if len(terms) > 2 else None
    expected = ParameterVector([])
    for term in terms:
        expected = expected + ParameterVector([t.clone() for t in term.materialised()])
    total = ParameterVector([])
    for term in terms:
        total += term
        total.norm()  # a remembered norm must not outlive the next addition
    size = float(sum(term.norm() for term in terms))
    assert torch.allclose(flat(total), flat(expected), rtol=0, atol=1e-14 * size)
    assert abs(total.norm() - expected.norm()) < 1e-13 * size
    scaled = scale * terms[0]
    doubled = ParameterVector([t.clone() for t in scaled.tensors], scaled.scale)
    doubled += scaled
    assert torch.allclose(flat(doubled), 2 * flat(scaled), rtol=1e-14, atol=0)
    assert untouched is None or all(torch.equal(a, b) for a, b in zip(untouched, terms[-2].tensors, strict=True))


@given(vectors(decades=8), vectors(decades=8), SCALES)
def test_a_cosine_is_one_for_parallel_vectors_and_never_more(a, b, scale):
    b = ParameterVector([t.to(a.tensors[0].dtype) for t in b.tensors])
    tolerance = TOLERANCE[a.tensors[0].dtype]
    assert abs(cosine(a, scale * a) - math.copysign(1, scale)) < tolerance
    assert abs(cosine(a, b)) <= 1 + tolerance
    assert abs(cosine(a, b) - float(flat(a) @ flat(b)) / float(flat(a).norm() * flat(b).norm())) < tolerance


@pytest.mark.parametrize("p", [2.0, 3.0])
def test_a_vanishing_gradient_does_not_become_infinite(p):
    vector = ParameterVector([torch.tensor([5e-42, 0.0])])
    assert flat(sam_perturbation(vector, 0.1, p)).isfinite().all()


def test_a_norm_close_to_one_still_perturbs():
    vector = ParameterVector([torch.full((100,), 1e-4)])
    assert abs(norm_by_definition(flat(sam_perturbation(vector, 0.1, 1.01)), 1.01) - 0.1) < 1e-4
