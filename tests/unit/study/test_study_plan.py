"""What a study may say, and the one line for everything else: before anything is run or written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from complaints import PYTHON_SPEAK, cli_complaint
from study_plans import STUDY, changed, written

from dist_dash.comparison.settings import slug
from dist_dash.recipe.parsing import parse_command
from dist_dash.study.effect import has_effect
from dist_dash.study.study_plan import StudyPlan, arguments_of, check_commands, read_plan

METHODS, FIELDS = STUDY["methods"], STUDY["methods"]["Flat"]["fields"]
pytestmark = pytest.mark.usefixtures("not_a_rank")


def refused(capsys: Any, study: Any) -> str:
    """The one line with which `dist-dash study` refuses a study; nothing is left behind."""
    text = cli_complaint(capsys, "study", written(Path("given"), study))
    assert not PYTHON_SPEAK.search(text), text
    return text.removeprefix("dist-dash: ").rstrip()


def trials_of(name: str, *trials: dict[str, Any]) -> dict[str, Any]:
    return changed("methods", name, "trials", to=list(trials))


WRONG = {
    "unknown field": (changed("seed", to=[1]), "study: 'seed' is no field of it; did you mean seeds?"),
    "unknown field of a method": (
        changed("methods", "Flat", to={"field": FIELDS, "trials": [{}]}),
        "methods.Flat: 'field' is no field of it; did you mean fields?",
    ),
    "unknown field of the selection": (
        changed("selection", to={"metric": "nll"}),
        "selection: 'metric' is no field of it; known: score, seeds, split",
    ),
    "the text of a plan is no field": (changed("text", to="x"), "study: 'text' is no field of it"),
    "missing": (changed("members", to=...), "study: members missing; it must have recipe, members, methods, cond"),
    "missing of a method": (changed("methods", "Flat", to={"trials": [{}]}), "methods.Flat: fields missing; it must"),
    "numbers of trials": (
        trials_of("Flat", {"method.rho": 0.1}, {"method.rho": 0.2}),
        "methods: the numbers of trials differ (Plain: 1, Flat: 2, DASH, joint: 1); a fair choice gives every method",
    ),
    "a trial twice": (
        trials_of("Flat", {"method.rho": 0.1, "epochs": 1}, {"epochs": 1, "method.rho": 0.1}),
        "methods.Flat.trials: one of them is there twice",
    ),
    "overlapping seeds": (
        changed("seeds", to=[3, 100, 4]),
        "selection.seeds: [100] is not allowed; it must be seeds that the study does not report",
    ),
    "a seed twice": (changed("seeds", to=[1, 1]), "seeds: [1, 1] is not allowed; it must be a list of different whole"),
    "no seeds": (changed("seeds", to=[]), "seeds: [] is not allowed; it must be a list of different whole numbers"),
    "a negative seed": (changed("seeds", to=[-1]), "seeds: [-1] is not allowed"),
    "true as a seed": (changed("seeds", to=[True]), "seeds: [True] is not allowed"),
    "a number of seeds": (changed("seeds", to=5), "seeds: 5 is not allowed"),
    "selection's seeds": (changed("selection", "seeds", to="x"), "selection.seeds: 'x' is not allowed"),
    "an unknown baseline": (
        changed("baselines", to=["Plain", "Adam"]),
        "baselines: 'Adam' is not allowed; it must be one of Plain, Flat, DASH, joint",
    ),
    "baselines as a text": (changed("baselines", to="Plain"), "baselines: 'Plain' is not allowed; it must be a list"),
    "no baselines": (changed("baselines", to=None), "baselines: None is not allowed; it must be a list of texts"),
    "notes as a text": (changed("notes", to="one"), "notes: 'one' is not allowed; it must be a list of texts"),
    "an unknown score": (
        changed("selection", "score", to="loss"),
        "selection.score: 'loss' is not allowed; it must be one of nll, brier, ece, ece_mass, cal_nll,",
    ),
    "another split": (
        changed("selection", "split", to="test"),
        "selection.split: 'test' is not allowed; it must be validation: figures are reported on test",
    ),
    "no members": (changed("members", to=0), "members: 0 is not allowed; it must be a whole number ≥ 1"),
    "true members": (changed("members", to=True), "members: True is not allowed; it must be a whole number ≥ 1"),
    "half a member": (changed("members", to=1.5), "members: 1.5 is not allowed; it must be a whole number ≥ 1"),
    "no methods": (changed("methods", to={}), "methods: {} is not allowed; it must be at least one method"),
    "a list of methods": (changed("methods", to=["SAM"]), "methods: ['SAM'] is not allowed; it must be at least one m"),
    "no conditions": (changed("conditions", to={}), "conditions: {} is not allowed; it must be at least one, such as"),
    "an empty condition": (
        changed("conditions", "clean", to=None),
        "conditions.clean: None is not allowed; it must be",
    ),
    "no trials": (trials_of("Flat"), "methods.Flat.trials: [] is not allowed; it must be a list of groups of fields"),
    "trials as a group": (changed("methods", "Flat", "trials", to={"method.rho": 1}), "methods.Flat.trials: {'method."),
    "a trial that is none": (trials_of("Flat", 3), "methods.Flat.trials[0]: 3 is not allowed; it must be a group of"),  # type: ignore[arg-type]
    "names that collide": (
        changed("conditions", to={"20 % wrong": {}, "20 wrong!": {}}),
        "conditions: '20 % wrong' is not allowed; it must be a name of its own",
    ),
    "methods that collide": (
        changed("methods", to={"Plain": METHODS["Plain"], "PLAIN": METHODS["Plain"]}),
        "methods: 'Plain' is not allowed; it must be a name of its own",
    ),
    "a name without letters": (
        changed("conditions", to={"%": {}}),
        "conditions: '%' is not allowed; it must be a name",
    ),
    "an unknown option of flatness": (
        changed("flatness", to={"roh": 0.1}),
        "flatness: 'roh' is no field of it; did you mean rho?",
    ),
    "flatness as a number": (changed("flatness", to=0.2), "flatness: 0.2 is not allowed; it must be a group of fields"),
    "a radius as a text": (changed("flatness", to={"rho": "x"}), "flatness.rho: 'x' is not allowed; it must be a numb"),
    "a radius of 0": (changed("flatness", to={"rho": 0}), "flatness.rho: 0.0 is not allowed; it must be a finite num"),
    "half a step": (changed("flatness", to={"steps": 1.5}), "flatness.steps: 1.5 is not allowed; it must be a whole"),
    "no steps": (changed("flatness", to={"steps": 0}), "flatness.steps: 0 is not allowed; it must be a whole number"),
    "no number of steps": (changed("flatness", to={"steps": None}), "flatness.steps: None is not allowed; it must be"),
    "another precision": (
        changed("flatness", to={"dtype": 16}),
        "flatness.dtype: 16 is not allowed; it must be a text",
    ),
    "no mapping": ("- a\n- b\n", "study: ['a', 'b'] is not allowed; it must be a group of fields"),
    "empty": ("", "study: None is not allowed; it must be a group of fields"),
    "not a YAML": (
        "a: [1,\nb: }",
        "study: 'given/tiny.yaml' is not allowed (while parsing a flow node expected the node content, but found '}',",
    ),
    # From here on in the words of the recipe, with the run that it is of.
    "engine": (
        changed("recipe", "engine", to="DeepSpeed"),
        "engine: DeepSpeed is not allowed (study, run selection/clean/plain-t0-s100)",
    ),
    "the default engine": (changed("recipe", "engine", to=...), "engine: DeepSpeed is not allowed (study, run"),
    "no validation split": (
        changed("recipe", "labels", to={}),
        "labels.validation: 0 is not allowed (study, run selection/clean/plain-t0-s100): settings are chosen on it",
    ),
    "no validation split under one condition": (
        changed("conditions", "20 % wrong", to={"labels.validation": 0}),
        "labels.validation: 0 is not allowed (study, run selection/20-wrong/plain-t0-s100)",
    ),
    "a wrong field in a trial": (
        trials_of("Flat", {"method.ro": 0.1}),
        "method.ro: no such field; did you mean method.rho? (study, run selection/clean/flat-t0-s100)",
    ),
    "a wrong value in a trial": (
        trials_of("Flat", {"method.rho": -1}),
        "method.rho: -1.0 is not allowed; it must be a finite number ≥ 0 (study, run selection/clean/flat-t0-s100)",
    ),
    "another method's field": (
        trials_of("Flat", {"method.rho_div": 0.3}),
        "method.rho_div: no such field; did you mean method.rho? (study, run selection/clean/flat-t0-s100)",
    ),
    "a wrong field in a condition": (
        changed("conditions", "20 % wrong", to={"labels.nois": 0.2}),
        "labels.nois: no such field; did you mean labels.noise? (study, run selection/20-wrong/plain-t0-s100)",
    ),
    "a wrong field in the recipe": (changed("recipe", "epoch", to=3), "epoch: no such field; did you mean epochs? (st"),
    "a trial that sets the seed": (
        trials_of("Flat", {"seed": 3}),
        "seed: 3 has no effect (study, run selection/clean/flat-t0-s100)",
    ),
    "a trial that sets the members": (trials_of("Flat", {"members": 3}), "members: 3 has no effect (study, run select"),
    "a trial that names a run": (trials_of("Flat", {"run": "x"}), "run: 'x' has no effect (study, run selection/clean"),
    "a trial with replicas": (
        trials_of("Flat", {"replicas": 2}),
        "replicas: 2 has no effect (study, run selection/cle",
    ),
    "a method that overrides a condition": (
        trials_of("Flat", {"labels.noise": 0.3}),
        "labels.noise: 0.0 has no effect (study, run selection/clean/flat-t0-s100)",
    ),
    "two trials that are one setting": (
        changed(
            "methods",
            to={"Flat": {"fields": FIELDS, "trials": [{}, {"method.rho": 0.05}]}},
        )
        | {"baselines": []},
        "methods: the trials selection/clean/flat-t0-s100 and selection/clean/flat-t1-s100 are the same setting",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_gets_one_line(case: str, capsys: Any) -> None:
    study, line = WRONG[case]
    assert refused(capsys, study).startswith(line), refused(capsys, study)


def test_a_file_that_cannot_be_read(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    for path in ("nowhere.yaml", tmp_path, tmp_path / "binary"):
        assert cli_complaint(capsys, "study", path).startswith(f"dist-dash: study: {str(path)!r} is not allowed (")


@pytest.mark.parametrize("number", [0, -1])
def test_no_groups(number: int, capsys: Any) -> None:
    text = cli_complaint(capsys, "study", written(Path("given"), STUDY), f"--groups={number}")
    assert text == f"dist-dash: groups: {number} is not allowed; it must be a whole number ≥ 1\n"


def test_places_that_cannot_be_used(capsys: Any) -> None:
    path = written(Path("given"), STUDY)
    Path("file").write_text("")
    Path("foreign").mkdir()
    Path("foreign/letter.txt").write_text("")
    for field in ("folder", "results"):
        for place in ("file", "file/below/it"):
            text = cli_complaint(capsys, "study", path, f"--{field}={place}")
            assert text.startswith(f"dist-dash: {field}: {place!r} is not allowed; it must be a folder, or new in one")
    text = cli_complaint(capsys, "study", path, "--folder=foreign")
    assert text == "dist-dash: folder: foreign holds files that are not a study's; it must be new or a study's\n"


def test_another_study_in_the_folder(capsys: Any) -> None:
    written(Path("folder"), STUDY, "study.yaml")
    for other in (changed("seeds", to=[7]), changed("recipe", "max_steps", to=4), trials_of("Flat", {"method.rho": 1})):
        text = cli_complaint(capsys, "study", written(Path("given"), other), "--folder=folder")
        assert text.startswith("dist-dash: folder: folder holds another study (study.yaml differs); use another --fold")


def test_the_same_study_under_other_words_is_the_same(tmp_path: Path) -> None:
    """Neither the file's name (the default title), nor title, notes and layout make it another study."""
    first = read_plan(written(tmp_path, STUDY, "study.yaml"))
    second = read_plan(written(tmp_path, json.dumps(STUDY), "digits.yaml"))
    assert (first.title, second.title) == ("study", "digits")
    assert first == second
    assert first == read_plan(written(tmp_path, STUDY | {"title": "T", "notes": ["n"]}))
    assert first != read_plan(written(tmp_path, changed("selection", "score", to="brier")))
    assert first != read_plan(written(tmp_path, changed("baselines", to=["Flat"])))


# -- what a good one becomes -------------------------------------------------------------------------------------------


def plan_of(tmp_path: Path, study: Any = STUDY) -> StudyPlan:
    plan = read_plan(written(tmp_path, study))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(plan.recipe))
    return plan


def test_every_method_condition_trial_and_seed_is_run(tmp_path: Path) -> None:
    study = changed("selection", "seeds", to=[100, 101]) | {"seeds": [0, 1, 2]}
    for method in study["methods"].values():
        method["trials"] = [*method["trials"], {"optimizer.lr": 0.3}]
    plan = plan_of(tmp_path, study)
    trials = plan.trials(tmp_path)
    assert len(trials) == len({run.name for run in trials}) == 2 * 3 * 2 * 2
    names = {
        plan.trial_name(condition, method, trial, seed)
        for condition in study["conditions"]
        for method in study["methods"]
        for trial in (0, 1)
        for seed in (100, 101)
    }
    assert names == {run.name for run in trials}
    chosen = {(condition, method): 1 for condition in study["conditions"] for method in study["methods"]}
    reported = plan.reported(tmp_path, chosen)
    assert len(reported) == 2 * 3 * 3
    condition, method, run = reported["reported/20-wrong/dash-joint-t1-s2"]
    assert (condition, method, run.name) == ("20 % wrong", "DASH, joint", "reported/20-wrong/dash-joint-t1-s2")
    command = parse_command([*run.arguments, f"--run={tmp_path / 'run'}"])
    recipe = command.recipe
    assert (recipe.seed, recipe.members, recipe.labels.noise, recipe.labels.validation) == (2, 2, 0.2, 0.25)
    assert command.resolved["optimizer"]["init_args"]["lr"] == 0.3
    assert command.resolved["method"]["init_args"]["ascent"] == "joint"
    assert command.resolved["method"]["init_args"]["rho_loss"] == 0.05  # trial 1 leaves it as it is
    others = plan.reported(tmp_path, chosen | {("20 % wrong", "DASH, joint"): 0})
    assert len(set(reported) - set(others)) == 3  # another choice is never taken for this one
    other = others["reported/20-wrong/dash-joint-t0-s2"][2]
    assert parse_command(other.arguments).resolved["method"]["init_args"]["rho_loss"] == 0.1


def test_every_setting_and_every_condition_is_parsed_beforehand(tmp_path: Path) -> None:
    study = changed("selection", "seeds", to=[100, 101])
    for method in study["methods"].values():
        method["trials"] = [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}, {"optimizer.lr": 0.3}]
    commands = check_commands(plan_of(tmp_path, study), tmp_path)
    assert len(commands) == 3 * 3 + 3
    seen = {(type(c.recipe.method).__name__, c.resolved["optimizer"]["init_args"]["lr"]) for c in commands}
    assert seen == {(method, rate) for method in ("SGD", "SAM", "DASH") for rate in (0.1, 0.2, 0.3)}


def test_anchors_may_be_used(tmp_path: Path) -> None:
    text = yaml.safe_dump(STUDY, sort_keys=False)
    text = text.replace("    trials:\n    - method.rho: 0.1\n", "    trials: &radii\n    - {optimizer.lr: 0.2}\n")
    text = text.replace("    trials:\n    - method.rho_loss: 0.1\n", "    trials: *radii\n")
    plan = plan_of(tmp_path, text)
    assert plan.methods["Flat"].trials == plan.methods["DASH, joint"].trials == ({"optimizer.lr": 0.2},)
    check_commands(plan, tmp_path)


def test_the_study_of_this_project_can_be_run(tmp_path: Path) -> None:
    plan = read_plan(Path(__file__).parents[3] / "launch/recipes/study_digits.yaml")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(plan.recipe))
    commands = check_commands(plan, tmp_path)
    assert len({command.as_yaml() for command in commands}) == len(commands)
    assert plan.selection.split == "validation"
    assert not set(plan.seeds) & set(plan.selection.seeds)


def test_a_class_comes_before_its_fields() -> None:
    found = list(
        arguments_of({"method.rho": 0.1, "a.b.c": [1], "method": "SAM", "seed": 3, "a.b": {"class_path": "X"}})
    )
    assert found == ["--method=SAM", "--seed=3", "--method.rho=0.1", '--a.b={"class_path": "X"}', "--a.b.c=[1]"]


@pytest.mark.parametrize(
    ("fields", "where", "value"),
    [
        ({"method": "SAM", "method.p": math.inf}, ("method", "init_args", "p"), math.inf),
        ({"method": "SAM", "method.rho": "1e-3"}, ("method", "init_args", "rho"), 0.001),
        ({"method": "SAM", "method.rho": 1e-7}, ("method", "init_args", "rho"), 1e-7),
        ({"max_steps": None}, ("max_steps",), None),
        ({"deterministic": False}, ("deterministic",), False),
        ({"labels": {"noise": 0.3}}, ("labels", "noise"), 0.3),
        ({"optimizer": "torch.optim.Adam"}, ("optimizer", "class_path"), "torch.optim.Adam"),
        ({"data.test_fraction": 0.4}, ("data", "init_args", "test_fraction"), 0.4),
        ({"augment.pad_crop": "2"}, ("augment", "pad_crop"), 2),
        ({"model": {"class_path": "MLP", "init_args": {"hidden": 4}}}, ("model", "init_args", "hidden"), 4),
        ({"models": [{"class_path": "MLP"}, {"class_path": "SmallCNN"}]}, ("models", 0, "init_args", "hidden"), 128),
    ],
)
def test_values_survive_the_way_to_the_recipe(
    fields: dict[str, Any], where: tuple[Any, ...], value: Any, tmp_path: Path
) -> None:
    """What a study gives is what the run's recipe says, and the check sees that it is."""
    plan_of(tmp_path)
    found = resolved = parse_command([f"--config={tmp_path / 'base.yaml'}", *arguments_of(fields)]).resolved
    for part in where:
        found = found[part]
    assert found == value
    for name, given in fields.items():
        assert has_effect(name, given, resolved)


RESOLVED = {
    "method": {"class_path": "dist_dash.methods.SAM", "init_args": {"rho": 0.1, "ascent_sync": "local"}},
    "labels": {"noise": 0.2, "mixup": 0.0},
    "models": [{"class_path": "dist_dash.models.MLP", "init_args": {"hidden": 8}}],
    "max_steps": None,
    "flag": False,
    "name": "3",
}


@pytest.mark.parametrize(
    ("name", "given", "has"),
    [
        ("method.rho", 0.1, True),
        ("method.init_args.rho", 0.1, True),
        ("method.rho", "1e-1", True),
        ("method.rho", 0.2, False),
        ("method.rho_div", 0.3, False),
        ("method.rho_div", None, False),
        ("method.rho.more", 0.1, False),
        ("method", "SAM", True),
        ("method", "my.package.SAM", True),
        ("method", "DASH", False),
        ("method", "AM", False),
        ("method", {"class_path": "SAM", "init_args": {"rho": 0.1}}, True),
        ("method", {"class_path": "SAM", "init_args": {"rho": 0.2}}, False),
        ("method", {"class_path": "SAM", "init_args": {"rho_div": 0.1}}, False),
        ("labels", {"noise": 0.2}, True),
        ("labels", {"noise": 0.3}, False),
        ("labels", {"nois": 0.2}, False),
        ("labels.noise", "0.2", True),
        ("labels.noise", "a fifth", False),
        ("labels.mixup", 0, True),
        ("models", [{"class_path": "MLP"}], True),
        ("models", [{"class_path": "MLP"}, {"class_path": "MLP"}], False),
        ("models", [{"class_path": "CNN"}], False),
        ("max_steps", None, True),
        ("max_steps", 3, False),
        ("replicas", None, False),
        ("flag", "false", True),
        ("flag", True, False),
        ("name", "3", True),
        ("name", "4", False),
    ],
)
def test_whether_a_field_took_effect(name: str, given: Any, has: bool) -> None:
    assert has_effect(name, given, RESOLVED) is has


def test_names_of_folders() -> None:
    assert slug("DASH, all classes") == "dash-all-classes"
    assert slug("control: random (2nd)!") == "control-random-2nd"
    assert slug("∇") == ""


def test_a_dry_run_writes_nothing(capsys: Any) -> None:
    from dist_dash.commands.cli import main

    path = written(Path("given"), STUDY)
    before = set(Path().rglob("*"))
    assert main(["study", str(path), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("study: 6 runs to choose settings, 6 to report; ")
    assert captured.err.endswith(" at a time, in runs/tiny\n")
    assert set(Path().rglob("*")) == before
