"""A run folder may be somebody else's: nothing that its files name is imported unless the user allows it by name."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from complaints import cli_complaint
from finished_by_hand import CLASSES, SHAPE, finished_run, images

from dist_dash.commands.cli import main
from dist_dash.ensembles.ensemble import load_ensemble, save_member
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.models import Custom, SmallCNN, load_pretrained
from dist_dash.models.network import seeded_network
from dist_dash.recipe.components import code_named
from dist_dash.recipe.parsing import parse_command
from dist_dash.recipe.recipe_of_run import finished_before
from dist_dash.report.loss_landscape import loss_within
from dist_dash.report.picture import NotHere

pytestmark = pytest.mark.usefixtures("not_a_rank")
MODULE = "of_somebody_else"
CODE = """
from pathlib import Path
from dist_dash.data import Digits
from dist_dash.models import SmallCNN
Path(__file__).with_suffix(".ran").touch()
def net(shape, classes): return SmallCNN(width=2).build(shape, classes)
class Net(SmallCNN): pass
class Numbers(Digits): pass
"""
COMPILED = """
import torch
from dist_dash.models import SmallCNN
def net(shape, classes): return torch.compile(SmallCNN(width=2).build(shape, classes))
"""
CUSTOM = {"class_path": "Custom", "init_args": {"target": f"{MODULE}:net", "kwargs": {}}}
OURS = {"class_path": "SmallCNN", "init_args": {"width": 2}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run, and a module that leaves a file behind where it is imported."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield finished_run(tmp_path / "run")[0].path
    sys.modules.pop(MODULE, None)


def ran(run: Path) -> bool:
    return (run.parent / f"{MODULE}.ran").exists()


def describe(run: Path, **fields: object) -> None:
    file = run / "ensemble/ensemble.json"
    spec = {**json.loads(file.read_text()), **fields}
    spec["members"] = [{**member, "blake2b": ""} for member in spec["members"]]
    file.write_text(json.dumps({name: value for name, value in spec.items() if name != "blake2b"}))


def of(run: Path, architecture: object, **fields: object) -> None:
    """Make an architecture that of the first member."""
    members = json.loads((run / "ensemble/ensemble.json").read_text())["members"]
    describe(run, members=[{**members[0], "architecture": architecture, **fields}, *members[1:]])


COMMANDS = (
    ["predict", "{run}", "x.npz", "--output", "p.npz"],
    ["evaluate", "{run}"],
    ["flatness", "{run}", "--samples", "5", "--probes", "2"],
    ["shift", "{run}", "--corruptions", "brightness", "--severities", "1", "--samples", "5"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_a_command_runs_foreign_code_only_where_it_is_allowed(run, command, capsys):
    np.savez("x.npz", x=images(3))
    of(run, CUSTOM)
    given = [word.format(run=run) for word in command]
    text = cli_complaint(capsys, *given)
    assert f"ensemble.json names code that is not this project's own, '{MODULE}:net'" in text
    assert text.count(f"--allow-code {MODULE}:net") == 1
    assert cli_complaint(capsys, *given, "--allow-code", MODULE) == text  # the whole name or nothing
    assert not ran(run)
    assert main([*given, "--allow-code", f"{MODULE}:net"]) == 0
    assert ran(run)


def test_a_picture_of_a_report_that_needs_foreign_code_says_so(run):
    of(run, CUSTOM)
    with pytest.raises(NotHere, match=f"--allow-code {MODULE}:net"):
        loss_within(FinishedRun(run), samples=5)
    assert not ran(run)
    assert loss_within(FinishedRun(run, [f"{MODULE}:net"]), points=2, directions=1, samples=5).data


@pytest.mark.parametrize(
    "architecture",
    [
        {"class_path": f"{MODULE}.Net"},
        {"class_path": f"dist_dash.models.{MODULE}.Net"},
        {"class_path": MODULE},
        {"class_path": "torch.optim.SGD"},
        {"class_path": "os.system", "init_args": {"command": "true"}},
        {"class_path": "builtins.eval"},
        {"class_path": "dist_dash.models.Custom", "init_args": {"target": "torch.hub:load", "kwargs": {"model": "x"}}},
        {"class_path": "dist_dash.models.custom.importlib", "init_args": {}},
        {"class_path": "Custom", "init_args": {"target": [f"{MODULE}:net"]}},
        {"class_path": "Custom", "init_args": {}},
        {"class_path": "SmallCNN", "init_args": {"width": {"class_path": f"{MODULE}.Net"}}},
        {"class_path": {"class_path": f"{MODULE}.Net"}},
        {"class_path": "SmallCNN", "init_args": {"norm": f"{MODULE}.Net"}},
        {"class_path": "Timm", "init_args": {"name": f"local-dir:{MODULE}"}},
        {"class_path": "Timm", "init_args": {"name": "resnet10t", "kwargs": {"checkpoint_path": "weights.pth"}}},
        {"class_path": "Timm", "init_args": {"name": "resnet10t", "kwargs": {"pretrained_cfg": {"url": "x"}}}},
        {"class_path": "SmallCNN", "init_args": {"width": 10**8}},
        {"class_path": "SmallCNN", "init_args": {"width": 10**30}},
        {"class_path": "SmallCNN", "init_args": {"width": True}},
        {"class_path": "WideResNet", "init_args": {"depth": 6 * 10**9 + 4, "width": 1}},
        {"class_path": "MLP", "init_args": {"hidden": 1, "depth": 10**9}},
    ],
)
def test_what_an_architecture_may_not_be(run, architecture):
    of(run, architecture)
    before = {*sys.modules}
    with pytest.raises(BadInput, match=f"^run: {run}/ensemble/ensemble.json") as caught:
        load_ensemble(run)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not ran(run)
    assert not {name for name in {*sys.modules} - before if name.split(".")[0] not in ("torch", "timm", "torchvision")}


def test_allowing_code_vouches_for_the_file_that_names_it(run):
    file = run / "ensemble/ensemble.json"
    spec = json.loads(file.read_text())
    spec["members"][0]["architecture"] = CUSTOM
    file.write_text(json.dumps(spec))  # its checksum is as it was
    with pytest.raises(BadInput, match=f"--allow-code {MODULE}:net"):
        load_ensemble(run)
    assert len(load_ensemble(run, allow_code=[f"{MODULE}:net"])) == 3
    spec["members"][0]["architecture"] = {**OURS, "init_args": {"width": 2, "norm": "batch"}}
    file.write_text(json.dumps(spec))
    with pytest.raises(BadInput, match="has changed since it was written"):
        load_ensemble(run)


def test_every_foreign_target_is_named_at_once(run):
    members = json.loads((run / "ensemble/ensemble.json").read_text())["members"]
    architectures = [CUSTOM, {"class_path": f"{MODULE}.Net"}, CUSTOM]
    paired = zip(members, architectures, strict=True)
    describe(run, members=[{**member, "architecture": architecture} for member, architecture in paired])
    with pytest.raises(BadInput, match=rf"--allow-code {MODULE}:net --allow-code {MODULE}.Net ") as caught:
        load_ensemble(run)
    assert f"allow_code=['{MODULE}:net', '{MODULE}.Net']" in str(caught.value)


def test_allowed_code_makes_the_same_networks(run):
    expected = load_ensemble(run).predict(images(4)).probs
    for architecture in (CUSTOM, {"class_path": f"{MODULE}.Net", "init_args": {"width": 2}}):
        of(run, architecture)
        found = load_ensemble(run, allow_code=[f"{MODULE}:net", f"{MODULE}.Net"])
        assert torch.equal(found.predict(images(4)).probs, expected)
    of(run, {"class_path": f"{MODULE}.Net", "init_args": {"width": 2, "depth": 3}})
    with pytest.raises(BadInput, match=r"does not take these arguments .*depth"):
        load_ensemble(run, allow_code=[f"{MODULE}.Net"])


def test_the_data_of_a_recipe_are_foreign_code_as_well(run, capsys):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"] = {"class_path": f"{MODULE}.Numbers", "init_args": {}}
    for name in ("method", "optimizer", "engine", "schedule", "sparsity"):  # nobody needs these any more
        recipe[name] = {"class_path": f"{MODULE}.Nothing"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert f"--allow-code {MODULE}.Numbers" in cli_complaint(capsys, "evaluate", run)
    assert not ran(run)
    with pytest.raises(BadInput, match="classes 10 instead of 4"):  # they are read, and seen to be other data
        FinishedRun(run, [f"{MODULE}.Numbers"]).data()


def test_a_finished_folder_of_somebody_else_is_compared_without_its_code(run):
    (run / "DONE").touch()
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    command = parse_command(["--config", str(run / "recipe.yaml"), f"--run={run}"])
    del recipe["checks"]["deadline"]  # as of an earlier version
    foreign = ({"class_path": f"{MODULE}.Net"}, f"{MODULE}.Net")
    for name, value in [(name, value) for name in ("method", "model", "optimizer") for value in foreign]:
        (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, name: value}))
        with pytest.raises(BadInput, match=MODULE):
            finished_before(command, 3, 1)
    assert not ran(run)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert finished_before(command, 3, 1)


@pytest.mark.parametrize("file", ["/etc/passwd", "../member_00.safetensors", "..", "", "a/b", "link.safetensors"])
def test_weights_are_read_inside_the_folder_only(run, file):
    member = run / "ensemble/member_00.safetensors"
    member.rename(run / "member_00.safetensors")
    (run / "ensemble/link.safetensors").symlink_to(run / "member_00.safetensors")
    of(run, OURS, file=file)
    with pytest.raises(BadInput, match=f"^run: {run}/ensemble/"):
        load_ensemble(run)


def test_a_link_to_the_whole_folder_is_followed(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert len(load_ensemble(tmp_path / "link")) == 3


@pytest.mark.parametrize("kind", [torch.int32, torch.float16])
def test_weights_of_another_type_are_refused(run, kind):
    network = seeded_network(0, SmallCNN(width=2), SHAPE, CLASSES, (0.4,), (0.3,), True)
    network.net.fc.weight = torch.nn.Parameter(network.net.fc.weight.to(kind), requires_grad=False)
    save_member(run / "ensemble/member_00.safetensors", network)
    of(run, OURS)
    with pytest.raises(BadInput, match=r"member_00.safetensors does not hold .*float32 or float64 throughout"):
        load_ensemble(run)


def test_a_compiled_network_is_written_and_read_by_its_own_names(run, tmp_path):
    expected = load_ensemble(run).predict(images(4)).probs
    (tmp_path / f"{MODULE}.py").write_text(COMPILED)
    of(run, CUSTOM)
    network = FinishedRun(run, [f"{MODULE}:net"]).ensemble().networks[0]
    assert any("_orig_mod." in name for name in network.state_dict())
    save_member(tmp_path / "again.safetensors", network)
    names = {*safetensors.torch.load_file(tmp_path / "again.safetensors")}
    assert names == {*safetensors.torch.load_file(run / "ensemble/member_00.safetensors")}
    assert not any("_orig_mod" in name for name in names)
    shutil.copy(tmp_path / "again.safetensors", run / "ensemble/member_00.safetensors")
    of(run, OURS)
    assert torch.equal(load_ensemble(run).predict(images(4)).probs, expected)
    fresh = torch.compile(SmallCNN(width=2).build(SHAPE, CLASSES))
    assert load_pretrained(fresh, str(tmp_path / "again.safetensors")) == []
    assert torch.equal(fresh.fc.weight, network.net.fc.weight)
    other = torch.compile(SmallCNN(width=2).build(SHAPE, CLASSES + 1))
    assert load_pretrained(other, str(tmp_path / "again.safetensors")) == ["fc.bias", "fc.weight"]


def test_what_a_users_own_recipe_names_is_allowed():
    recipe = {"model": CUSTOM, "models": [{"class_path": "a.B", "init_args": {"of": {"class_path": "c.D"}}}], "seed": 1}
    assert code_named(recipe) == {"Custom", f"{MODULE}:net", "a.B", "c.D"}
    assert Custom(f"{MODULE}:net").target in code_named(recipe)
