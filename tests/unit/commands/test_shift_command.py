"""`dist-dash shift` as a user calls it: what it shows and writes, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from shifted import SYNTHETIC, finished, vectors

from dist_dash.analysis.shift.corruption_texts import COMMON
from dist_dash.analysis.shift.corruptions import CORRUPTIONS
from dist_dash.analysis.shift.values import values_of
from dist_dash.commands.shift import shift_command
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.process import guarded

pytestmark = pytest.mark.usefixtures("not_a_rank")
QUICK = ["--corruptions=contrast,impulse_noise", "--severities=2,5"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("shifted") / "run", 2, *SYNTHETIC)


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def called(capsys, *arguments):
    status = guarded(lambda: shift_command([str(argument) for argument in arguments]))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys, run, *arguments):
    before = sorted(path for path in run.parent.rglob("*"))
    status, out, err = called(capsys, run, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert sorted(path for path in run.parent.rglob("*")) == before
    return err.removeprefix("dist-dash: ").strip()


def test_everything_by_default(run, capsys):
    status, out, err = called(capsys, run)
    assert (status, err) == (0, "")
    found = json.loads((run / "shift.json").read_text())
    assert list(found["corrupted"]) == list(COMMON) == found["averaged_over"]
    assert found["severities_from"] == "CIFAR-10-C, made by dist-dash"
    assert {tuple(levels) for levels in found["corrupted"].values()} == {tuple("12345")}
    assert found["corruptions"]["fog"] == CORRUPTIONS["fog"].text
    assert found["severities"] == [1, 2, 3, 4, 5]
    assert (found["seed"], found["split"], found["samples"], found["left_out"]) == (0, "test", 15, [])
    assert found["values"] == {"low": [0.0], "high": [255.0], "dtype": "uint8"}
    assert found["not_applicable"] == []
    assert [one["name"] for one in found["ood"]["sets"]] == ["uniform noise", "permuted pixels", "inverted"]
    for severity, entry in [("0, clean", found["clean"]), *found["mean"].items()]:
        (row,) = [line for line in out.splitlines() if line.strip().startswith(f"{severity} ") and "ensemble" in line]
        ensemble = entry["ensemble"]
        assert f"{ensemble['accuracy']:.2%}" in row
        assert all(f"{ensemble[name]:.4f}" in row for name in ("nll", "ece", "cal_nll"))
        assert f"{entry['diversity']['disagreement']:.2%}" in row
        member_row = out.splitlines()[out.splitlines().index(row) + 1]
        assert f"{entry['member_mean']['cal_nll']:.4f}" in member_row
    for one in found["ood"]["sets"]:
        assert one["name"] in out
        for result in one["ensemble"].values():
            assert " ".join(f"{result[name]:.3f}" for name in ("auroc",)) in out
    assert "not normalised" in out
    assert f"{found['mean_corruption_error']['member_mean']:.2%}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_what_is_written(run, capsys):
    status, out, _ = called(capsys, run, *QUICK, "--json")
    assert status == 0
    found = json.loads(out)
    assert found == json.loads((run / "shift.json").read_text())
    assert list(found["corrupted"]) == ["contrast", "impulse_noise"]
    assert list(found["mean"]) == ["2", "5"]


def test_the_seed_decides_everything(run, capsys):
    first, again, other = (called(capsys, run, *QUICK, "--json", f"--seed={seed}")[1] for seed in (0, 0, 1))
    assert first == again
    first, other = json.loads(first), json.loads(other)
    assert other["seed"] == 1
    assert other["corrupted"]["impulse_noise"] != first["corrupted"]["impulse_noise"]
    assert other["clean"]["ensemble"]["temperature"] != first["clean"]["ensemble"]["temperature"]


def test_a_subset_of_the_samples(run, capsys):
    found = json.loads(called(capsys, run, *QUICK, "--json", "--samples=9")[1])
    assert found["samples"] == 5
    assert found["ood"]["samples"] == 9
    assert found["fitted_on"].startswith("4 clean test samples, a half; ")


def test_another_data_set(run, capsys, tmp_path):
    found = json.loads(called(capsys, run, *QUICK, "--json", "--ood=Digits", "--resize", "--samples=10")[1])
    (only,) = found["ood"]["sets"]
    assert (only["name"], only["samples"]) == ("Digits", 10)
    fields = ["--ood.size", "8", "--ood.test=12", "--ood.classes", "3", "--ood.seed=5"]
    found = json.loads(called(capsys, "--ood", "Synthetic", *fields, run, *QUICK, "--json")[1])
    (only,) = found["ood"]["sets"]
    assert (only["name"], only["samples"]) == ("Synthetic", 12)
    np.savez(tmp_path / "odd [bold] $x$.npz", x=np.zeros((4, 3, 8, 8), np.uint8))
    status, out, _ = called(capsys, run, *QUICK, "--ood", tmp_path / "odd [bold] $x$.npz")
    assert status == 0
    assert "4 samples" in out
    assert "[bold]" in out


def test_vectors_are_given_noise_alone(tmp_path, capsys):
    run = finished(tmp_path / "run", 2, *vectors(tmp_path / "data.npz", validation=True))
    status, out, err = called(capsys, run, "--severities=5", "--corruptions=all", "--json")
    assert status == 0
    found = json.loads(out)
    noise = [name for name in CORRUPTIONS if name.endswith("_noise")]
    assert list(found["corrupted"]) == noise
    assert found["not_applicable"] == [name for name in CORRUPTIONS if name not in noise]
    assert "left out: defocus_blur, " in err
    assert (found["samples"], found["fitted_on"]) == (31, "20 clean validation samples")
    assert found["ood"]["sets"][1]["name"] == "permuted features"
    assert len(found["values"]["low"]) == 5
    (run / "shift.json").unlink()
    err = called(capsys, run, "--corruptions=pixelate,fog")[2]
    assert err.splitlines()[-1].endswith("corruptions: 'pixelate,fog' is not allowed; these samples are no images")
    assert not (run / "shift.json").exists()
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 4)))
    assert "have shape (4,); it must be the run's, (5,)" in called(capsys, run, f"--ood={tmp_path / 'x.npz'}")[2]
    assert "resize: samples (4,) cannot" in called(capsys, run, f"--ood={tmp_path / 'x.npz'}", "--resize")[2]


def test_the_range_of_floats_follows_the_seed(tmp_path, capsys):
    run = finished(tmp_path / "run", 1, *vectors(tmp_path / "data.npz", train=1500))
    for seed in (0, 1):
        out = called(capsys, run, "--corruptions=shot_noise", "--severities=1", "--json", f"--seed={seed}")[1]
        assert json.loads(out)["values"] == values_of(FinishedRun(run).data(), seed).as_json()
    assert values_of(FinishedRun(run).data(), 0).as_json() != values_of(FinishedRun(run).data(), 1).as_json()


def test_pictures_that_cannot_be_read(tmp_path, capsys):
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(5):
                pixels = np.random.default_rng(index).integers(0, 256, (10, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    arguments = ["--data=ImageFolder", f"--data.root={tmp_path}", "--data.image_size=8", "--data.resize=8"]
    strict = finished(tmp_path / "strict", 1, *arguments)
    patient = finished(tmp_path / "patient", 1, *arguments, "--loader.on_bad_sample=skip")
    for index in range(4):
        (tmp_path / "val/ant" / f"{index}.png").write_text("torn")
    assert "cannot be read" in refused(capsys, strict, *QUICK)
    status, out, _ = called(capsys, patient, *QUICK, "--json")
    assert status == 0
    found = json.loads(out)
    assert 1 <= found["samples"] <= 5
    assert found["ood"]["sets"][0]["samples"] == 6
    assert found["ood"]["samples"] == 6
    for index in range(1, 5):
        (tmp_path / "val/bee" / f"{index}.png").write_text("torn")
    (tmp_path / "val/ant/4.png").write_text("torn")
    (tmp_path / "val/bee/0.png").write_text("torn")
    assert "no sample of the test split can be read" in refused(capsys, patient, *QUICK)


def test_one_member(tmp_path, capsys):
    run = finished(tmp_path / "run", 1, *SYNTHETIC)
    status, out, _ = called(capsys, run, *QUICK)
    assert status == 0
    found = json.loads((run / "shift.json").read_text())
    assert found["mean"]["2"]["diversity"]["disagreement"] is None
    for one in found["ood"]["sets"]:
        assert one["ensemble"]["mutual_information"] is one["ensemble"]["variance"] is None
        assert one["ensemble"]["entropy"] == one["member_mean"]["entropy"]
    assert "–" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--corruptions=gausian_noise"], "corruptions: 'gausian_noise' is not allowed; did you mean gaussian_noise"),
        (["--corruptions=zzz"], "corruptions: 'zzz' is not allowed; it must be common, all, or of gaussian_noise, "),
        (["--corruptions="], "corruptions: '' is not allowed"),
        (["--severities=0"], "severities: '0' is not allowed; it must be numbers from 1 to 5, separated by commas"),
        (["--severities=1,6"], "severities: '6' is not allowed"),
        (["--severities=weak"], "severities: 'weak' is not allowed"),
        (["--severities=2.5"], "severities: '2.5' is not allowed"),
        (["--severities="], "severities: '' is not allowed"),
        (["--severities=²"], "severities: '²' is not allowed"),
        (["--samples=0"], "samples: 0 is not allowed; it must be a whole number ≥ 1"),
        (["--samples=-3"], "samples: -3 is not allowed"),
        (["--samples=few"], "argument --samples: invalid int value: 'few'"),
        (["--seed=-1"], "seed: -1 is not allowed; it must be a whole number ≥ 0"),
        (["--ood.size=8"], "ood: not allowed without --ood DATA"),
        (["--resize"], "resize: not allowed without --ood DATA or --published FOLDER"),
        (["--ood=Digits", "--ood.seed"], "ood.seed: missing; give its value"),
        (["--ood=Digits"], "ood: samples of Digits have shape (1, 8, 8); it must be the run's, (3, 8, 8), or give"),
        (["--ood=Digit"], "ood: 'Digit' is not allowed; it must be one of "),
        (["--ood=Digits", "--ood.sed=1"], "ood.sed: no such field; did you mean ood.seed or ood.std?"),
        (["--ood=none.npz"], "ood: none.npz is missing or not an .npz file"),
        (["--ood=Arrays", "--ood.path=none.npz"], "ood.path: 'none.npz' cannot be read as an .npz file"),
        (["--sample=3"], "unrecognized arguments: --sample=3"),
        (["other"], "unrecognized arguments: other"),
    ],
)
def test_bad_input_is_one_line(run, capsys, arguments, said):
    assert refused(capsys, run, *arguments).startswith(said)


def test_runs_that_cannot_be_shifted(run, capsys, tmp_path):
    assert "is no folder; it must be a finished run" in refused(capsys, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "has no recipe.yaml" in refused(capsys, tmp_path / "empty")
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "ensemble")
    assert "finish the run first" in refused(capsys, unfinished)
    assert "the following arguments are required: run" in called(capsys)[2]
    torn = shutil.copytree(run, tmp_path / "torn")
    (torn / "ensemble" / OwnedFolder.weights(1)).write_bytes(b"no weights")
    assert "does not hold the member's weights" in refused(capsys, torn)


def test_data_that_are_gone_or_others(capsys, tmp_path):
    data = tmp_path / "data.npz"
    run = finished(tmp_path / "run", 2, *vectors(data))
    content = dict(np.load(data))
    data.unlink()
    assert refused(capsys, run).startswith("data.path: ")
    np.savez(data, **{name: x[:, :4] if x.ndim == 2 else x for name, x in content.items()})
    status, out, err = called(capsys, run)
    assert (status, out) == (2, "")
    assert "x: shape (" in err
    assert not (run / "shift.json").exists()


def test_a_result_is_replaced_whole_and_cleared_with_the_run(run, capsys):
    (run / "shift.json").write_text("old")
    assert refused(capsys, run, "--severities=9")
    assert (run / "shift.json").read_text() == "old"
    assert called(capsys, run, *QUICK)[0] == 0
    assert json.loads((run / "shift.json").read_text())["samples"] == 15
    OwnedFolder(run).clear()
    assert not (run / "shift.json").exists()


def test_help_names_every_corruption(capsys):
    with pytest.raises(SystemExit):
        shift_command(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    for name, corruption in CORRUPTIONS.items():
        assert f" {name} {corruption.text}" in out
