"""Commands that read a run's data again refuse other data, before they change a file; new classes are passed over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from complaints import cli_complaint
from shifted import finished

from dist_dash.commands.cli import main
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.ensembles.trained_data import NOT_COMPARED
from dist_dash.errors import BadInput
from dist_dash.files import SEAL
from dist_dash.report.loss_landscape import loss_plane, loss_within, segments
from dist_dash.report.picture import NotHere
from tests.e2e.pictures import picture_folder

pytestmark = pytest.mark.usefixtures("not_a_rank")
COMMANDS = {
    "evaluate": [],
    "flatness": ["--samples=4", "--steps=1", "--probes=2"],
    "shift": ["--corruptions=contrast", "--severities=1", "--samples=8"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Path:
    """A finished run of three members on pictures of the classes ant, bee and cat."""
    run = finished(tmp_path / "run", 3, *picture_folder(root, 4))
    for name in ("evaluation.json", "predictions.npz", "flatness.json", "shift.json"):
        (run / name).write_text("of the run's own data")
    return run


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def renamed_class(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "ant").rename(root / split / "wasp")


def removed_picture(root: Path) -> None:
    (root / "val/bee/02.png").unlink()


CHANGES = {
    renamed_class: "(class 'ant' is missing; class 'wasp' is added)",
    removed_picture: "(test: 11 samples instead of 12 (class 'bee': 3 instead of 4))",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_other_data_than_the_runs_are_refused(command: str, change, run: Path, root: Path, capsys) -> None:
    change(root)
    before = files(run)
    text = cli_complaint(capsys, command, run, *COMMANDS[command])
    assert f"data: these are not the data that {run} was trained on {CHANGES[change]}; bring those back" in text
    assert files(run) == before


def test_pictures_of_a_report_say_why_they_are_missing(run: Path, root: Path) -> None:
    removed_picture(root)
    for picture in (loss_plane, segments, loss_within):
        with pytest.raises(NotHere, match=r"Data: these are not the data that .* \(test: 11 samples instead of 12"):
            picture(FinishedRun(run))


def scores(run: Path, capsys, *arguments: str) -> tuple[dict, str]:
    assert main(["evaluate", str(run), *arguments, "--json"]) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def new_class(root: Path) -> None:
    """A class whose name comes first, so that the numbers of all others change."""
    for split in ("train", "val"):
        shutil.copytree(root / split / "cat", root / split / "aardvark")


def test_classes_that_are_new_are_left_out(run: Path, root: Path, capsys) -> None:
    before, said = scores(run, capsys)
    assert said == ""
    new_class(root)
    after, said = scores(run, capsys)
    assert after == before
    assert said == f"data: class 'aardvark' is new since {run} was trained; their samples are left out\n"
    for command, arguments in COMMANDS.items():
        assert main([command, str(run), *arguments]) == 0
        assert capsys.readouterr().err.count("'aardvark'") == 1
    removed_picture(root)
    assert "class 'aardvark' is added; train: 16 samples instead of 12" in cli_complaint(capsys, "evaluate", run)


def test_data_that_have_moved_are_the_same(run: Path, root: Path, capsys) -> None:
    before, _ = scores(run, capsys)
    elsewhere = root.rename(root.with_name("elsewhere"))
    assert "data.root" in cli_complaint(capsys, "evaluate", run)
    given = ["--data=ImageFolder", f"--data.root={elsewhere}", "--data.image_size=8", "--data.resize=8"]
    assert scores(run, capsys, *given) == ({**before, "data": "ImageFolder"}, "")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["init_args"]["root"] = str(elsewhere)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert scores(run, capsys) == (before, "")


def test_other_data_on_request_are_matched_by_the_names_of_their_classes(
    run: Path, root: Path, tmp_path: Path, capsys
) -> None:
    """Other samples, another number of them, classes missing or added: what counts is that all names are known."""
    other = tmp_path / "other"
    given = ["--data=ImageFolder", f"--data.root={other}", "--data.image_size=8", "--data.resize=8"]
    picture_folder(other, 5)
    all_classes, said = scores(run, capsys, *given)
    assert (all_classes["samples"], said) == (15, "")
    new_class(other)
    assert scores(run, capsys, *given) == (all_classes, "data: class 'aardvark' is left out\n")
    for split in ("train", "val"):
        shutil.rmtree(other / split / "aardvark")
        shutil.rmtree(other / split / "ant")
    output = tmp_path / "output"
    found, said = scores(run, capsys, *given, f"--output={output}")
    assert (found["samples"], said) == (10, "data: class 'ant' is without samples\n")
    assert np.load(output / "predictions.npz")["labels"].tolist() == [1] * 5 + [2] * 5  # the numbers of the run
    renamed = other / "val/bee", other / "train/bee"
    for folder in renamed:
        folder.rename(folder.with_name("wasp"))
    text = cli_complaint(capsys, "evaluate", run, *given)
    assert "ImageFolder has other classes: class 'wasp' is unknown to the run, classes 'ant', 'bee' are mi" in text


def test_runs_that_kept_no_digest_are_read_and_that_is_said_once(run: Path, root: Path, capsys) -> None:
    before, _ = scores(run, capsys)
    spec = json.loads((run / "ensemble/ensemble.json").read_text())
    del spec["data"], spec[SEAL]
    (run / "ensemble/ensemble.json").write_text(json.dumps({**spec, "format": 1}))
    assert scores(run, capsys) == (before, f"{NOT_COMPARED}\n")
    for command, arguments in COMMANDS.items():
        assert main([command, str(run), *arguments]) == 0
        assert capsys.readouterr().err.count(NOT_COMPARED) == 1
    renamed_class(root)  # the names of the classes are known nevertheless
    assert CHANGES[renamed_class] in cli_complaint(capsys, "evaluate", run)


def test_the_shape_of_samples_is_the_runs(run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["init_args"]["image_size"] = 7
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(BadInput, match=r"shape \(3, 7, 7\) instead of \(3, 8, 8\)"):
        FinishedRun(run).data()
