"""`dist-dash shift` on corrupted samples that others have published, and relative to a baseline."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from shifted import SYNTHETIC, finished
from test_shift_command import called, refused

from dist_dash.analysis.shift.corruption_error import Baseline, relative_to
from dist_dash.analysis.shift.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from dist_dash.analysis.shift.values import values_of
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.files import read_json

pytestmark = pytest.mark.usefixtures("not_a_rank")
KINDS = ("gaussian_noise", "fog")
CHOSEN = [f"--corruptions={','.join(KINDS)}", "--severities=1,4"]


def made_of(run, kind, severity):
    """What `shift` makes of all test samples, seed 0."""
    data = FinishedRun(run).data()
    values = values_of(data, 0)
    return [
        corrupted(data.test.evaluation(i), values, CORRUPTIONS[kind], severity, 0, i) for i in range(len(data.test))
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and its corrupted test samples in the manner of CIFAR-10-C."""
    folder = tmp_path_factory.mktemp("published")
    run = finished(folder / "run", 2, *SYNTHETIC)
    arrays = folder / "Synthetic-C"
    arrays.mkdir()
    for kind in KINDS:
        blocks = [np.stack(made_of(run, kind, severity)).transpose(0, 2, 3, 1) for severity in SEVERITIES]
        np.save(arrays / f"{kind}.npy", np.concatenate(blocks))
    np.save(arrays / "labels.npy", np.tile(FinishedRun(run).data().test.labels, 5).astype(np.uint8))
    return folder


@pytest.fixture
def here(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def as_json(capsys, *arguments):
    status, out, err = called(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out), err


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--samples=11"]])
@pytest.mark.parametrize("once", [False, True])
def test_arrays_give_what_the_same_corruptions_made_here_give(here, capsys, more, once):
    run, arrays = here / "run", here / "Synthetic-C"
    if once:
        np.save(arrays / "labels.npy", np.load(arrays / "labels.npy")[:30])
    expected, _ = as_json(capsys, run, *CHOSEN, *more)
    found, err = as_json(capsys, run, *CHOSEN, *more, f"--published={arrays}")
    assert err == ""
    assert found.pop("severities_from") == "published samples of Synthetic-C"
    assert expected.pop("severities_from") == "CIFAR-10-C, made by dist-dash"
    assert found == expected


def test_how_arrays_are_read_changes_nothing(here, capsys):
    run, arrays = here / "run", here / "Synthetic-C"
    first, _ = as_json(capsys, run, *CHOSEN, f"--published={arrays}")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("workers: 0", "workers: 2"))
    assert as_json(capsys, run, *CHOSEN, f"--published={arrays}")[0] == first


def test_no_temperature_is_fitted_on_what_may_have_been_corrupted(here, capsys):
    run, arrays = here / "run", here / "Synthetic-C"
    order = np.random.default_rng(0).permutation(30)
    for path in arrays.glob("*.npy"):
        content = np.load(path)
        np.save(path, content.reshape(5, 30, *content.shape[1:])[:, order].reshape(content.shape))
    found, err = as_json(capsys, run, *CHOSEN, f"--published={arrays}")
    assert err.startswith("shift: no temperature is fitted, ")
    assert (found["samples"], found["fitted_on"]) == (30, "no samples, hence none")
    assert found["corrupted"]["fog"]["4"]["ensemble"]["cal_nll"] is None
    every = made_of(run, "fog", 4)
    data, ensemble = FinishedRun(run).data(), FinishedRun(run).ensemble()
    probs = ensemble.predict(np.stack(every)).probs.numpy()
    entry = found["corrupted"]["fog"]["4"]
    assert entry["ensemble"]["accuracy"] == pytest.approx((probs.argmax(1) == data.test.labels).mean())
    # With validation samples there is no such doubt.
    validated = finished(here / "validated", 2, *SYNTHETIC, "--labels.validation=0.2")
    found, err = as_json(capsys, validated, *CHOSEN, "--samples=12", f"--published={arrays}")
    assert (found["samples"], found["fitted_on"], err) == (12, "8 clean validation samples", "")
    assert found["corrupted"]["fog"]["4"]["samples"] == 12


def test_images_of_another_size_fit_if_that_is_asked_for(here, capsys):
    run, arrays = here / "run", here / "Synthetic-C"
    for kind in KINDS:
        content = np.load(arrays / f"{kind}.npy")
        np.save(arrays / f"{kind}.npy", content.repeat(2, 1).repeat(2, 2))
    err = refused(capsys, run, *CHOSEN, f"--published={arrays}")
    assert err.endswith("have shape (3, 16, 16); it must be the run's, (3, 8, 8), or give --resize")
    assert as_json(capsys, run, *CHOSEN, f"--published={arrays}", "--resize")[0]["samples"] == 15


def test_arrays_that_do_not_fit_are_refused(here, capsys):
    run, arrays = here / "run", here / "Synthetic-C"
    whole = {path.name: path.read_bytes() for path in arrays.iterdir()}
    labels, fog = np.load(arrays / "labels.npy"), np.load(arrays / "fog.npy")

    def said(name=None, content=None, arguments=CHOSEN):
        if name is not None:
            np.save(arrays / name, content, allow_pickle=True)
        err = refused(capsys, run, *arguments, f"--published={arrays}")
        for file, data in whole.items():
            (arrays / file).write_bytes(data)
        return err

    assert said(arguments=["--severities=2"]).startswith(
        f"published: {arrays} lacks shot_noise; it holds fog, gaussian"
    )
    assert said("labels.npy", labels + 3) == "published: label 6 in labels.npy; the run knows the classes 0…3"
    assert "labels.npy differs between severities" in said("labels.npy", np.sort(labels))
    assert "fog.npy holds float64" in said("fog.npy", fog / 255)
    assert "fog.npy holds uint8 (149, 8, 8, 3)" in said("fog.npy", fog[1:])
    assert "fog.npy holds uint8 (30, 8, 8, 3)" in said("fog.npy", fog[:30])
    assert "labels.npy holds float64" in said("labels.npy", labels / 2)
    assert "labels.npy cannot be read as an array" in said("labels.npy", np.array([{}, 1], object))
    (arrays / "fog.npy").write_bytes(whole["fog.npy"][:1000])
    assert "fog.npy cannot be read as an array" in said()
    (arrays / "labels.npy").unlink()
    assert "labels.npy cannot be read as an array: [Errno 2] No such file" in said()
    err = refused(capsys, run, "--published=nowhere")
    assert err == "published: nowhere is no folder; it must hold arrays as CIFAR-10-C, or folders as ImageNet-C"


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """A run on image files, and its corrupted test images in the manner of ImageNet-C."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 9)):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    arguments = ["--data=ImageFolder", f"--data.root={tmp_path}", "--data.image_size=8", "--data.resize=8"]
    run = finished(tmp_path / "run", 2, *arguments)
    data = FinishedRun(run).data()
    for kind, group in zip(KINDS, ("noise/", ""), strict=True):
        for severity in SEVERITIES:
            for index, pixels in enumerate(made_of(run, kind, severity)):
                name = data.test.name(index).removeprefix(str(tmp_path / "val"))
                path = tmp_path / f"C/{group}{kind}/{severity}{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return tmp_path


def test_folders_give_what_the_same_corruptions_made_here_give(pictures, capsys):
    run, folder = pictures / "run", pictures / "C"
    expected, _ = as_json(capsys, run, *CHOSEN)
    found, err = as_json(capsys, run, *CHOSEN, f"--published={folder}")
    assert err == ""
    assert {**found, "severities_from": ""} == {**expected, "severities_from": ""}
    for severity in SEVERITIES:  # classes by name, whatever else is there
        for kind in ("noise/gaussian_noise", "fog"):
            shutil.copytree(folder / kind / str(severity) / "ant", folder / kind / str(severity) / "aardvark")
    again, err = as_json(capsys, run, *CHOSEN, f"--published={folder}")
    assert again == found
    assert err == "shift: 1 class folders that the run does not know are passed over, as 'aardvark'\n"


def test_folders_that_do_not_fit_are_refused(pictures, capsys):
    run, folder = pictures / "run", pictures / "C"
    (folder / "fog/4/bee/8.png").rename(folder / "fog/4/bee/9.png")
    assert "fog/4 holds other images than" in refused(capsys, run, *CHOSEN, f"--published={folder}")
    (folder / "fog/4/bee/9.png").rename(folder / "fog/4/bee/8.png")
    for path in (folder / "fog/4/bee").iterdir():
        Image.new("RGB", (9, 8)).save(path)
    assert "has the shape (3, 8, 9), and the first image (3, 8, 8)" in refused(
        capsys, run, *CHOSEN, f"--published={folder}"
    )
    (folder / "fog/4/bee").rename(folder / "fog/4/wasp")
    err = refused(capsys, run, *CHOSEN, f"--published={folder}")
    assert err.endswith("fog/4 has no folder of the class 'bee', which the run knows")
    err = refused(capsys, run, "--corruptions=snow", f"--published={folder}")
    assert err.endswith("lacks snow; it holds fog, gaussian_noise (choose by --corruptions)")
    shutil.rmtree(folder / "noise/gaussian_noise/1/ant")
    (folder / "noise/gaussian_noise/1/ant").mkdir()
    shutil.rmtree(folder / "noise/gaussian_noise/1/bee")
    (folder / "noise/gaussian_noise/1/bee").mkdir()
    assert "holds no images" in refused(
        capsys, run, "--corruptions=gaussian_noise", "--severities=1", f"--published={folder}"
    )


# -- mean corruption error ---------------------------------------------------------------------------------------------


def test_corruption_errors_are_those_of_the_definition(here, capsys):
    errors = {"clean": 0.25, "gaussian_noise": [0.4, 0.5, 0.6, 0.7, 0.8], "fog": [0.5, 0.5, 0.5, 0.75, 1.0]}
    (here / "base.json").write_text(json.dumps(errors))
    arguments = [here / "run", "--corruptions=gaussian_noise,fog,speckle_noise", "--severities=1,4"]
    found, _ = as_json(capsys, *arguments, f"--baseline={here / 'base.json'}")
    for who in ("ensemble", "member_mean"):
        error = {kind: [1 - found["corrupted"][kind][level][who]["accuracy"] for level in ("1", "4")] for kind in KINDS}
        clean = 1 - found["clean"][who]["accuracy"]
        ce = {"gaussian_noise": sum(error["gaussian_noise"]) / (0.4 + 0.7), "fog": sum(error["fog"]) / (0.5 + 0.75)}
        assert found["baseline"][who]["ce"] == pytest.approx(ce)
        assert found["baseline"][who]["mce"] == pytest.approx(sum(ce.values()) / 2)
        noise = (sum(error["gaussian_noise"]) - 2 * clean) / (0.4 + 0.7 - 2 * 0.25)
        fog = (sum(error["fog"]) - 2 * clean) / (0.5 + 0.75 - 2 * 0.25)
        assert found["baseline"][who]["relative_mce"] == pytest.approx((noise + fog) / 2)
    _, out, _ = called(capsys, *arguments, f"--baseline={here / 'base.json'}")
    assert f"ensemble {found['baseline']['ensemble']['mce']:.1%}" in " ".join(out.split())


def test_a_run_relative_to_itself_is_1(here, capsys):
    run = here / "run"
    as_json(capsys, run, *CHOSEN)
    found, _ = as_json(capsys, run, *CHOSEN, f"--baseline={run}")
    assert found["baseline"]["ensemble"]["ce"] == pytest.approx({"gaussian_noise": 1, "fog": 1})
    assert found["baseline"]["ensemble"]["mce"] == pytest.approx(1)


def test_hand_computed_corruption_errors():
    def entry(accuracy):
        return {who: {"accuracy": accuracy} for who in ("ensemble", "member_mean")}

    levels = {str(severity): entry(1 - 0.1 * severity) for severity in SEVERITIES}  # errors 0.1 … 0.5, mean 0.3
    found = {"clean": entry(0.9), "corrupted": {"fog": levels, "snow": {level: entry(0.5) for level in levels}}}
    # Fog: 0.3 / 0.6 = 0.5 and (0.3 − 0.1) / (0.6 − 0.2) = 0.5; snow: 0.5 / 0.4 = 1.25 and 0.4 / 0.2 = 2.
    result = relative_to(Baseline("b", 0.2, {"fog": 0.6, "snow": 0.4}), found)["ensemble"]
    assert (result["mce"], result["relative_mce"]) == (pytest.approx(0.875), pytest.approx(1.25))
    unknown = relative_to(Baseline("b", None, {"fog": 0.6, "snow": 0.4}), found)["ensemble"]
    assert (unknown["mce"], unknown["relative_mce"]) == (pytest.approx(0.875), None)


def test_baselines_that_say_nothing_are_refused(here, capsys):
    run, base = here / "run", here / "base.json"
    as_json(capsys, run, *CHOSEN)
    other = shutil.copytree(run, here / "other")

    def said(content, arguments=CHOSEN):
        base.write_text(content if isinstance(content, str) else json.dumps(content))
        return refused(capsys, run, *arguments, f"--baseline={base}")

    assert "base.json" in said("[1, 2")
    assert "must hold an object" in said([1, 2])
    assert "has gaussian_noise: None; it must be the errors of severities 1 to 5" in said({"fog": 0.5})
    assert "has gaussian_noise: 0.5; it must be the errors" in said({"gaussian_noise": 0.5, "fog": 0.5})
    assert "has fog: 1.5; it must be an error from 0 to 1" in said({"fog": [1.5] * 5, "gaussian_noise": [0.5] * 5})
    assert "has fog: x; it must be an error" in said({"fog": ["x"] * 5, "gaussian_noise": [0.5] * 5})
    assert "has no errors under fog" in said({"fog": [0] * 5, "gaussian_noise": [0.5] * 5})
    old = read_json(other / "shift.json", "run")
    assert "are of an older version; they must be of CIFAR-10-C" in said({**old, "severities_from": "an older version"})
    assert "are of ImageNet-C; they must be of CIFAR-10-C" in said({**old, "severities_from": "ImageNet-C"})
    assert "is not as `dist-dash shift` writes it" in said({**old, "clean": 3})
    err = refused(capsys, other, "--corruptions=fog", "--severities=2", f"--baseline={run}")
    assert "has fog: None" in err or "None; it must be an error" in err
    (other / "shift.json").unlink()
    assert "is no file" in refused(capsys, run, *CHOSEN, f"--baseline={other}")
