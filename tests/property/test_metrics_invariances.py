"""What must not change the figures: the order of members, samples and classes, the memory layout, the precision."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dash.metrics.summary import evaluate


@st.composite
def predictions(draw, ties=True):
    """Log-probabilities `[members, N, C]` and labels `[N]`."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(2, 8))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = 3 * generator.standard_normal(shape)
    if ties and draw(st.booleans()):  # samples that are the same, hence equally confident
        logits = logits[:, generator.integers(shape[1], size=shape[1])]
    labels = generator.integers(shape[2], size=shape[1])
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True), labels


def close(ours, theirs, besides=()):
    """Equal structure; numbers equal but for rounding."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for name in theirs:
            if name not in besides:
                close(ours[name], theirs[name], besides)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            close(one, other, besides)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-10)
    else:
        assert ours == theirs


@given(predictions(), st.randoms())
def test_the_order_of_members(case, random):
    log_probs, labels = case
    order = list(range(len(log_probs)))
    random.shuffle(order)
    before, after = evaluate(log_probs, labels, "test", 0), evaluate(log_probs[order], labels, "test", 0)
    close(after["members"], [before["members"][member] for member in order])
    said, theirs = (found.pop("temperature_remarks", None) for found in (after, before))
    if theirs is not None:
        assert said == {**theirs, "members": [theirs["members"][member] for member in order]}
    close({**after, "members": 0}, {**before, "members": 0}, besides=("pairwise",))
    for name, matrix in before["diversity"]["pairwise"].items():
        close(after["diversity"]["pairwise"][name], np.array(matrix)[np.ix_(order, order)].tolist())


@given(predictions(), st.integers(0, 2**32))
def test_the_order_of_samples(case, seed):
    """Random halves are another matter: `calibrated` scores depend on them."""
    log_probs, labels = case
    order = np.random.default_rng(seed).permutation(len(labels))
    before = evaluate(log_probs, labels, "test", 0, calibrated=False)
    close(evaluate(log_probs[:, order], labels[order], "test", 0, calibrated=False), before)


@given(predictions(ties=False), st.integers(0, 2**32))
def test_the_names_of_classes(case, seed):
    log_probs, labels = case
    order = np.random.default_rng(seed).permutation(log_probs.shape[2])
    close(evaluate(log_probs[..., order], np.argsort(order)[labels], "test", 0), evaluate(log_probs, labels, "test", 0))


@given(predictions())
def test_the_layout_in_memory(case):
    log_probs, labels = case
    before = evaluate(log_probs, labels, "test", 0)
    scattered = np.asfortranarray(log_probs)
    backwards = log_probs[:, ::-1].copy()[:, ::-1]
    assert evaluate(scattered, labels.astype(np.uint8), "test", 0) == before  # to the bit
    assert evaluate(backwards, labels, "test", 0) == before


@given(predictions())
def test_precision_beyond_its_own(case):
    """Single precision gives what the same numbers give in double precision."""
    single, labels = case[0].astype(np.float32), case[1]
    assert evaluate(single, labels, "test", 0) == evaluate(single.astype(np.float64), labels, "test", 0)


@given(predictions())
def test_nothing_is_changed_and_the_same_comes_twice(case):
    log_probs, labels = case
    kept = log_probs.copy(), labels.copy()
    first = evaluate(log_probs, labels, "test", 0)
    assert np.array_equal(log_probs, kept[0])
    assert np.array_equal(labels, kept[1])
    assert evaluate(log_probs, labels, "test", 0) == first
    json.dumps(first, allow_nan=False)


@given(predictions(), st.data())
def test_members_that_are_left_out_leave_no_trace(case, data):
    log_probs, labels = case
    non_finite = log_probs[:1].copy()
    non_finite[0, data.draw(st.integers(0, len(labels) - 1)), 0] = data.draw(st.sampled_from([np.nan, np.inf]))
    at = data.draw(st.integers(0, len(log_probs)))
    mixed = np.concatenate([log_probs[:at], non_finite, log_probs[at:]])
    cosines = np.arange(len(mixed) ** 2, dtype=float).reshape(len(mixed), -1)
    kept = np.delete(np.delete(cosines, at, 0), at, 1)
    found = evaluate(mixed, labels, "test", 0, weight_cosines=cosines)
    assert found == {**evaluate(log_probs, labels, "test", 0, weight_cosines=kept), "left_out": [at]}
