"""Cosines between members' perturbations against loops over their numbers; what the sketch of a large one keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_dash.member.sketch import SIZE, Sketch
from dist_dash.member.vector import ParameterVector
from dist_dash.ranks.peers import Stacked

SHAPES = [(3,), (2, 4), (), (1, 1, 5)]


class Members:
    """An exchange among members that are all in this process; they ask it one after the other, twice."""

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        self.layout, self.given = SimpleNamespace(device=torch.device("cpu"), members_per_rank=1), list[Tensor]()
        for sketch in sketches:
            sketch.cosines(self)  # type: ignore[arg-type]

    def stack(self, values: Tensor) -> SimpleNamespace:
        self.given.append(values.clone())
        return arrived(self.given)


def arrived(given: Sequence[Tensor]) -> SimpleNamespace:
    """What is awaited."""
    return SimpleNamespace(wait=lambda: Stacked(torch.stack(list(given)), torch.ones(len(given), dtype=torch.bool)))


class Everyone:
    """The same once all have given theirs."""

    def __init__(self, members: Members) -> None:
        self.layout, self.given, self.asked = members.layout, members.given, 0

    def stack(self, values: Tensor) -> SimpleNamespace:
        self.asked += 1
        assert any(torch.equal(values.nan_to_num(), one.nan_to_num()) for one in self.given)
        return arrived(self.given)


def seen(vector: ParameterVector | None) -> Sketch:
    sketch = Sketch()
    if vector is not None:
        sketch.see(vector)
    return sketch


def cosines(vectors: Sequence[ParameterVector | None]) -> list[list[float]] | None:
    """What every member finds: all the same."""
    sketches = [seen(vector) for vector in vectors]
    everyone = Everyone(Members(sketches))
    found = [sketch.cosines(everyone) for sketch in sketches]  # type: ignore[arg-type]
    assert everyone.asked == len(vectors)  # one collective each
    assert all(str(one) == str(found[0]) for one in found)
    return found[0]


def numbers(vector: ParameterVector) -> list[float]:
    return [float(vector.scale) * value for part in vector.tensors for value in part.flatten().tolist()]


def cosine_by_definition(a: list[float], b: list[float]) -> float:
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def drawn(seed: int, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@st.composite
def perturbations(draw: st.DrawFn) -> ParameterVector:
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    tensors = drawn(draw(st.integers(0, 2**32)), SHAPES, dtype)
    if draw(st.booleans()):
        tensors[1].zero_()
    scale = draw(st.floats(-3, 3).filter(lambda s: s == 0 or abs(s) > 1e-3)) * 10.0 ** draw(st.integers(-40, 10))
    return ParameterVector(tensors, torch.tensor(scale, dtype=torch.float64) if draw(st.booleans()) else scale)


@given(st.lists(perturbations(), min_size=1, max_size=5))
def test_small_ones_are_exact(vectors: list[ParameterVector]) -> None:
    plain = [numbers(vector) for vector in vectors]
    found = cosines(vectors)
    if not any(any(values) for values in plain):
        assert found is None
        return
    assert found is not None
    for i, a in enumerate(plain):
        for j, b in enumerate(plain):
            assert found[i][j] == pytest.approx(cosine_by_definition(a, b), abs=1e-12)


def correlated(shapes: Sequence[tuple[int, ...]], shares: Sequence[float]) -> list[ParameterVector]:
    """Vectors with about these cosines to the first one."""
    first = drawn(0, shapes)
    found = [ParameterVector(first)]
    for number, share in enumerate(shares):
        other, rest = drawn(number + 1, shapes), math.sqrt(1 - share**2)
        found.append(ParameterVector([share * a + rest * b for a, b in zip(first, other, strict=True)], 0.05))
    return found


def test_the_largest_that_is_kept_whole() -> None:
    vectors = correlated([(SIZE - 300,), (30, 10)], [0.0, 0.5, -0.999])
    found, plain = cosines(vectors), [numbers(vector) for vector in vectors]
    assert found is not None
    for i, a in enumerate(plain):
        for j, b in enumerate(plain):
            assert found[i][j] == pytest.approx(cosine_by_definition(a, b), abs=1e-12)


@pytest.mark.parametrize("shapes", [[(SIZE,), ()], [(400, 300), (7,), (100, 3, 3, 50)], [(2 * SIZE, 2), (SIZE, 3)]])
def test_the_sketch_of_larger_ones_is_near(shapes: list[tuple[int, ...]]) -> None:
    vectors = correlated(shapes, [0.0, 0.1, 0.5, -0.9, -1.0])
    found = cosines(vectors)
    assert found is not None
    wholes = [torch.cat([part.flatten().double() for part in vector.tensors]) for vector in vectors]
    off = [found[i][j] - float(a @ b / a.norm() / b.norm()) for i, a in enumerate(wholes) for j, b in enumerate(wholes)]
    assert 0 < max(map(abs, off)) < 5 / math.sqrt(SIZE)
    assert [found[i][i] for i in range(6)] == pytest.approx([1.0] * 6)
    assert found[0][5] == pytest.approx(-1.0, abs=1e-6)


def test_cosines_of_many_sketched_pairs_are_unbiased() -> None:
    """Of independent vectors: mean 0, deviation 1/√SIZE beside that of the cosines themselves."""
    vectors = [ParameterVector(drawn(seed, [(SIZE + 1,)])) for seed in range(24)]
    found = cosines(vectors)
    assert found is not None
    wholes = torch.stack([vector.tensors[0].double() for vector in vectors])
    wholes /= wholes.norm(dim=1, keepdim=True)
    off = (torch.tensor(found) - wholes @ wholes.T)[torch.ones(24, 24).triu(1).bool()]
    assert abs(float(off.mean())) < 4 / math.sqrt(SIZE * len(off))
    assert 0.8 < float(off.std()) * math.sqrt(SIZE) < 1.2


# -- the sketch itself: a linear map that sends each coordinate, with a sign, to one place -----------------------------


def sketched(tensors: list[Tensor], scale: float = 1.0) -> Tensor:
    return Members([seen(ParameterVector(tensors, scale))]).given[0]


SPLIT = [(SIZE,), (20, 3), ()]


@settings(max_examples=10)
@given(st.integers(0, SIZE + 60), st.integers(0, 2**32), st.floats(-3, 3))
def test_it_is_linear_and_keeps_each_number(place: int, seed: int, scale: float) -> None:
    one = torch.zeros(SIZE + 61)
    one[place] = 1
    parts = [part.reshape(shape) for part, shape in zip(one.split([SIZE, 60, 1]), SPLIT, strict=True)]
    found = sketched(parts)
    assert found.shape == (SIZE,)
    assert found.dtype == torch.float64
    assert found.abs().sum() == found.abs().max() == 1
    a, b = drawn(seed, SPLIT), drawn(seed + 1, SPLIT)
    together = sketched([x.double() + scale * y.double() for x, y in zip(a, b, strict=True)])
    assert torch.allclose(together, sketched(a) + sketched(b, scale), atol=1e-9)


def test_places_and_signs_are_spread_evenly() -> None:
    found = sketched([torch.ones(SIZE, 10), torch.ones(3)])
    assert abs(float(found.mean())) < 5 * math.sqrt(10 / SIZE)  # each place: ten signs, mean 0, variance 10
    assert float(found.var()) == pytest.approx(10, rel=0.05)
    assert len(found.unique()) > 20


def test_it_is_the_same_every_time() -> None:
    """All ranks draw the same places and signs, whatever else they draw."""
    torch.manual_seed(1)
    first = sketched(drawn(3, SPLIT))
    torch.manual_seed(2)
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(sketched(drawn(3, SPLIT)), first)
    assert torch.equal(torch.get_rng_state(), state)  # and it draws nothing from the stream of the training


# -- what a member saw -------------------------------------------------------------------------------------------------


def test_the_first_perturbation_of_an_update_counts() -> None:
    first, second = (ParameterVector(drawn(seed, SHAPES)) for seed in (1, 2))
    sketch = seen(first)
    sketch.see(second)
    assert torch.equal(Members([sketch]).given[0], Members([seen(first)]).given[0])
    late = seen(ParameterVector([]))
    late.see(second)
    assert torch.equal(Members([late]).given[0], Members([seen(second)]).given[0])


@pytest.mark.parametrize("shapes", [SHAPES, SPLIT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_neither_changes_nor_keeps_the_perturbation(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    tensors = drawn(1, shapes, dtype)
    before = [part.clone() for part in tensors]
    sketch = seen(ParameterVector(tensors))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    expected = Members([sketch]).given[0]
    for part in tensors:
        part.zero_()  # gradients are used again
    assert torch.equal(Members([sketch]).given[0], expected)
    assert not expected.requires_grad


def test_members_that_saw_nothing() -> None:
    a, b = (ParameterVector(drawn(seed, SHAPES)) for seed in (1, 2))
    zero = ParameterVector([torch.zeros(shape) for shape in SHAPES])
    assert cosines([None, None]) is None
    assert cosines([None, zero, ParameterVector([])]) is None
    found = cosines([a, None, b, zero])
    assert found is not None
    exact = cosine_by_definition(numbers(a), numbers(b))
    assert found[0] == pytest.approx([1, 0, exact, 0])
    assert found[1] == found[3] == [0, 0, 0, 0]


@pytest.mark.parametrize("sick", [math.nan, math.inf])
def test_a_sick_member_leaves_the_others_theirs(sick: float) -> None:
    a, b = (ParameterVector(drawn(seed, SHAPES)) for seed in (1, 2))
    broken = drawn(3, SHAPES)
    broken[0][1] = sick
    found = cosines([a, ParameterVector(broken), b])
    assert found is not None
    assert found[0][2] == found[2][0] == pytest.approx(cosine_by_definition(numbers(a), numbers(b)))
    assert all(not math.isfinite(found[1][j]) and not math.isfinite(found[j][1]) for j in range(3))
