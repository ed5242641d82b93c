"""The model of an update's time against independent calculations: sampling, a simulation of 1,024 ranks, loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dist_dash.cluster.scaling import step_model
from dist_dash.cluster.scaling.step_model import (
    MethodCost,
    Network,
    Rates,
    Size,
    Straggling,
    every,
    expected_maximum,
    fit_straggling,
    seconds_of,
    straggling_seconds,
    terms,
)
from dist_dash.errors import BadInput

RATES = Rates(
    batch=32,
    accumulation=2,
    members=16,
    threads=1,
    on_gpu=False,
    forward=0.010,
    backward=0.020,
    merging=0.0001,
    decoding=0.0005,
    overlaps=True,
)
COST = MethodCost(
    seconds=0.19,
    forwards=2,
    backwards=3,
    copies=4,
    gathers=2,
    gathered_bytes=2e6,
    averages=1,
    averaged_bytes=4e7,
    hiding=0.04,
    meetings=[0.4],
)
NONE = Straggling(0.0, 0.0)


@pytest.mark.parametrize(("n", "sigma"), [(1, 0.5), (2, 0.1), (64, 0.1), (1024, 0.05), (1024, 0.4)])
def test_the_largest_of_n_lognormals_equals_sampling(n: int, sigma: float) -> None:
    draw = np.random.default_rng(n)
    largest = np.exp(sigma * np.array([draw.standard_normal(n).max() for _ in range(8_000)]))
    assert expected_maximum(n, sigma) == pytest.approx(largest.mean(), abs=5 * largest.std() / math.sqrt(8_000))


def test_two_known_cases() -> None:
    assert expected_maximum(1, 0.5) == pytest.approx(math.exp(0.125), rel=1e-9)  # the mean of a lognormal
    assert expected_maximum(1000, 0.0) == pytest.approx(1.0, rel=1e-9)


def simulated(members: int, replicas: int, meetings: list[float], sigma: Straggling) -> float:
    """The mean time of an update of median 1, rank by rank: members meet on the way, all ranks at the end."""
    draw = np.random.default_rng(0)
    ends = [*meetings, 1.0]
    found = []
    for _ in range(40):  # jobs, each with slow and fast ranks of its own
        slow = np.exp(sigma.persistent * draw.standard_normal((members, replicas)))
        for _ in range(25):
            clock, begin = np.zeros((members, replicas)), 0.0
            for end in ends:
                length = end - begin
                chance = draw.standard_normal((members, replicas)) * sigma.independent / math.sqrt(length)
                clock = clock + length * slow * np.exp(chance)
                if end < 1.0:
                    clock = np.repeat(clock.max(axis=0, keepdims=True), members, axis=0)
                begin = end
            found.append(clock.max())
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("members", "replicas", "meetings", "sigma"),
    [
        (64, 16, [], Straggling(0.05, 0.03)),
        (64, 16, [0.4], Straggling(0.05, 0.03)),
        (1024, 1, [0.4], Straggling(0.05, 0.0)),
        (1024, 1, [0.2, 0.6], Straggling(0.1, 0.1)),
        (8, 128, [0.3, 0.6], Straggling(0.1, 0.05)),
        (64, 16, [0.4], Straggling(0.0, 0.1)),
    ],
)
def test_1024_ranks_straggle_as_in_a_simulation(
    members: int, replicas: int, meetings: list[float], sigma: Straggling
) -> None:
    excess = straggling_seconds(1.0, meetings, Size(members, replicas, 8), sigma)
    assert excess == pytest.approx(simulated(members, replicas, meetings, sigma) - 1, rel=0.06)


def test_a_mean_in_place_of_the_maximum_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: what a rank waits for is the slowest one, not an average one."""
    monkeypatch.setattr(step_model, "expected_maximum", lambda n, sigma: math.exp(sigma**2 / 2))
    sigma = Straggling(0.05, 0.03)
    excess = straggling_seconds(1.0, [0.4], Size(64, 16, 8), sigma)
    assert excess != pytest.approx(simulated(64, 16, [0.4], sigma) - 1, rel=0.06)


@pytest.mark.parametrize("every_line", [1, 10])
def test_both_parts_are_found_in_a_record(every_line: int) -> None:
    draw, ranks, lines = np.random.default_rng(1), 200, 200
    slow = 0.08 * draw.standard_normal(ranks)
    whole = 0.3 * draw.standard_normal((lines, every_line, 1))  # a slow hour of the whole machine: no straggling
    times = np.exp(slow + 0.05 * draw.standard_normal((lines, every_line, ranks)) + whole)
    found = fit_straggling(times.mean(axis=1), every_line)
    assert found.independent == pytest.approx(0.05, rel=0.06)
    assert found.persistent == pytest.approx(0.08, rel=0.15)
    only_chance = np.exp(0.05 * draw.standard_normal((lines, ranks)))
    assert fit_straggling(only_chance, 1).persistent < 0.01
    with pytest.raises(BadInput, match="waits: 2 lines of 3 members cannot be fitted"):
        fit_straggling(np.ones((2, 3)), 1)


def by_name(size: Size, cost: MethodCost = COST, network: Network | None = None, **options: object) -> dict[str, float]:
    given = {"workers": 0, **options}
    found = terms(RATES, cost, size, network or Network(), NONE, **given)  # type: ignore[arg-type]
    assert len({term.name for term in found}) == len(found)
    return {term.name: term.seconds for term in found}


def test_the_terms_of_1024_ranks_by_hand() -> None:
    network = Network(10, 100, 20, 25, 30, 0.25)
    found = by_name(Size(64, 16, 8), network=network)
    assert found["forwards"] == pytest.approx(2 * 2 * 0.010)
    assert found["backwards"] == pytest.approx(3 * 2 * 0.020)
    assert found["averaging the peers"] == pytest.approx(2 * 64 * 0.0001)
    # What was measured with 16 members, less their forwards, backwards and averaging.
    assert found["optimizer, perturbation, rest"] == pytest.approx(0.19 - 0.04 - 0.12 - 2 * 16 * 0.0001)
    # 16 replicas on two nodes: 30 messages of a sixteenth each, over a link that one ring has for itself.
    ring = 30 * (20e-6 + 4e7 / 16 / 25e9)
    assert found["averaging gradients, exposed"] == pytest.approx(0.75 * ring)
    # 64 members, 8 rings on a node's link: 63 turns of two gathers; 40 ms of own work hide it.
    gather = 63 * (2 * 20e-6 + 2e6 / (25e9 / 8))
    assert found["exchange, exposed"] == pytest.approx(max(0.0, gather - 0.04))
    library = terms(replace(RATES, overlaps=False), COST, Size(64, 16, 8), network, NONE, workers=0)
    assert {t.name: t.seconds for t in library}["averaging gradients, exposed"] == pytest.approx(ring)
    bare = by_name(Size(64, 16, 8), replace(COST, hiding=0.0), network)
    assert bare["exchange, exposed"] == pytest.approx(gather)
    # The flags run beside the update: what they take longer than the own work is seen.
    work = 0.19 + 2 * (64 - 16) * 0.0001
    assert found["agreement on flags, exposed"] == 0.0
    slow = by_name(Size(64, 16, 8), network=Network(alpha_flags=300))
    assert slow["agreement on flags, exposed"] == pytest.approx(2 * 1023 * 300e-6 - work)
    assert found["straggling, independent"] == pytest.approx(0, abs=1e-9)
    assert found["straggling, persistent"] == pytest.approx(0, abs=1e-9)
    assert found["decoding, exposed"] == pytest.approx(64 * 0.0005)


def test_one_rank_waits_for_nobody() -> None:
    found = by_name(Size(1, 1, 8))
    waits = ("averaging gradients, exposed", "exchange, exposed", "agreement on flags, exposed", "averaging the peers")
    assert [found[name] for name in waits] == [0.0] * 4


def test_decoding_hides_behind_the_update_where_cores_suffice() -> None:
    assert by_name(Size(64, 16, 8), workers=4)["decoding, exposed"] == 0.0
    # Four workers of each of 8 ranks share one core: an eighth of it decodes 64 samples of 0.5 ms.
    found = {
        term.name: term.seconds
        for term in terms(replace(RATES, on_gpu=True), COST, Size(4, 2, 8, cores=1), Network(), NONE, workers=4)
    }
    late = found.pop("decoding, exposed")
    assert late == pytest.approx(8 * 64 * 0.0005 - sum(found.values()))
    assert late > 0.05


def test_ranks_on_cpus_share_the_cores_of_their_node() -> None:
    assert by_name(Size(2, 1, 2, cores=1))["forwards"] == pytest.approx(2 * 0.04)
    assert by_name(Size(2, 1, 2, cores=2))["forwards"] == pytest.approx(0.04)


def test_half_the_batch_is_half_the_work_of_the_network_alone() -> None:
    whole, half = by_name(Size(4, 2, 8)), by_name(Size(4, 2, 8), batch=16)
    assert half["forwards"] == pytest.approx(whole["forwards"] / 2)
    assert half["optimizer, perturbation, rest"] == pytest.approx(whole["optimizer, perturbation, rest"])
    assert half["averaging gradients, exposed"] == pytest.approx(whole["averaging gradients, exposed"])


def test_every_third_update_costs_between_both() -> None:
    a = terms(RATES, COST, Size(2, 1, 8), Network(), NONE, workers=0)
    cheap = MethodCost(seconds=0.07, forwards=1, backwards=1, copies=0)
    b = terms(RATES, cheap, Size(2, 1, 8), Network(), NONE, workers=0)
    assert seconds_of(every(a, b, 3)) == pytest.approx((seconds_of(a) + 2 * seconds_of(b)) / 3)
