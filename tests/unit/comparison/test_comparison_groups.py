"""Which runs are compared, and which belong together: settings, names, sections, groups.json, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from compared import loaded, run_at, study
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dash.comparison.grouping import Comparison, load_comparison
from dist_dash.comparison.section import Section
from dist_dash.comparison.selection import runs_below
from dist_dash.comparison.settings import names, section_names, settings_of, text, texts
from dist_dash.errors import BadInput
from dist_dash.runs.choices import differing


def refusal(paths: list[Path], **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        load_comparison(paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def only(comparison: Comparison) -> Section:
    (section,) = comparison.sections
    return section


def group_names(section: Section) -> list[str]:
    return [group.name for group in section.groups]


# -- settings ----------------------------------------------------------------------------------------------------------


def test_choices_become_texts_by_field() -> None:
    recipe = {"method": {"class_path": "a.DASH", "init_args": {"rho": 0.1, "on": True}}, "models": None, "epochs": 4}
    assert texts(recipe) == {
        "method.class_path": "a.DASH",
        "method.rho": "0.1",
        "method.on": "true",
        "models": "null",
        "epochs": "4",
    }


def test_seed_data_labels_and_what_has_no_effect_are_no_settings() -> None:
    recipe = {
        "method": {"class_path": "a.DASH"},
        "data": {"class_path": "a.Data", "init_args": {"seed": 1}},
        "database": "a setting",
        "labels": {"noise": 0.1},
        "record": {"every": 1},
        "recorder": "a setting",
        "seed": 3,
        "seeds": "a setting",
    }
    method, found, labels, data = settings_of(recipe, {"layout": {"replicas": 2}})
    assert method == "DASH"
    assert dict(found) == {
        "method.class_path": "a.DASH",
        **dict.fromkeys(("database", "recorder", "seeds"), "a setting"),
        "replicas": "2",
    }
    assert (dict(labels), dict(data)) == ({"labels.noise": "0.1"}, {"data.class_path": "a.Data", "data.seed": "1"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, "1"), (1.0, "1"), (0.1, "0.1"), (1e-5, "1e-05"), (True, "true"), (None, "null"), ("x", "x"), ({}, "{}")],
)
def test_a_choice_as_text(value: Any, expected: str) -> None:
    assert text(value) == expected


def test_lists_are_one_choice() -> None:
    assert text([1.0, {"class_path": "a.B"}, "c"]) == "[1, {class_path: a.B}, c]"


choices = st.dictionaries(st.sampled_from(["method.a", "method.b", "epochs", "model.x"]), st.sampled_from("12"))


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(["m.A", "m.B", "n.A"]), st.sampled_from(["p.M", "p.N"]), choices), max_size=6)
)
def test_different_settings_have_different_names(found: list[tuple[str, str, dict[str, str]]]) -> None:
    all_settings = {
        frozenset({"method.class_path": method, "model.class_path": model, **more}.items())
        for method, model, more in found
    }
    groups = [(dict(own)["method.class_path"].rpartition(".")[2], dict(own)) for own in all_settings]
    assert len(set(names(groups))) == len(groups)


def test_a_name_tells_what_tells_groups_apart(tmp_path: Path) -> None:
    run_at(tmp_path / "a", "DASH")
    run_at(tmp_path / "b", "DASH", method__rho_div=0.5)
    run_at(tmp_path / "c", "SGD")
    run_at(tmp_path / "d", "SGD", optimizer__lr=0.05, model__class_path="dist_dash.models.SmallCNN")
    section = only(loaded(tmp_path))
    assert group_names(section) == [
        "DASH rho_div=0.3 model=MLP optimizer.lr=0.1",
        "DASH rho_div=0.5 model=MLP optimizer.lr=0.1",
        "SGD model=MLP optimizer.lr=0.1",
        "SGD model=SmallCNN optimizer.lr=0.05",
    ]
    assert section.groups[0].settings["method.rho_div"] == "0.3"
    assert "method.rho_loss" in section.groups[0].settings  # the others have none
    assert "epochs" not in section.groups[0].settings


def test_methods_that_differ_in_nothing_else_are_named_by_their_class(tmp_path: Path) -> None:
    study(tmp_path, {"SGD": 0.0, "SAM": 0.0, "DASH": 0.0}, seeds=2)
    assert sorted(group_names(only(loaded(tmp_path)))) == ["DASH", "SAM", "SGD"]


def test_classes_of_the_same_name_are_named_in_full(tmp_path: Path) -> None:
    run_at(tmp_path / "a", "SGD")
    run_at(tmp_path / "b", "SGD", method__class_path="mine.SGD")
    assert group_names(only(loaded(tmp_path))) == ["SGD", "mine.SGD"]


@pytest.mark.parametrize(
    "harmless", [{"record__every": 1}, {"checks__deadline": 1.0}, {"checkpoints__keep": 5}, {"loader__workers": 2}]
)
def test_what_makes_no_difference_makes_no_group(tmp_path: Path, harmless: dict[str, Any]) -> None:
    run_at(tmp_path / "a", seed=0)
    run_at(tmp_path / "b", seed=1, **harmless)
    (group,) = only(loaded(tmp_path)).groups
    assert group.seeds == [0, 1]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"engine__precision": "bf16"}, "SGD engine.precision=bf16"),
        ({"epochs": 8}, "SGD epochs=8"),
        ({"members": 3}, "SGD members=3"),
        ({"loader__batch_size": 64}, "SGD loader.batch_size=64"),
        ({"environment": {"layout": {"world": 4, "members": 2, "replicas": 2}}}, "SGD replicas=2"),
    ],
)
def test_what_makes_a_difference_makes_a_group(tmp_path: Path, setting: dict[str, Any], name: str) -> None:
    run_at(tmp_path / "a")
    run_at(tmp_path / "b", **setting)
    assert group_names(only(loaded(tmp_path)))[1] == name


def test_equal_numbers_are_equal_settings(tmp_path: Path) -> None:
    run_at(tmp_path / "a", "SAM", seed=0, method__rho=1)
    run_at(tmp_path / "b", "SAM", seed=1, method__rho=1.0)
    assert group_names(only(loaded(tmp_path))) == ["SAM"]


def test_label_noise_makes_sections(tmp_path: Path) -> None:
    for noise in (0.4, 0.0, 0.07, 0.125):
        study(tmp_path / f"{noise}", {"SGD": 0.0, "SAM": 0.0}, seeds=2, labels__noise=noise)
    comparison = load_comparison([tmp_path / name for name in ("0.4", "0.0", "0.07", "0.125")])
    assert [section.name for section in comparison.sections] == [
        *("40 % label noise", "no label noise", "7 % label noise", "12.5 % label noise"),
    ]
    assert all(sorted(group_names(section)) == ["SAM", "SGD"] for section in comparison.sections)


def test_other_conditions_are_named_beside_the_noise() -> None:
    labels = [{"labels.noise": "0.2", "labels.mixup": "0"}, {"labels.noise": "0.2", "labels.mixup": "0.1"}, {}]
    assert section_names(labels) == ["20 % label noise, labels.mixup=0", "20 % label noise, labels.mixup=0.1", ""]


def test_a_choice_that_one_lacks_differs() -> None:
    assert differing([{"a": "1", "b": "2"}, {"a": "1"}]) == {"b": ["2", None]}


def test_an_old_recipe_without_a_choice_is_a_group_of_its_own(tmp_path: Path) -> None:
    run_at(tmp_path / "a", "SAM")
    run_at(tmp_path / "b", "SAM", method__eta=0.01)
    assert group_names(only(loaded(tmp_path))) == ["SAM", "SAM eta=0.01"]


# -- which runs --------------------------------------------------------------------------------------------------------


def test_runs_below_a_folder_are_found_at_any_depth_in_natural_order(tmp_path: Path) -> None:
    for name in ("s10", "deep/er/s2", "s2", ".hidden/s1"):
        run_at(tmp_path / name)
    joined = run_at(tmp_path / "s3")
    run_at(joined / "member_00")
    run_at(tmp_path / "unjoined/member_00")
    run_at(tmp_path / "stopped")
    (tmp_path / "stopped/DONE").rename(tmp_path / "stopped/CONTINUE")
    (tmp_path / "nothing").mkdir()
    finished, unfinished = runs_below(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in finished] == ["deep/er/s2", "s2", "s3", "s10"]
    assert [path.name for path in unfinished] == ["stopped", "unjoined"]


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path) -> None:
    run_at(tmp_path / "a")
    run_at(tmp_path / "b")
    (tmp_path / "b/DONE").unlink()
    comparison = loaded(tmp_path)
    assert comparison.notes == (f"Left out, not finished: {tmp_path / 'b'}.",)
    assert not comparison.partial


def test_one_run_is_compared_with_nothing(tmp_path: Path) -> None:
    section = only(load_comparison([run_at(tmp_path / "run")]))
    assert group_names(section) == ["SGD"]
    assert section.best == {}
    assert any("One group only" in note for note in section.notes)
    assert any("One seed only" in note for note in section.notes)


def test_runs_and_folders_may_be_mixed(tmp_path: Path) -> None:
    study(tmp_path / "all", {"SGD": 0.0}, seeds=2)
    one = run_at(tmp_path / "one", "SAM")
    assert group_names(only(load_comparison([one, tmp_path / "all"]))) == ["SAM", "SGD"]


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert refusal([]).startswith("runs: ")
    assert "is missing" in refusal([tmp_path / "none"])
    assert "is a file" in refusal([tmp_path / "file", run])
    assert "holds no finished run" in refusal([tmp_path / "empty"])
    (run / "DONE").unlink()
    said = refusal([tmp_path])
    assert "holds no finished run" in said
    assert str(run) in said


def test_an_unfinished_run_is_refused_or_left_out(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]
    (runs[1] / "DONE").unlink()
    assert refusal(runs).startswith(f"runs: {runs[1]} is not finished; ")
    comparison = load_comparison(runs, partial=True)
    assert comparison.partial
    assert comparison.notes == (f"Partial: {runs[1]} is not finished, and left out.",)
    assert only(comparison).groups[0].seeds == [0, 2]
    for run in (runs[0], runs[2]):
        shutil.rmtree(run / "ensemble")
    assert f"{runs[0]} and 2 more of 3 runs are not finished" in refusal(runs)
    assert "none of them is finished" in refusal(runs, partial=True)


def test_of_two_equal_runs_one_counts_and_a_note_says_so(tmp_path: Path) -> None:
    one, other = run_at(tmp_path / "a", seed=3), run_at(tmp_path / "b", seed=3, ensemble={"nll": 9.0})
    for paths in ([tmp_path], [one, other]):
        section = only(load_comparison(paths))
        (group,) = section.groups
        assert [run.path for run in group.runs] == [one]
        assert group.metrics["ensemble.nll"].mean != 9.0
        assert any(f"repeat a run with the same seed and settings: {other}." in note for note in section.notes)


def test_a_seed_that_is_there_twice_with_other_settings_is_refused(tmp_path: Path) -> None:
    one, other = run_at(tmp_path / "a", seed=3), run_at(tmp_path / "b", seed=3, epochs=77)
    runs = {name: {"group": "G"} for name in ("a", "b")}
    (tmp_path / "groups.json").write_text(json.dumps({"runs": runs}))
    said = refusal([tmp_path])
    assert said.startswith("seed: 3 ")
    assert str(one) in said
    assert str(other) in said


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data__seed": 1}, "data.seed"),
        ({"data__class_path": "dist_dash.data.Synthetic"}, "data.class_path"),
        ({"evaluation": {"samples": 450}}, "samples"),
        ({"evaluation": {"split": "validation"}}, "split"),
    ],
)
def test_runs_of_different_data_are_refused(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    one, other = run_at(tmp_path / "a"), run_at(tmp_path / "b", "SAM", labels__noise=0.2, **change)
    said = refusal([one, other])
    assert said.startswith(f"{field}: {one} has ")
    assert str(other) in said


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("recipe.yaml", "- 1\n"),
        ("recipe.yaml", "method: {class_path: [1]}\nseed: 0\n"),
        ("recipe.yaml", "method: {class_path: a.B}\nseed: true\n"),
        ("recipe.yaml", "a: [\n"),
        ("environment.json", "[]"),
        ("evaluation.json", "{"),
        ("evaluation.json", '{"members": []}'),
        ("evaluation.json", '{"ensemble": []}'),
        ("environment.json", None),
        ("evaluation.json", None),
        ("metrics.jsonl", None),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path: Path, file: str, content: str | None) -> None:
    run = run_at(tmp_path / "run")
    (run / file).unlink()
    if content is not None:
        (run / file).write_text(content)
    said = refusal([run])
    assert said.startswith("run: ")
    assert str(run) in said or "method" in said


# -- groups.json -------------------------------------------------------------------------------------------------------


def told(folder: Path, **more: Any) -> Path:
    """A study of two groups in two sections, two seeds each, in an order of its own."""
    runs = {}
    for section in ("20 %", "0 %"):
        for group, method in (("sharp", "SAM"), ("plain", "SGD")):
            for seed in (0, 1):
                name = f"runs/{group}-{section[:-2]}-{seed}"
                run_at(folder / name, method, seed, labels__noise=float(section[:-2]) / 100)
                runs[name] = {"group": group, "section": section}
    (folder / "groups.json").write_text(json.dumps({"title": "T", "baselines": ["plain"], "runs": runs, **more}))
    return folder


def test_groups_json_has_the_last_word(tmp_path: Path) -> None:
    comparison = loaded(told(tmp_path))
    assert comparison.title == "T"
    assert [section.name for section in comparison.sections] == ["20 %", "0 %"]
    for section in comparison.sections:
        assert group_names(section) == ["sharp", "plain"]
        assert section.baselines == ("plain",)
        assert [group.seeds for group in section.groups] == [[0, 1], [0, 1]]
    assert load_comparison([tmp_path], baselines=["sharp"]).sections[0].baselines == ("sharp",)


def test_runs_that_groups_json_does_not_name_are_not_there(tmp_path: Path) -> None:
    run_at(told(tmp_path) / "trial", "DASH")
    assert [group_names(section) for section in loaded(tmp_path).sections] == [["sharp", "plain"]] * 2


def test_groups_json_beside_other_arguments_is_passed_over(tmp_path: Path) -> None:
    other = run_at(tmp_path / "other", "DASH", labels__noise=0.2)
    comparison = load_comparison([told(tmp_path / "study"), other])
    assert comparison.title == ""
    assert any("groups.json is not used" in note for note in comparison.notes)


def test_a_run_of_groups_json_that_is_not_finished_is_refused_or_left_out(tmp_path: Path) -> None:
    told(tmp_path)
    (tmp_path / "runs/plain-20-1/DONE").unlink()
    shutil.rmtree(tmp_path / "runs/plain-0-0")
    said = refusal([tmp_path])
    assert said.startswith(f"runs: {tmp_path / 'runs/plain-20-1'} and 1 more of 8 runs are not finished")
    assert "--partial" in said
    comparison = loaded(tmp_path, partial=True)
    assert comparison.partial
    assert comparison.notes[0].startswith("Partial: ")
    assert [group.seeds for group in comparison.sections[0].groups] == [[0, 1], [0]]


def test_a_baseline_that_is_missing_in_part_of_a_partial_study_is_no_error(tmp_path: Path) -> None:
    told(tmp_path)
    for run in (tmp_path / "runs").glob("plain-20-*"):
        shutil.rmtree(run)
    first, second = loaded(tmp_path, partial=True).sections
    assert (first.baselines, second.baselines) == (("sharp",), ("plain",))
    assert "Baseline plain has no run here." in first.notes
    for run in (tmp_path / "runs").glob("plain-0-*"):
        shutil.rmtree(run)
    assert loaded(tmp_path, partial=True).sections[1].baselines == ("sharp",)


def test_an_unknown_baseline_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    told(tmp_path, baselines=["plane"])
    for said in (refusal([tmp_path]), refusal([tmp_path], baselines=["plane"], partial=True)):
        assert said == "baseline: 'plane' is not allowed; it must be one of 'sharp', 'plain'"
    (tmp_path / "runs/plain-20-0/DONE").unlink()
    assert loaded(tmp_path, partial=True).sections[0].baselines == ("plain",)  # plain SGD
    assert "'plane'" in refusal([tmp_path], baselines=["plane"], partial=True)


def test_a_group_that_holds_different_settings_says_so(tmp_path: Path) -> None:
    told(tmp_path)
    runs = json.loads((tmp_path / "groups.json").read_text())["runs"]
    mixed = {name: {**entry, "group": "all"} for name, entry in runs.items() if name.endswith("-0-0")}
    run_at(tmp_path / "odd", "SAM", 7, method__rho=0.2, labels__noise=0.4)
    mixed = {**dict(list(mixed.items())[:1]), "odd": {"group": "all", "section": "0 %"}}
    (tmp_path / "groups.json").write_text(json.dumps({"runs": mixed}))
    notes = " ".join(only(loaded(tmp_path)).notes)
    assert "all: its runs differ in more than the seed: method.rho (0.05, 0.2); labels.noise (0, 0.4)" in notes


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"runs": {}}',
        '{"runs": [1]}',
        '{"runs": {"a": 1}}',
        '{"runs": {"a": {"group": ""}}}',
        '{"runs": {"a": {"group": 1}}}',
        '{"runs": {"a": {"group": "g", "section": 2}}}',
        '{"runs": {"../a": {"group": "g"}}}',
        '{"runs": {"/a": {"group": "g"}}}',
        '{"runs": {"": {"group": "g"}}}',
        '{"runs": {"a": {"group": "g"}}, "baselines": "g"}',
        '{"runs": {"a": {"group": "g"}}, "baselines": [1]}',
        '{"runs": {"a": {"group": "g"}}, "title": 1}',
    ],
)
def test_a_wrong_groups_json_is_refused(tmp_path: Path, content: str) -> None:
    run_at(tmp_path / "a")
    (tmp_path / "groups.json").write_text(content)
    assert refusal([tmp_path]).startswith("groups: ")


# -- baselines ---------------------------------------------------------------------------------------------------------


def test_plain_sgd_is_the_baseline_where_there_is_one(tmp_path: Path) -> None:
    study(tmp_path, {"DASH": 0.0, "SGD": 0.0, "SAM": 0.0}, seeds=2)
    assert only(loaded(tmp_path)).baselines == ("SGD",)
    assert only(loaded(tmp_path, baselines=["SAM", "DASH", "SAM"])).baselines == ("SAM", "DASH")
    for run in tmp_path.glob("SGD-*"):
        shutil.rmtree(run)
    assert only(loaded(tmp_path)).baselines == ("DASH",)


def test_an_unknown_baseline_names_the_groups(tmp_path: Path) -> None:
    study(tmp_path, {"DASH": 0.0, "SGD": 0.0}, seeds=1)
    said = refusal([tmp_path], baselines=["SGD", "sgd"])
    assert said == "baseline: 'sgd' is not allowed; it must be one of 'DASH', 'SGD'"
