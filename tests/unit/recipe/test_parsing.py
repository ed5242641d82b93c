import math
from pathlib import Path

import pytest
import torch
import yaml

from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import Torch
from dist_dash.methods import DASH, SAM, SGD
from dist_dash.models import MLP, SmallCNN
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.study.run import write_recipe
from dist_dash.study.study_plan import check_commands, read_plan
from dist_dash.trajectories.schedules import Cosine, Step

FILES = sorted((Path(__file__).parents[3] / "launch/recipes").glob("*.yaml"))
RECIPES = [path for path in FILES if not path.stem.startswith("study_")]
SAMPLE = str(Path(__file__).parents[1] / "sample.yaml")


def parse(*arguments: str) -> Command:
    return parse_command(["--config", SAMPLE, *arguments])


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize(
    ("path", "methods", "trials"),
    zip(sorted(set(FILES) - set(RECIPES)), (7, 13), (6, 4), strict=True),
    ids=lambda value: getattr(value, "stem", ""),
)
def test_a_study_s_recipe_loads_with_every_setting_that_it_tries(path, methods, trials, tmp_path):
    plan = read_plan(path)
    write_recipe(plan, tmp_path)
    assert len(check_commands(plan, tmp_path)) == methods * trials + 2 * methods


@pytest.mark.parametrize("path", [*RECIPES, Path(SAMPLE)], ids=lambda path: path.stem)
def test_every_recipe_loads_and_its_resolved_form_says_the_same(path, tmp_path):
    command = parse_command(["--config", str(path)])
    written = tmp_path / "recipe.yaml"
    written.write_text(command.as_yaml())
    again = parse_command(["--config", str(written)])
    assert again.resolved == command.resolved
    assert again.as_yaml() == command.as_yaml()
    given = yaml.safe_load(path.read_text())
    assert set(given) <= set(command.resolved)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method", "SAM", "--method.p", ".inf"],
        ["--models", "[MLP, {class_path: MLP, init_args: {hidden: 7}}]", "--max_steps", "3", "--members", "2"],
        ["--optimizer", "AdamW", "--optimizer.lr", "0.001", "--engine", "Torch", "--data", "Synthetic"],
        ["--schedule", "Step", "--schedule.milestones", "[1.5, 3]", "--init", "weights.safetensors"],
    ],
)
def test_what_was_overridden_survives_the_resolved_form(arguments, tmp_path):
    command = parse(*arguments)
    (tmp_path / "recipe.yaml").write_text(command.as_yaml())
    again = parse_command(["--config", str(tmp_path / "recipe.yaml")])
    assert again.resolved == command.resolved != parse().resolved


def test_the_resolved_form_writes_every_default_out():
    resolved = parse().resolved
    assert resolved["loader"] == {
        "batch_size": 64, "accumulation": 1, "workers": 0, "order": "shared", "on_bad_sample": "error"
    }  # fmt: skip
    assert resolved["method"]["init_args"]["gamma"] == 0.0
    assert resolved["max_steps"] is None
    assert not {"config", "run", "fresh", "replicas"} & set(resolved)


def test_the_recipe_holds_what_its_file_says():
    recipe = parse().recipe
    assert isinstance(recipe.method, DASH)
    assert (recipe.method.rho_loss, recipe.method.rho_div) == (0.1, 0.1)
    assert isinstance(recipe.model, SmallCNN)
    assert isinstance(recipe.engine, DeepSpeed)
    assert isinstance(recipe.schedule, Cosine)
    assert (recipe.labels.noise, recipe.loader.batch_size, recipe.epochs) == (0.4, 64, 20)
    optimizer = recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9


def test_one_field_of_a_class_is_overridden_alone():
    method = parse("--method.rho_div", "0.3").recipe.method
    assert (method.rho_loss, method.rho_div) == (0.1, 0.3)
    assert parse("--loader.batch_size=8", "--loader.workers=2").recipe.loader.batch_size == 8


def test_another_class_does_not_inherit_fields():
    method = parse("--method", "SAM", "--method.p", "3", "--method.rho", "0.2").recipe.method
    assert isinstance(method, SAM)
    assert (method.rho, method.p) == (0.2, 3.0)
    assert isinstance(parse("--method", "SGD").recipe.method, SGD)
    assert parse("--schedule", "Step", "--schedule.milestones", "[2, 5]").recipe.schedule.milestones == [2, 5]
    assert isinstance(parse("--schedule=Step", "--schedule.milestones=[]").recipe.schedule, Step)


def test_infinity_is_a_norm():
    assert math.isinf(parse("--method", "SAM", "--method.p", ".inf").recipe.method.p)


def test_optimizers_and_engines_go_by_name():
    optimizer = parse("--optimizer", "AdamW", "--optimizer.lr", "0.001").recipe.optimizer
    made = optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(made, torch.optim.AdamW)
    assert made.defaults["lr"] == 0.001
    engine = parse("--engine", "Torch", "--engine.precision", "fp64", "--engine.clip", "1.5").recipe.engine
    assert isinstance(engine, Torch)
    assert (engine.precision, engine.clip) == ("fp64", 1.5)
    assert parse("--engine.zero", "2").recipe.engine.zero == 2


def test_members_may_have_architectures_of_their_own(tmp_path):
    recipe = tmp_path / "mixed.yaml"
    different = "models: [{class_path: MLP, init_args: {hidden: 9}}, {class_path: SmallCNN}, MLP]\n"
    recipe.write_text(Path(SAMPLE).read_text() + different)
    models = parse_command(["--config", str(recipe)]).recipe.models
    assert [type(model) for model in models] == [MLP, SmallCNN, MLP]
    assert (models[0].hidden, models[2].hidden) == (9, 128)


def test_later_files_and_arguments_win(tmp_path):
    (tmp_path / "more.yaml").write_text("epochs: 3\nloader: {batch_size: 5}\nseed: 4\n")
    command = parse("--config", str(tmp_path / "more.yaml"), "--seed", "6")
    assert (command.recipe.epochs, command.recipe.loader.batch_size, command.recipe.seed) == (3, 5, 6)
    assert command.run == Path("runs/more-dash-s6")


def test_the_run_folder_is_named_after_recipe_method_and_seed():
    assert parse().run == Path("runs/sample-dash-s0")
    assert parse("--method", "SAM", "--seed", "3").run == Path("runs/sample-sam-s3")
    assert parse("--run", "somewhere/else").run == Path("somewhere/else")
    bare = ["--data", "Digits", "--model", "MLP", "--optimizer", "SGD", "--engine", "Torch"]
    given = "data-Digits_engine-Torch_model-MLP_optimizer-SGD"
    assert parse_command(bare).run == Path(f"runs/recipe-dash-{given}-s0")


def test_options_of_the_command_are_no_part_of_the_recipe():
    command = parse("--fresh", "--replicas", "2")
    assert (command.fresh, command.replicas) == (True, 2)
    assert (parse().fresh, parse().replicas) == (False, None)
    assert command.resolved == parse().resolved


def test_the_complete_recipe_can_be_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--print_config")
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["checks"] == {"samples_every": 1, "deadline": 600.0, "max_skipped": 20}
    assert printed["method"]["init_args"]["temperature"] == 1.0
