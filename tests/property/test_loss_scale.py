"""The loss scale of fp16: the rule of torch and DeepSpeed, and what an overflow does to a member."""

import copy
import math
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from dist_dash.errors import BadInput
from dist_dash.member.batch import Batch, Progress, micro_batch
from dist_dash.member.engine import Torch
from dist_dash.member.facts import RunFacts
from dist_dash.member.loss_scale import LossScale, LossScaling
from dist_dash.member.losses import cross_entropy
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, unit
from dist_dash.methods import SAM, SGD
from tests.property.conftest import NoPeers

CPU = torch.device("cpu")


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 4),
    st.sampled_from([0.5, 0.25]),
    st.sampled_from([1.0, 64.0, 65536.0]),
)
@settings(deadline=None)
def test_the_rule_is_that_of_torch(overflows: list[bool], interval: int, backoff: float, initial: float) -> None:
    ours = LossScale(LossScaling(initial, interval, backoff, minimum=2.0**-60), CPU)
    value, tracker = torch.tensor(initial), torch.zeros((), dtype=torch.int32)
    for overflow in overflows:
        torch._amp_update_scale_(value, tracker, torch.tensor(float(overflow)), 2.0, backoff, interval)
        ours.update(overflow)
        assert ours.value == max(float(value), 2.0**-60)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.sampled_from([1.0, 2.0**10]))
@settings(deadline=None)
def test_hysteresis_and_minimum_are_those_of_deepspeed(overflows: list[bool], hysteresis: int, minimum: float) -> None:
    """Until the scale grows: DeepSpeed counts one update more before that than torch does."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    ours = LossScale(LossScaling(2.0**12, 1000, hysteresis=hysteresis, minimum=minimum), CPU)
    theirs = DynamicLossScaler(2.0**12, 1000, minimum, hysteresis, False, raise_error_at_min_scale=False)
    with mock.patch("deepspeed.runtime.fp16.loss_scaler.dist"):  # which it asks who speaks
        for overflow in overflows:
            ours.update(overflow)
            theirs.update_scale(overflow)
            assert ours.value == theirs.cur_scale


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 30), st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None)
def test_what_is_kept_is_all_that_the_rule_depends_on(
    overflows: list[bool], at: int, interval: int, hysteresis: int
) -> None:
    whole, resumed = (LossScale(LossScaling(interval=interval, hysteresis=hysteresis), CPU) for _ in range(2))
    for step, overflow in enumerate(overflows):
        if step == at:
            resumed.load_state(whole.state())
        whole.update(overflow)
        if step >= at:
            resumed.update(overflow)
            assert resumed.value == whole.value


def test_growing_forgives_again_and_ends_somewhere() -> None:
    scale = LossScale(LossScaling(4.0, interval=1, hysteresis=2), CPU)
    values = []
    for overflow in (True, True, False, True, False):
        scale.update(overflow)
        values.append(scale.value)
    assert values == [4.0, 2.0, 4.0, 4.0, 8.0]
    for _ in range(100):
        scale.update(False)
    assert scale.value == 2.0**64


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("initial", 1000.0), ("initial", 0.0), ("initial", math.nan), ("initial", 0.5), ("minimum", -1.0)],
        *[("backoff", 1.0), ("backoff", 0.3), ("interval", 0), ("hysteresis", 0)],
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(field: str, value: Any) -> None:
    with pytest.raises(BadInput, match=f"engine.scaling.{field}: {value}"):
        LossScaling(**{field: value})


# -- a member ----------------------------------------------------------------------------------------------------------


class Steep(nn.Module):
    """Logits of moderate size whose gradients grow with `by`: they overflow, the forward does not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.by = nn.Linear(6, 4), 1.0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        return logits.detach() + self.by * (logits - logits.detach())


def fp16_member(network: nn.Module, **scaling: Any) -> Member:
    engine = Torch("fp16", scaling=LossScaling(**{"initial": 2.0**10, **scaling}))
    engine.attach(network, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), NoPeers())  # type: ignore[arg-type]
    return Member(engine, 0, 1)


def batch(step: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(step)
    x, y = torch.randn(8, 6, generator=draw), torch.eye(4)[torch.arange(8) % 4]
    return Batch([micro_batch(x, y, torch.arange(8), None, 0.0, CPU, torch.float32)], Progress(step, 100, 10))


def everything(member: Member) -> dict[str, Tensor]:
    momenta = {f"momentum {i}": s["momentum_buffer"] for i, s in enumerate(member.engine.optimizer.state.values())}
    return copy.deepcopy({**member.engine.module.state_dict(), **momenta})


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class OnlyAbove(SAM):
    """SAM whose network is steep at θ and not at θ + ε, or the other way round: one gradient of the two overflows."""

    def __init__(self, ascent: float, descent: float) -> None:
        super().__init__(rho=0.1, p=math.inf)  # whose sign() makes a step of an infinite gradient
        self.by = ascent, descent
        self.epsilon: list[Tensor] = []

    def update(self, member: Member, batch: Batch, exchange: Any) -> Any:
        network, passes, forward = member.engine.module, iter(self.by), member.engine.forward
        before = [p.detach().clone() for p in member.parameters]

        def steep(x: Tensor) -> Tensor:
            network.by = next(passes)
            self.epsilon = [p.detach() - b for p, b in zip(member.parameters, before, strict=True)]
            return forward(x)

        member.engine.forward = steep  # type: ignore[method-assign]
        try:
            return super().update(member, batch, exchange)
        finally:
            del member.engine.forward


@pytest.mark.parametrize("where", ["ascent", "descent"])
def test_an_overflow_skips_and_changes_nothing_but_the_scale(where: str) -> None:
    member = fp16_member(Steep())
    SAM(rho=0.1).update(member, batch(), NoPeers())  # type: ignore[arg-type]
    before, scale = everything(member), member.engine.loss_scale
    assert not member.engine.skipped
    method = OnlyAbove(**{"ascent": 1.0, "descent": 1.0, where: 1e6})
    measured = method.update(member, batch(1), NoPeers())
    assert member.engine.skipped
    assert same(everything(member), before)
    assert scale.value == 2.0**9
    assert member.skipped_in_a_row == 0
    # The perturbed weights were numbers: none where the ascent overflowed.
    assert max(float(e.abs().max()) for e in method.epsilon) == pytest.approx(0.0 if where == "ascent" else 0.1)
    assert all(bool(value.isfinite()) for value in measured.values())
    OnlyAbove(1.0, 1.0).update(member, batch(2), NoPeers())
    assert not member.engine.skipped
    assert not same(everything(member), before)


def test_an_ascent_after_the_descent_gradient_counts_too() -> None:
    member = fp16_member(Steep())
    (micro,) = batch()
    member.backward(micro.loss(member.forward(micro.x)))
    member.engine.module.by = 1e6
    found = member.gradient(micro.loss(member.forward(micro.x)))
    assert float(found.norm()) == 0
    assert member.step() is False


def test_skips_count_once_the_scale_cannot_fall() -> None:
    member = fp16_member(Steep(), initial=4.0)
    counted = []
    for step in range(5):
        member.engine.module.by = math.nan
        SGD().update(member, batch(step), NoPeers())  # type: ignore[arg-type]
        counted.append((member.engine.loss_scale.value, member.skipped_in_a_row))
    assert counted == [(2.0, 0), (1.0, 0), (1.0, 1), (1.0, 2), (1.0, 3)]
    member.engine.module.by = 1.0
    SGD().update(member, batch(), NoPeers())  # type: ignore[arg-type]
    assert member.skipped_in_a_row == 0


@pytest.mark.parametrize("scale", [1.0, 2.0**14])
def test_tiny_gradients_live_by_the_scale(scale: float) -> None:
    """Without one, elements below 6e-8 vanish; under it all are there, with eleven bits, and of their true length."""
    torch.manual_seed(0)
    network = Steep()
    exact, low = copy.deepcopy(network), fp16_member(network, initial=scale)
    (micro,) = batch()
    network.by = exact.by = 1e-7
    found = flat(low.gradient(micro.loss(low.forward(micro.x))).tensors)
    true = flat(torch.autograd.grad(cross_entropy(exact(micro.x), micro.target), list(exact.parameters())))
    error = float((found - true).norm() / true.norm())
    assert error < 5e-3 if scale > 1 else error > 0.3


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors]).double()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["SAM", "joint", "separate"])
def test_the_realised_perturbation_is_as_long_as_asked(lone_member: Any, precision: str, kind: str) -> None:
    torch.manual_seed(0)
    member = lone_member(nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4)), precision)
    (micro,) = batch()
    logits = member.forward(micro.x)
    loss, other = micro.loss(logits), logits.square().mean()
    g, h = (member.ascent_gradient(value, retain_graph=True) for value in (loss, other))
    epsilon: ParameterVector = {"SAM": 0.05 * unit(g), "joint": 0.05 * unit(g + 0.5 * h)}.get(
        kind, 0.05 * unit(g) + 0.02 * unit(h)
    )
    before = [p.detach().clone() for p in member.parameters]
    with member.perturbed(epsilon):
        moved = flat([p.detach().double() - b.double() for p, b in zip(member.parameters, before, strict=True)])
    assert abs(float(moved.norm() / epsilon.norm()) - 1) < 1e-3
    assert kind == "separate" or abs(float(moved.norm()) / 0.05 - 1) < 1e-3
    assert all(torch.equal(p, b) for p, b in zip(member.parameters, before, strict=True))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp64", torch.float64), ("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_a_method_is_told_how_kernels_round(precision: str, dtype: torch.dtype) -> None:
    facts = RunFacts(2, 1, 4, (4,), False, precision, 0, "shared", 10, 5)
    assert facts.unit_roundoff == torch.finfo(dtype).eps / 2
