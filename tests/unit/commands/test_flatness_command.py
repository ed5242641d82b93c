"""`dist-dash flatness RUN`: what it measures on, what it writes, what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from complaints import cli_complaint
from exported import unsealed
from finished_by_hand import finished_run
from rich.console import Console
from torch import nn

from dist_dash.analysis.flatness.measure import FlatnessOptions, flatness_of
from dist_dash.analysis.flatness.run import AVERAGED, summary
from dist_dash.analysis.flatness.subset import subset
from dist_dash.analysis.flatness.table import table
from dist_dash.commands.cli import main
from dist_dash.commands.flatness import flatness_command
from dist_dash.ensembles.ensemble import save_member
from dist_dash.errors import BadInput
from dist_dash.files import read_json
from dist_dash.runs.owner import OwnedFolder

pytestmark = pytest.mark.usefixtures("not_a_rank")


@pytest.fixture
def made(tmp_path):
    return finished_run(tmp_path / "run", arguments=["--labels.noise=0.5"])


def written(path) -> dict:
    return json.loads((path / "flatness.json").read_text())


def test_the_file_holds_every_member_as_the_function_measures_it(made, capsys):
    run, networks = made
    assert main(["flatness", str(run.path), "--rho", "0.1", "--steps", "3", "--samples", "30", "--seed", "4"]) == 0
    found = written(run.path)
    assert (found["split"], found["samples"], found["rho"], found["steps"], found["seed"]) == ("train", 30, 0.1, 3, 4)
    assert (found["mode"], found["loss"], found["dtype"], found["left_out"]) == ("eval", "cross-entropy", "float64", [])
    x, y = subset(run, "train", 30, 4)
    options = FlatnessOptions(rho=0.1, steps=3, seed=4)
    for network, member in zip(networks, found["members"], strict=True):
        expected = vars(flatness_of(network, x, y, options))
        assert member.keys() == expected.keys()
        for name, value in expected.items():
            assert member[name] == pytest.approx(value, rel=1e-12), name
    for name in AVERAGED:
        assert found["mean"][name] == pytest.approx(np.mean([member[name] for member in found["members"]]))
    shown = capsys.readouterr().out
    for text in (
        "30 samples of the train split",
        "member 2",
        "mean",
        f"{found['members'][1]['loss']:.4f}",
        "Evaluation",
    ):
        assert text in shown


def test_the_training_split_has_the_labels_that_were_trained_on(made):
    """Loss of member 0 by a loop over the stored file and the labels of the run's own data set."""
    run, networks = made
    assert flatness_command([str(run.path), "--samples=999", "--probes=2"]) == 0
    found = written(run.path)
    stored = np.load(run.path.parent / "data.npz")
    data = run.data()
    assert found["samples"] == len(stored["x_train"]) == 60
    assert (data.labels != stored["y_train"]).sum() == 30
    for network, member in zip(networks, found["members"], strict=True):
        log_probs = torch.log_softmax(network.double()(torch.from_numpy(stored["x_train"])), -1).detach()
        expected = -sum(float(row[y]) for row, y in zip(log_probs, data.labels, strict=True)) / 60
        assert member["loss"] == pytest.approx(expected, rel=1e-9)
        clean = nn.functional.cross_entropy(log_probs, torch.from_numpy(stored["y_train"])).item()
        assert member["loss"] != pytest.approx(clean, rel=1e-6)


def test_the_test_split_has_its_own_labels_and_the_subset_is_always_the_same(made):
    run, _ = made
    stored = np.load(run.path.parent / "data.npz")
    x, y = subset(run, "test", 20, 0)
    places = [int(np.flatnonzero((stored["x_test"] == one.numpy()).all((1, 2, 3)))[0]) for one in x]
    assert places == sorted(set(places))
    assert y.tolist() == stored["y_test"][places].tolist()
    again, _ = subset(run, "test", 20, 0)
    assert torch.equal(again, x)
    other, _ = subset(run, "test", 20, 1)
    assert not torch.equal(other, x)
    everything, labels = subset(run, "test", 10**6, 3)
    assert np.array_equal(everything.numpy(), stored["x_test"])
    assert np.array_equal(labels.numpy(), stored["y_test"])


def test_samples_are_not_augmented(tmp_path):
    run, _ = finished_run(tmp_path / "run", arguments=["--augment.pad_crop=2", "--augment.flip=true"])
    assert np.array_equal(subset(run, "train", 60, 0)[0].numpy(), np.load(tmp_path / "data.npz")["x_train"])


def test_validation_samples_are_those_that_were_held_out(tmp_path):
    run, _ = finished_run(tmp_path / "run", arguments=["--labels.validation=0.25", "--labels.noise=0.5"])
    assert flatness_command([str(run.path), "--split=validation", "--probes=2"]) == 0
    held_out = run.data().validation
    assert written(run.path)["samples"] == len(held_out) == 15
    x, y = subset(run, "validation", 99, 0)
    stored = np.load(tmp_path / "data.npz")
    places = [int(np.flatnonzero((stored["x_train"] == one.numpy()).all((1, 2, 3)))[0]) for one in x]
    assert y.tolist() == stored["y_train"][places].tolist()  # no noise


def test_the_same_command_writes_the_same_bytes_and_json_prints_them(made, capsys):
    run, _ = made
    assert flatness_command([str(run.path), "--probes=4", "--json"]) == 0
    first = (run.path / "flatness.json").read_bytes()
    assert json.loads(capsys.readouterr().out) == read_json(run.path / "flatness.json", "flatness")
    assert flatness_command([str(run.path), "--probes=4"]) == 0
    assert (run.path / "flatness.json").read_bytes() == first
    assert flatness_command([str(run.path), "--probes=4", "--batch-size=7"]) == 0
    assert written(run.path)["members"][0]["worst_rise"] == pytest.approx(json.loads(first)["members"][0]["worst_rise"])


def test_weights_on_disk_stay_and_nothing_else_is_written(made):
    run, _ = made
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert flatness_command([str(run.path), "--probes=2"]) == 0
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert after.pop(run.path / "flatness.json")
    assert after == before


def test_a_member_without_a_finite_loss_is_left_out_and_named(made, capsys):
    run, networks = made
    with torch.no_grad():
        next(networks[1].parameters()).fill_(torch.inf)
    save_member(run.path / "ensemble/member_01.safetensors", networks[1])
    unsealed(run.path / "ensemble")
    assert flatness_command([str(run.path), "--probes=2"]) == 0
    captured = capsys.readouterr()
    assert "member 1 is left out" in captured.err
    assert "Left out, for the loss is not finite: member 1." in captured.out
    found = written(run.path)
    assert found["left_out"] == [1]
    assert found["members"][1] is None
    assert found["mean"]["eigenvalue"] == pytest.approx(np.mean([found["members"][i]["eigenvalue"] for i in (0, 2)]))
    for index in (0, 2):
        save_member(run.path / f"ensemble/member_{index:02d}.safetensors", networks[1])
    before = (run.path / "flatness.json").read_bytes()
    with pytest.raises(BadInput, match="no member has a finite loss"):
        flatness_command([str(run.path)])
    assert (run.path / "flatness.json").read_bytes() == before


def test_a_rise_beyond_all_numbers_becomes_null(made):
    run, _ = made
    x, y = subset(run, "train", 10, 0)
    member = flatness_of(run.ensemble().networks[0], x, y, FlatnessOptions(most_probes=2))
    endless = type(member)(**{**vars(member), "worst_rise": math.inf, "random_rises": [0.5, math.nan]})
    result = summary([endless], FlatnessOptions(), "train", 10)
    json.dumps(result, allow_nan=False)
    assert result["members"][0]["worst_rise"] is None
    assert result["members"][0]["random_rises"] == [0.5, None]
    assert result["mean"]["worst_rise"] is None
    Console(quiet=True).print(table(result))


def test_what_did_not_converge_is_marked(made, capsys):
    run, _ = made
    for tolerance, products in (("1e-30", range(30, 62)), ("1e-3", range(11, 30))):
        assert flatness_command([str(run.path), f"--tolerance={tolerance}", "--probes=2"]) == 0
        shown = capsys.readouterr().out
        found = written(run.path)["members"]
        assert {member["eigenvalue_products"] for member in found} <= set(products)
        stars = [not member[f"{name}_converged"] for member in found for name in ("eigenvalue", "trace")]
        assert shown.count(")*") == sum(stars) > 0
        assert "did not converge" in shown
        assert all(member["eigenvalue_converged"] == (tolerance == "1e-3") for member in found)


def test_everything_fits_a_terminal_of_eighty_columns(made):
    run, _ = made
    assert flatness_command([str(run.path), "--probes=2"]) == 0
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table(written(run.path)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rho=0"], ("rho: 0.0", "> 0")),
        (["--rho=x"], ("rho", "'x'")),
        (["--steps=0"], ("steps: 0", "≥ 1")),
        (["--samples=0"], ("samples: 0", "≥ 1")),
        (["--samples=-3"], ("samples: -3", "≥ 1")),
        (["--seed=-1"], ("seed: -1", "≥ 0")),
        (["--tolerance=nan"], ("tolerance: nan", "> 0")),
        (["--probes=1"], ("probes: 1", "≥ 2")),
        (["--split=val"], ("split", "'val'", "validation")),
        (["--split=validation"], ("split: 'validation' does not exist", "train, test")),
        (["--dtype=float16"], ("dtype", "'float16'")),
        (["--device=tpu9"], ("device: 'tpu9'",)),
        (["--device=cuda:99"], ("device: 'cuda:99'",)),
        (["--batch-size=0"], ("batch-size: 0", "≥ 1")),
        (["--unknown"], ("--unknown",)),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(made, capsys, arguments, words):
    run, _ = made
    text = cli_complaint(capsys, "flatness", run.path, *arguments)
    assert [word for word in words if word not in text] == []


def test_runs_that_are_none_and_data_that_have_moved_are_refused(made, capsys, tmp_path):
    run, _ = made
    assert "is no folder" in cli_complaint(capsys, "flatness", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "recipe.yaml" in cli_complaint(capsys, "flatness", tmp_path / "empty")
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    assert "data.npz" in cli_complaint(capsys, "flatness", run.path)
    (run.path / "ensemble/ensemble.json").unlink()
    assert "finish the run first" in cli_complaint(capsys, "flatness", run.path)


def test_a_run_that_starts_over_forgets_its_flatness(made):
    run, _ = made
    assert flatness_command([str(run.path), "--probes=2"]) == 0
    (run.path / "owner.lock").touch()
    folder = OwnedFolder(run.path)
    folder.acquire()
    folder.clear()
    folder.release()
    assert not folder.flatness.exists()


def test_an_interrupted_write_leaves_what_was_there(made, monkeypatch):
    run, _ = made
    assert flatness_command([str(run.path), "--probes=2"]) == 0
    before = written(run.path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        flatness_command([str(run.path), "--rho=0.2", "--probes=2"])
    assert written(run.path) == before
    assert list(run.path.glob(".*")) == []
