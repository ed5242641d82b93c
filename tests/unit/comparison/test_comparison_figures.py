"""What a comparison says of runs: figures against plain loops, the best, the cost, sentences."""

import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared import DIVERSITY, ENVIRONMENT, OLD, SCORES, loaded, noisy, run_at, study, train_lines
from scipy import stats

from dist_dash.comparison.cost import Cost, cost_of, median_cost, relative
from dist_dash.comparison.grouping import Comparison, load_comparison
from dist_dash.comparison.metric_names import better, heading, number, percent
from dist_dash.comparison.section import Section
from dist_dash.comparison.verdict import verdict

HIGHER = {"accuracy", "top5", "aac", "cal_aac"}


def only(comparison: Comparison) -> Section:
    (section,) = comparison.sections
    return section


def written(folder: Path, method: str, seed: int) -> dict[str, Any]:
    return json.loads((folder / f"{method}-s{seed}" / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM is a little better than SGD, DASH is not better than SAM."""
    return study(tmp_path_factory.mktemp("study"), {"SGD": 0.0, "SAM": 0.02, "DASH": 0.0205})


@pytest.fixture(scope="module")
def section(folder: Path) -> Section:
    return only(loaded(folder))


# -- directions and texts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_each_score_has_its_direction(name: str) -> None:
    expected = None if name in ("clipped", "temperature") else "higher" if name in HIGHER else "lower"
    assert better(f"ensemble.{name}") == better(f"member_mean.{name}") == expected
    assert percent(f"ensemble.{name}") == (name in HIGHER)


@pytest.mark.parametrize("name", [*DIVERSITY, "accuracy"])
def test_diversity_has_no_better(name: str) -> None:
    assert better(f"diversity.{name}") is None
    assert percent(f"diversity.{name}") == (name == "disagreement")


@pytest.mark.parametrize(
    ("metric", "value", "sign", "expected"),
    [
        ("ensemble.accuracy", 0.97556, "", "97.56"),
        ("ensemble.accuracy", -0.0123, "+", "-1.23"),
        ("ensemble.aac", 1.0, "", "100.00"),
        ("ensemble.nll", 0.12345, "", "0.1235"),
        ("ensemble.nll", 0.12345, "+", "+0.1235"),
        ("ensemble.nll", -0.00001, "+", "0.0000"),
        ("ensemble.accuracy", 0.0, "+", "0.00"),
        ("ensemble.nll", None, "+", "—"),
    ],
)
def test_numbers_as_text(metric: str, value: float | None, sign: str, expected: str) -> None:
    assert number(metric, value, sign) == expected


def test_headings_tell_unit_and_direction() -> None:
    assert heading("ensemble.accuracy") == "accuracy % ↑"
    assert heading("member_mean.cal_nll") == "cal_nll ↓"
    assert heading("diversity.kl") == "kl"


# -- figures -----------------------------------------------------------------------------------------------------------


def test_means_and_deviations_are_those_of_the_files(folder: Path, section: Section) -> None:
    for group in section.groups:
        files = [written(folder, group.name, seed) for seed in range(5)]
        checked = 0
        for part, names in (("ensemble", SCORES), ("member_mean", SCORES), ("diversity", DIVERSITY)):
            for name in names:
                values = [file[part][name] for file in files]
                if None not in values:
                    summary = group.metrics[f"{part}.{name}"]
                    assert summary.mean == pytest.approx(sum(values) / 5)
                    assert summary.sd == pytest.approx(statistics.stdev(values))
                    checked += 1
        assert checked == len(group.metrics) == 2 * len(SCORES) + len(DIVERSITY)
        assert "diversity.pairwise" not in group.metrics


def test_differences_are_those_of_the_files_for_all_pairs(folder: Path, section: Section) -> None:
    pairs = list(itertools.permutations(["DASH", "SAM", "SGD"], 2))
    assert set(section.differences) == set(pairs)
    for one, other in pairs:
        for metric in ("ensemble.cal_nll", "member_mean.accuracy", "diversity.disagreement"):
            part, _, name = metric.partition(".")
            rows = [
                written(folder, one, seed)[part][name] - written(folder, other, seed)[part][name] for seed in range(5)
            ]
            found = section.differences[one, other][metric]
            assert found.n == 5
            assert found.mean == pytest.approx(np.mean(rows))
            assert found.low is not None
            assert found.high is not None
            draws = np.random.default_rng(5).choice(rows, size=(20000, 5)).mean(1)
            tail = stats.norm.cdf(-math.sqrt(5 / 4) * stats.t.ppf(0.975, 4))
            assert found.low == pytest.approx(np.quantile(draws, tail), abs=0.35 * np.std(draws))
            assert found.high == pytest.approx(np.quantile(draws, 1 - tail), abs=0.35 * np.std(draws))
            back = section.differences[other, one][metric]
            assert (back.mean, back.low, back.high) == (-found.mean, -found.high, -found.low)


def test_the_order_of_arguments_changes_nothing_but_the_order(folder: Path, section: Section) -> None:
    runs = sorted(folder.iterdir(), reverse=True)
    other = only(load_comparison(runs))
    assert [group.name for group in other.groups] == ["SGD", "SAM", "DASH"]
    for pair, differences in section.differences.items():
        for metric, difference in differences.items():
            ours, theirs = other.differences[pair][metric], difference
            assert (ours.n, ours.method) == (theirs.n, theirs.method)
            assert (ours.mean, ours.low, ours.high) == pytest.approx((theirs.mean, theirs.low, theirs.high))
    assert {metric: best.group for metric, best in other.best.items()} == {
        metric: best.group for metric, best in section.best.items()
    }


# -- the best ----------------------------------------------------------------------------------------------------------


def best_of(tmp_path: Path, values: dict[str, list[float]], metric: str = "nll") -> Any:
    for method, own in values.items():
        for seed, value in enumerate(own):
            run_at(tmp_path / f"{method}{seed}", method, seed, ensemble={metric: value})
    return only(loaded(tmp_path)).best[f"ensemble.{metric}"]


def test_the_best_is_bold_where_it_is_told_apart_from_the_second_best(tmp_path: Path) -> None:
    best = best_of(
        tmp_path,
        {
            "SGD": [0.5, 0.6, 0.7, 0.8, 0.9],
            "SAM": [0.41, 0.52, 0.59, 0.7, 0.81],
            "DASH": [0.3, 0.4, 0.5, 0.6, 0.7],
        },
    )
    assert (best.group, best.runner_up, best.bold) == ("DASH", "SAM", True)
    assert best.lead.mean == pytest.approx(-0.106)


def test_the_best_is_not_bold_where_only_the_last_is_told_apart(tmp_path: Path) -> None:
    best = best_of(
        tmp_path,
        {
            "SGD": [0.5, 0.6, 0.7, 0.8, 0.9],
            "SAM": [0.31, 0.39, 0.52, 0.58, 0.71],
            "DASH": [0.3, 0.4, 0.5, 0.6, 0.7],
        },
    )
    assert (best.group, best.runner_up, best.bold) == ("DASH", "SAM", False)


def test_the_highest_is_best_where_higher_is_better(tmp_path: Path) -> None:
    best = best_of(tmp_path, {"SGD": [0.9, 0.91, 0.92, 0.93, 0.94], "SAM": [0.95, 0.96, 0.97, 0.98, 0.99]}, "accuracy")
    assert (best.group, best.runner_up, best.bold) == ("SAM", "SGD", True)


def test_equal_groups_are_not_told_apart(tmp_path: Path) -> None:
    assert not best_of(tmp_path, {"SGD": [0.5, 0.6, 0.7], "SAM": [0.5, 0.6, 0.7]}).bold


def test_one_seed_tells_nothing(tmp_path: Path) -> None:
    best = best_of(tmp_path, {"SGD": [0.5], "SAM": [0.1]})
    assert (best.group, best.bold, best.lead.low) == ("SAM", False, None)


def test_the_best_mean_is_not_bold_where_common_seeds_point_the_other_way(tmp_path: Path) -> None:
    for seed, value in enumerate([0.5, 0.6, 0.7]):
        run_at(tmp_path / f"SGD{seed}", "SGD", seed, ensemble={"cal_nll": value})
        run_at(tmp_path / f"SAM{seed}", "SAM", seed, ensemble={"cal_nll": value + 0.1 + 0.001 * seed})
    for seed in (3, 4, 5):
        run_at(tmp_path / f"SAM{seed}", "SAM", seed, ensemble={"cal_nll": 0.01})
    section = only(loaded(tmp_path))
    best = section.best["ensemble.cal_nll"]
    assert (best.group, best.bold) == ("SAM", False)
    assert best.lead.excludes_zero
    assert any("but in the seeds in common the second best, SGD, is better: +0.101" in s for s in verdict(section))
    assert any("different seeds" in note for note in section.notes)


def test_diversity_and_facts_have_no_best(section: Section) -> None:
    assert not [metric for metric in section.best if metric.startswith("diversity.")]
    assert not {"ensemble.temperature", "ensemble.clipped"} & section.best.keys()
    assert len(section.best) == 2 * 12


# -- runs of other days ------------------------------------------------------------------------------------------------


def old(path: Path, method: str, seed: int) -> Path:
    """A run from before there was calibration, and before passes were counted."""
    lines = [{k: v for k, v in line.items() if k not in ("forwards", "backwards")} for line in train_lines()]
    run = run_at(path, method, seed, lines=lines)
    file = json.loads((run / "evaluation.json").read_text())
    scores = {name: noisy(method, seed)[name] for name in OLD}
    diversity = {name: DIVERSITY[name] for name in ("disagreement", "kl", "error_correlation")}
    file |= {"ensemble": scores, "member_mean": scores, "diversity": diversity}
    del file["left_out"]
    (run / "evaluation.json").write_text(json.dumps(file))
    (run / "environment.json").write_text(json.dumps({"layout": ENVIRONMENT["layout"]}))
    return run


def test_old_runs_are_compared_in_what_they_have(tmp_path: Path) -> None:
    for seed in range(2):
        old(tmp_path / f"a{seed}", "SGD", seed)
        run_at(tmp_path / f"b{seed}", "SAM", seed, ensemble=noisy("SAM", seed))
    section = only(loaded(tmp_path))
    assert {m for m in section.best if m.startswith("ensemble.")} == {f"ensemble.{name}" for name in OLD}
    assert "ensemble.cal_nll is not known of SGD: no best is named." in section.notes
    assert section.differences["SAM", "SGD"]["ensemble.cal_nll"].mean is None
    assert section.groups[0].cost.forwards is None
    assert [s.split(":")[0] for s in verdict(section)[:3]] == ["accuracy", "nll", "ece"]


def test_a_metric_that_some_seeds_lack_is_summarised_over_the_others(tmp_path: Path) -> None:
    for seed in range(3):
        run_at(tmp_path / f"a{seed}", "SGD", seed, ensemble={"cal_nll": None if seed == 1 else 0.1 * seed})
        run_at(tmp_path / f"b{seed}", "SAM", seed, ensemble={"cal_nll": 0.2 * seed})
    section = only(loaded(tmp_path))
    assert dict(section.groups[0].metrics["ensemble.cal_nll"].values) == {0: 0.0, 2: 0.2}
    assert section.differences["SAM", "SGD"]["ensemble.cal_nll"].n == 2
    assert "ensemble.cal_nll is not known of all seeds of SGD." in section.notes


def test_what_is_not_finite_is_not_known(tmp_path: Path) -> None:
    run = run_at(tmp_path / "a", ensemble={"nll": float("nan"), "brier": float("inf"), "ece": True, "aac": "x"})
    metrics = only(load_comparison([run])).groups[0].metrics
    assert "ensemble.accuracy" in metrics
    assert not {"ensemble.nll", "ensemble.brier", "ensemble.ece", "ensemble.aac"} & metrics.keys()


def test_figures_of_tomorrow_are_carried_along(tmp_path: Path) -> None:
    section = only(load_comparison([run_at(tmp_path / "a", diversity={"zeta": 1.0, "alpha": 2.0})]))
    assert section.metrics[-2:] == ("diversity.alpha", "diversity.zeta")
    assert better("ensemble.alpha") is None
    assert "diversity.alpha" not in section.best


def test_members_left_out_and_clipped_labels_are_said(tmp_path: Path) -> None:
    run = run_at(tmp_path / "a", evaluation={"left_out": [1, 3]}, ensemble={"clipped": 4})
    notes = only(load_comparison([run])).notes
    assert f"{run}: scores leave out members that are not finite: 1, 3." in notes
    assert "SGD: labels of probability 0 were clipped, 4 a run." in notes


def test_other_machines_and_versions_are_said(tmp_path: Path) -> None:
    run_at(tmp_path / "a", seed=0)
    run_at(tmp_path / "b", seed=1, environment={"device": "H100", "commit": {"hash": "ff", "changed": True}})
    notes = only(loaded(tmp_path)).notes
    assert "The runs were made with different values of device: cpu, H100." in notes
    assert "The runs were made with different values of commit: 0123456789, ff, changed." in notes


# -- cost --------------------------------------------------------------------------------------------------------------


def test_cost_by_hand() -> None:
    lines = [line for line in train_lines(0.01, 5) if line["kind"] == "train"]
    for line, factor in zip(lines, (1, 1, 2, 3, 10), strict=True):
        line["timing"]["seconds"] = [factor * s for s in line["timing"]["seconds"]]
    cost = cost_of(lines, ENVIRONMENT)
    # Slowest member, 1.5 × 0.01 s: 0.075 (warm-up), 0.015, 0.03, 0.045, 0.15.
    assert cost.step_seconds == pytest.approx((0.03 + 0.045) / 2)
    assert cost.device_hours == pytest.approx(10 * (0.075 + 0.015 + 0.03 + 0.045 + 0.15) * 2 / 3600)
    assert cost.peak_memory_mib == 104.0
    # Waiting: (0.1/1 + 0.3/1.5)/2 = 0.15 of an update, less by the factor.
    assert cost.waiting == pytest.approx(0.15 * (1 / 2 + 1 / 3) / 2)
    assert cost.transfer == pytest.approx(0.05 * (1 / 2 + 1 / 3) / 2)
    assert (cost.forwards, cost.backwards) == (2, 3)


@pytest.mark.parametrize(("count", "steady"), [(1, 0.075), (2, 0.045), (3, 0.015)])
def test_the_first_line_counts_where_there_are_few(count: int, steady: float) -> None:
    lines = [line for line in train_lines(0.01, count) if line["kind"] == "train"]
    assert cost_of(lines, ENVIRONMENT).step_seconds == pytest.approx(steady)


def test_lines_of_unequal_length_weigh_in_hours_what_they_stand_for() -> None:
    timing = {"seconds": [3.6]}
    lines = [{"step": step, "timing": timing} for step in (10, 17, 20)]
    assert cost_of(lines, {"layout": {"world": 4}}).device_hours == pytest.approx(20 * 3.6 * 4 / 3600)


@pytest.mark.parametrize(
    ("lines", "environment"),
    [
        ([], {}),
        ([{"step": 1}], {"layout": None}),
        ([{"step": 1, "timing": {"seconds": [None], "wait": [1.0], "peak_memory_mib": 4}}], {"layout": {"world": 2}}),
        ([{"step": None, "timing": {"seconds": [1.0]}, "forwards": [1.0]}], {}),
        ([{"step": 3, "forwards": [None], "backwards": 2}], {}),
    ],
)
def test_what_the_record_does_not_say_is_not_known(lines: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    assert cost_of(lines, environment) == Cost()


def test_costs_of_a_group_are_medians() -> None:
    numbers = ((1, 3, 2), (5, None, 3), (2, 4, 2))
    costs = [Cost(step_seconds=s, waiting=w, forwards=2, backwards=b) for s, w, b in numbers]
    assert median_cost(costs) == Cost(step_seconds=2, waiting=3.5, forwards=2, backwards=2)


def test_passes_are_a_mean_over_updates_and_members() -> None:
    lines = [
        {"step": 2, "forwards": [2.0, 1.0], "backwards": [1.0]},
        {"step": 5, "forwards": [2.0], "backwards": [2.0]},
    ]
    cost = cost_of(lines, {})
    assert (cost.forwards, cost.backwards) == (pytest.approx((2 * 1.5 + 3 * 2) / 5), pytest.approx(8 / 5))


def test_time_is_relative_to_the_first_baseline(tmp_path: Path) -> None:
    for method, seconds in (("SAM", 0.02), ("SGD", 0.01), ("DASH", 0.025)):
        for seed in range(3):
            run_at(tmp_path / f"{method}{seed}", method, seed, lines=train_lines(seconds * (1 + (seed == 2))))
    section = only(loaded(tmp_path))
    assert {g.name: section.relative_step_time(g) for g in section.groups} == pytest.approx(
        {"SAM": 2.0, "SGD": 1.0, "DASH": 2.5}
    )
    other = only(loaded(tmp_path, baselines=["SAM", "SGD"]))
    assert other.relative_step_time(other.group("SGD")) == pytest.approx(0.5)
    assert verdict(section)[-1] == "Time of an update, in those of SGD: 2.50 times with DASH, 2.00 times with SAM."
    assert relative(Cost(step_seconds=1.0), Cost()) is None
    assert relative(Cost(), Cost(step_seconds=1.0)) is None


# -- sentences ---------------------------------------------------------------------------------------------------------


def test_a_difference_that_is_there_is_told_with_its_interval(section: Section) -> None:
    sentences = verdict(section)
    found = section.differences["SAM", "SGD"]["ensemble.cal_nll"]
    (sentence,) = [s for s in sentences if s.startswith("cal_nll against SGD: ")]
    assert f"SAM ({found.mean:+.4f}, 95 % interval [{found.low:+.4f}, {found.high:+.4f}], n = 5)" in sentence
    assert "better: DASH (-0.0" in sentence
    (sentence,) = [s for s in sentences if s.startswith("accuracy against SGD: ")]
    found = section.differences["DASH", "SGD"]["ensemble.accuracy"]
    assert f"better: DASH ({100 * found.mean:+.2f} percentage points, 95 % interval [+" in sentence
    (sentence,) = [s for s in sentences if s.startswith("disagreement against SGD: ")]
    assert sentence.startswith(
        "disagreement against SGD: more: DASH (+20.50 percentage points, 95 % interval [+20.50, +20.50], n = 5)"
    )


def test_a_difference_that_cannot_be_told_is_not_claimed(section: Section) -> None:
    best = section.best["ensemble.cal_nll"]
    (sentence,) = [s for s in verdict(section) if s.startswith("cal_nll: ")]
    assert not best.bold
    assert f"{best.group} has the best mean" in sentence
    assert f"the difference to the second best, {best.runner_up}, is not significant with 5 seeds: " in sentence


def test_nor_is_one_to_a_baseline(folder: Path) -> None:
    section = only(loaded(folder, baselines=["SAM"]))
    found = section.differences["DASH", "SAM"]["ensemble.cal_nll"]
    (sentence,) = [s for s in verdict(section) if s.startswith("cal_nll against SAM: ")]
    told = f"DASH ({found.mean:+.4f}, 95 % interval [{found.low:+.4f}, {found.high:+.4f}], n = 5)"
    assert not found.excludes_zero
    assert f"against SAM: no significant difference with 5 seeds: {told}; worse: SGD (+0.0" in sentence


def test_the_best_that_is_told_apart_is_called_the_best(tmp_path: Path) -> None:
    study(tmp_path, {"SGD": 0.0, "DASH": 0.03})
    sentence, *_ = verdict(only(loaded(tmp_path)))
    assert sentence.startswith("accuracy: DASH is best, 93.")
    assert "% (mean over 5 seeds); to the second best, SGD: +3." in sentence
    assert sentence.endswith("], 5 paired seeds.")


def test_worse_and_less_are_said_too(tmp_path: Path) -> None:
    study(tmp_path, {"SGD": 0.0, "DASH": -0.003}, seeds=5)
    sentences = verdict(only(loaded(tmp_path, baselines=["SGD"])))
    assert any(s.startswith("disagreement against SGD: less: DASH (-3.00 percentage points") for s in sentences)
    study(tmp_path / "more", {"SGD": 0.0, "DASH": -0.05}, seeds=5)
    sentences = verdict(only(loaded(tmp_path / "more")))
    assert any(s.startswith("accuracy against SGD: worse: DASH (-") for s in sentences)
    assert any(s.startswith("cal_ece against SGD: worse: DASH (+") for s in sentences)


def test_from_one_seed_nothing_is_told(tmp_path: Path) -> None:
    study(tmp_path, {"SGD": 0.0, "DASH": 0.3}, seeds=1)
    sentences = verdict(only(loaded(tmp_path)))
    assert sentences[0].endswith("; SGD follows, not decided: 1 seed in common.")
    assert "accuracy against SGD: not decided, 1 seed only: DASH (+" in sentences[3]
    assert not any(word in " ".join(sentences) for word in ("interval", "is best", "better", "more:"))


def test_every_baseline_is_spoken_of(section: Section, folder: Path) -> None:
    sentences = verdict(only(loaded(folder, baselines=["SGD", "SAM"])))
    for baseline in ("SGD", "SAM"):
        assert len([s for s in sentences if f" against {baseline}: " in s]) == 5
    assert len([s for s in verdict(section) if " against " in s]) == 5


def test_one_group_alone_is_told_with_its_figures(tmp_path: Path) -> None:
    study(tmp_path, {"SGD": 0.0}, seeds=2)
    (sentence,) = verdict(only(loaded(tmp_path)))
    assert sentence.startswith(
        "There is one group only, SGD, and nothing to compare it with: accuracy 89.98 %, cal_nll 0.35"
    )
    assert sentence.endswith("(2 seeds).")


# -- speed -------------------------------------------------------------------------------------------------------------


def test_105_runs_take_seconds(tmp_path: Path) -> None:
    methods = {f"M{i}": 0.001 * i for i in range(7)}
    for noise in (0.0, 0.2, 0.4):
        study(tmp_path / f"noise{noise}", methods, labels__noise=noise)
    started = time.process_time()
    comparison = loaded(tmp_path)
    assert sum(len(g.runs) for s in comparison.sections for g in s.groups) == 105
    assert [len(verdict(section)) for section in comparison.sections] == [9, 9, 9]
    assert time.process_time() - started < 5
