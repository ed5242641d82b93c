import math

import pytest

from dist_dash.errors import BadInput
from dist_dash.trajectories.schedules import Constant, Cosine, Schedule, Step

PER_EPOCH, TOTAL = 7, 70


def factors(schedule: Schedule, total: int = TOTAL) -> list[float]:
    return [schedule.factor(step, PER_EPOCH, total) for step in range(total)]


def test_constant_stays():
    assert factors(Constant()) == [1.0] * TOTAL


def test_cosine_follows_its_formula_from_one_to_the_floor():
    found = factors(Cosine(floor=0.1))
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * t / TOTAL)) / 2 for t in range(TOTAL)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] == 1
    assert found == sorted(found, reverse=True)
    assert 0.1 < found[-1] < 0.101


def test_step_drops_at_each_milestone():
    found = factors(Step([2, 4.5], gamma=0.2))
    expected = [1.0 if t < 14 else 0.2 if t < 31.5 else 0.2**2 for t in range(TOTAL)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert factors(Step([])) == [1.0] * TOTAL


@pytest.mark.parametrize("after", [Constant, Cosine, lambda warmup: Step([5], warmup=warmup)])
@pytest.mark.parametrize("epochs", [1, 2, 0.5])
def test_warmup_grows_linearly_and_hands_over(after, epochs):
    found, steps = factors(after(warmup=epochs)), round(epochs * PER_EPOCH)
    assert found[:steps] == pytest.approx([(t + 1) / steps for t in range(steps)])
    assert found[0] > 0
    assert found[steps - 1] == found[steps] == 1


def test_cosine_after_a_warmup_spans_what_is_left():
    found, steps = factors(Cosine(warmup=2)), 2 * PER_EPOCH
    left = TOTAL - steps
    assert found[steps:] == pytest.approx([(1 + math.cos(math.pi * t / left)) / 2 for t in range(left)], abs=1e-12)


def test_a_warmup_longer_than_the_run_ends_with_it():
    assert factors(Cosine(warmup=100)) == pytest.approx([(t + 1) / TOTAL for t in range(TOTAL)])
    assert Cosine(warmup=1).factor(0, PER_EPOCH, 1) == 1


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (lambda: Constant(warmup=-1), "schedule.warmup", "-1"),
        (lambda: Cosine(warmup=math.nan), "schedule.warmup", "nan"),
        (lambda: Cosine(floor=1.5), "schedule.floor", "1.5"),
        (lambda: Cosine(floor=-0.1), "schedule.floor", "-0.1"),
        (lambda: Step([3, 1]), "schedule.milestones", "[3, 1]"),
        (lambda: Step([1], gamma=-2), "schedule.gamma", "-2"),
        (lambda: Step([1], gamma=math.inf), "schedule.gamma", "inf"),
    ],
)
def test_bad_values_are_named(make, field, value):
    with pytest.raises(BadInput) as caught:
        make()
    assert str(caught.value).startswith(f"{field}: {value} is not allowed; it must")
    assert "\n" not in str(caught.value)
