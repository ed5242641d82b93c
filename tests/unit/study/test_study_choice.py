"""Which setting is chosen, and from which numbers."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_plans import STUDY, written

from dist_dash.errors import BadInput
from dist_dash.study.choice import Choice, Trial
from dist_dash.study.run import write_groups
from dist_dash.study.study_plan import HIGHER_IS_BETTER, LOWER_IS_BETTER, StudyPlan, read_plan
from dist_dash.study.study_results import selection_as_markdown

SEEDS = [100, 101]


def plan_of(folder: Path, score: str = "nll", trials: int = 3) -> StudyPlan:
    study = {**STUDY, "selection": {"score": score, "seeds": SEEDS}}
    rates = [{"optimizer.lr": n / 10} for n in range(1, trials + 1)]
    study["methods"] = {name: {**method, "trials": rates} for name, method in STUDY["methods"].items()}
    return read_plan(written(folder, study))


class Evaluator:
    """Takes the place of `evaluate_run`: knows the scores, and what it was asked."""

    def __init__(self, monkeypatch: Any, scores: dict[str, dict[str, float | None]]) -> None:
        self.scores, self.asked = scores, list[tuple[Path, str]]()
        module = types.ModuleType("dist_dash.analysis.evaluate")
        module.evaluate_run = self  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dist_dash.analysis.evaluate", module)

    def __call__(self, path: Path, split: str = "test") -> dict[str, Any]:
        self.asked.append((path, split))
        members = dict.fromkeys(self.scores[path.name], -1.0)  # whoever reads these chooses something else
        return {"ensemble": self.scores[path.name], "members": [members], "member_mean": members}


def scored(plan: StudyPlan, folder: Path, monkeypatch: Any, table: dict[str, list[Any]], score: str) -> Choice:
    """A choice that has seen the trials of all methods: a list of scores, one a seed, for each trial number."""
    known = {
        plan.trial_name(condition, method, number, seed).rpartition("/")[2]: {score: of[index]}
        for condition in plan.conditions
        for method in plan.methods
        for number, of in enumerate(table[method])
        for index, seed in enumerate(SEEDS)
    }
    Evaluator(monkeypatch, known)
    choice = Choice(plan, folder)
    for run in reversed(plan.trials(folder)):  # as they come
        choice.score(run)
    return choice


NAN = math.nan
TABLES: list[tuple[str, list[list[float]], int]] = [
    ("nll", [[1.0, 1.0], [0.5, 0.7], [0.9, 0.2]], 2),  # means 1.0, 0.6, 0.55
    ("accuracy", [[0.9, 0.9], [0.95, 0.93], [0.5, 1.0]], 1),  # the greatest
    ("aac", [[0.1, 0.1], [0.3, 0.3], [0.2, 0.9]], 2),
    ("nll", [[0.5, 0.5], [0.4, 0.6], [0.5, 0.5]], 0),  # ties: the first
    ("accuracy", [[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]], 0),
    ("nll", [[NAN, 0.1], [0.5, 0.5], [0.6, 0.6]], 1),  # NaN never wins
    ("accuracy", [[NAN, 0.9], [0.5, 0.5], [0.6, 0.6]], 2),
    ("nll", [[NAN, NAN], [0.1, NAN], [9.0, 9.0]], 2),
    ("nll", [[math.inf, 1.0], [NAN, 0.0], [5.0, 5.0]], 2),
    ("nll", [[math.inf, 1.0], [NAN, 0.0], [NAN, 0.0]], 0),  # an infinite one is a score after all
    ("cal_nll", [[1.0, 3.0], [2.5, 1.0], [1.0, 2.4]], 2),  # not the best single seed: the mean decides
]


@pytest.mark.parametrize(("score", "trials", "best"), TABLES)
def test_the_best_mean_wins(
    score: str, trials: list[list[float]], best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, score)
    table = {"Plain": trials, "Flat": trials[::-1], "DASH, joint": [trials[best], [NAN, NAN], [NAN, NAN]]}
    chosen = scored(plan, tmp_path, monkeypatch, table, score).chosen()
    for condition in plan.conditions:
        assert chosen[condition, "Plain"] == best
        assert chosen[condition, "DASH, joint"] == 0
        turned = 2 - chosen[condition, "Flat"]
        means = [sum(of) for of in trials]
        assert turned == best or means[turned] == means[best]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from([*LOWER_IS_BETTER, *HIGHER_IS_BETTER]),
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, NAN])] * 2), min_size=1, max_size=6),
)
def test_against_a_loop_written_from_the_definition(
    tmp_path_factory: pytest.TempPathFactory, score: str, trials: list[tuple[float, float]]
) -> None:
    folder = tmp_path_factory.mktemp("study")
    plan = plan_of(folder, score, len(trials))
    with pytest.MonkeyPatch.context() as patch:
        choice = scored(plan, folder, patch, {name: [list(t) for t in trials] for name in plan.methods}, score)
    best = None
    for number, of in enumerate(trials):
        mean = (of[0] + of[1]) / 2
        if math.isnan(mean):
            continue
        wins = best is None or (mean > best[0] if score in HIGHER_IS_BETTER else mean < best[0])
        best = (mean, number) if wins else best
    expected = 0 if best is None else best[1]
    assert set(choice.chosen().values()) == {expected}


def test_conditions_and_methods_choose_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, "nll")
    wanted = dict(zip([(c, m) for c in plan.conditions for m in plan.methods], [0, 1, 2, 2, 0, 1], strict=True))
    choice = Choice(plan, tmp_path)
    known = {}
    for (condition, method), best in wanted.items():
        for number in range(3):
            for seed in SEEDS:
                known[plan.trial_name(condition, method, number, seed)] = 0.1 if number == best else 1.0
    module = types.ModuleType("dist_dash.analysis.evaluate")
    module.evaluate_run = lambda path, split: {"ensemble": {"nll": known[str(path.relative_to(tmp_path))]}}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dist_dash.analysis.evaluate", module)
    for run in plan.trials(tmp_path):
        choice.score(run)
    assert choice.chosen() == wanted
    content = json.loads(json.dumps(choice.as_json()))
    assert {"score": content["score"], "split": content["split"], "seeds": content["seeds"]} == {
        "score": "nll",
        "split": "validation",
        "seeds": SEEDS,
    }
    for (condition, method), best in wanted.items():
        found = content["conditions"][condition][method]
        assert found["chosen"] == best
        assert [trial["fields"] for trial in found["trials"]] == [{"optimizer.lr": n / 10} for n in (1, 2, 3)]
        assert [trial["scores"] for trial in found["trials"]] == [[0.1 if n == best else 1.0] * 2 for n in range(3)]
    page = selection_as_markdown(plan, content)
    assert page.count("**optimizer.lr ") == 6
    for line in page.splitlines():
        assert ("**0.1000**" in line) == ("**optimizer.lr" in line)


def test_only_the_validation_split_and_only_selection_seeds_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, "nll")
    runs = plan.trials(tmp_path)
    evaluator = Evaluator(monkeypatch, {run.name.rpartition("/")[2]: {"nll": 1.0, "accuracy": 0.5} for run in runs})
    choice = Choice(plan, tmp_path)
    for run in runs:
        choice.score(run)
    assert {split for _, split in evaluator.asked} == {"validation"}
    assert [path for path, _ in evaluator.asked] == [tmp_path / run.name for run in runs]
    seeds = {int(run.name.rpartition("-s")[2]) for run in runs}
    assert seeds == set(SEEDS)
    chosen = {(condition, method): 0 for condition in plan.conditions for method in plan.methods}
    reported = {int(name.rpartition("-s")[2]) for name in plan.reported(tmp_path, chosen)}
    assert reported == {0}
    assert not seeds & reported


@pytest.mark.parametrize("scores", [{"accuracy": 0.5}, {"nll": None}])
def test_a_score_that_a_run_lacks_is_named(
    scores: dict[str, float | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, "nll")
    run = plan.trials(tmp_path)[0]
    Evaluator(monkeypatch, {run.name.rpartition("/")[2]: scores})
    with pytest.raises(BadInput, match=r"^selection\.score: nll does not exist for run selection/clean/plain-t0-s100$"):
        Choice(plan, tmp_path).score(run)


def test_the_mean_is_over_seeds() -> None:
    assert Trial({}, (1.0, 2.0, 6.0)).mean == 3.0


def test_groups_name_every_reported_run(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, {**STUDY, "title": "T", "notes": ["a", "b"], "seeds": [0, 1]}))
    chosen = {(condition, method): 0 for condition in plan.conditions for method in plan.methods}
    runs = plan.reported(tmp_path, chosen)
    write_groups(plan, tmp_path, {name: (condition, method) for name, (condition, method, _) in runs.items()})
    content = json.loads((tmp_path / "groups.json").read_text())
    assert (content["title"], content["baselines"], content["notes"]) == ("T", ["Plain"], ["a", "b"])
    assert list(content["runs"]) == list(runs)  # in the order of the study
    assert content["runs"]["reported/20-wrong/flat-t0-s1"] == {"group": "Flat", "section": "20 % wrong"}
    assert len(content["runs"]) == 2 * 3 * 2
