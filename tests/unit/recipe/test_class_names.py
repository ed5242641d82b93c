import json
from pathlib import Path

import pytest
import yaml
from complaints import complaint, names

from dist_dash.data import Source
from dist_dash.member.engine import Torch
from dist_dash.methods import DASH
from dist_dash.models import MLP, Architecture
from dist_dash.recipe.classes import BASES, known
from dist_dash.recipe.components import Component, made
from dist_dash.recipe.data_argument import source_of
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.choices import bare, differing, flat

SAMPLE = str(Path(__file__).parents[1] / "sample.yaml")
EARLIER = {  # as `recipe.yaml` was written before the modules moved
    "data": {"class_path": "dist_dash.data.Digits", "init_args": {"test_fraction": 0.25}},
    "model": {"class_path": "dist_dash.models.mlp.MLP", "init_args": {"hidden": 8}},
    "models": [{"class_path": "dist_dash.models.mlp.MLP"}, {"class_path": "dist_dash.models.SmallCNN"}],
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    "engine": {"class_path": "dist_dash.engine.Torch", "init_args": {"clip": 1.0}},
    "method": {"class_path": "dist_dash.methods.dash.DASH", "init_args": {"rho_div": 0.2}},
    "schedule": {"class_path": "dist_dash.schedules.Cosine", "init_args": {"warmup": 1.0}},
}


def test_no_two_classes_of_recipes_have_the_same_name():
    found = [name for base in BASES for name in known(base)]
    assert len(found) > 20
    assert len(set(found)) == len(found)


def test_own_classes_are_written_by_their_bare_name_and_others_by_their_path():
    resolved = parse_command(["--config", SAMPLE, "--models", "[MLP, SmallCNN]"]).resolved
    assert {name: resolved[name]["class_path"] for name in ("data", "model", "engine", "method", "schedule")} == {
        "data": "Digits", "model": "SmallCNN", "engine": "DeepSpeed", "method": "DASH", "schedule": "Cosine"
    }  # fmt: skip
    assert [model["class_path"] for model in resolved["models"]] == ["MLP", "SmallCNN"]
    assert resolved["optimizer"]["class_path"] == "torch.optim.SGD"


def test_a_recipe_of_an_earlier_version_means_the_same(tmp_path):
    (tmp_path / "earlier.yaml").write_text(yaml.safe_dump(EARLIER))
    now = {
        name: {**value, "class_path": bare(value["class_path"])} for name, value in EARLIER.items() if name != "models"
    }
    (tmp_path / "now.yaml").write_text(yaml.safe_dump({**now, "models": ["MLP", "SmallCNN"]}))
    earlier, today = (parse_command(["--config", str(tmp_path / f"{name}.yaml")]) for name in ("earlier", "now"))
    assert earlier.resolved == today.resolved
    assert (type(earlier.recipe.engine), type(earlier.recipe.method)) == (Torch, DASH)
    assert earlier.recipe.method.rho_div == 0.2
    assert earlier.recipe.models[0].hidden == 128


@pytest.mark.parametrize(
    "word", ["--engine=dist_dash.engine.Torch", "--engine=Torch", "--engine dist_dash.engine.Torch"]
)
def test_an_earlier_path_on_the_command_line_means_the_same(word):
    recipe = parse_command(["--config", SAMPLE, *word.split(), "--engine.precision=fp64"]).recipe
    assert type(recipe.engine) is Torch


def test_a_path_that_never_was_is_named_as_it_was_given():
    text = complaint(["--config", SAMPLE, "--engine", "dist_dash.engine.Tortch"])
    names(text, "engine", "'dist_dash.engine.Tortch'", "DeepSpeed, Torch")


def test_data_of_an_earlier_version_are_read():
    assert type(made(Component("dist_dash.sources.Digits"), Source)).__name__ == "Digits"
    assert type(source_of(["--data=dist_dash.sources.Digits", "--data.seed=3"])).__name__ == "Digits"


@pytest.mark.parametrize("path", ["MLP", "dist_dash.models.MLP", "dist_dash.networks.mlp.MLP"])
def test_an_architecture_of_an_earlier_version_is_read(path):
    found = made(Component(path, {"hidden": 5}), Architecture)
    assert type(found) is MLP
    assert found.hidden == 5


def test_choices_of_both_spellings_are_equal():
    today = {**EARLIER, "engine": {**EARLIER["engine"], "class_path": "Torch"}}
    written_flat = {
        "engine.class_path": "dist_dash.engine.Torch", "engine.init_args.clip": 1.0,
        "method.class_path": "DASH", "method.init_args.rho_div": 0.3,
    }  # fmt: skip
    ours = {name: value for name, value in flat(today).items() if name.startswith(("engine", "method"))}
    assert differing([flat(EARLIER), flat(today)]) == {}
    assert differing([ours, flat(json.loads(json.dumps(written_flat)))]) == {"method.rho_div": [0.2, 0.3]}
    assert differing([{"a": 1}, {"a": 1, "b": None}]) == {"b": [None, None]}
    assert differing([{"record.every": 1}, {"record.every": 2}], ["record"]) == {}
