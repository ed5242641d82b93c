"""Pictures of `shift.json`: their numbers are its numbers, and they are not blank."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from shifted import SYNTHETIC, finished, vectors

from dist_dash.commands.shift import shift_command
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.files import SEAL
from dist_dash.report import shift_pictures as shift
from dist_dash.report.picture import NotHere

ALL = (shift.severity, shift.corruption_errors, shift.corruptions, shift.detection)


def shifted(path, members, *arguments, options=()):
    run = finished(path, members, *arguments)
    shift_command([str(run), "--severities=1,4", "--corruptions=contrast,impulse_noise", *options])
    return FinishedRun(run), json.loads((run / "shift.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shifted")
    (folder / "other.json").write_text(json.dumps({"contrast": [0.5] * 5, "impulse_noise": [0.25] * 5, "clean": 0.1}))
    return shifted(folder / "run", 2, *SYNTHETIC, options=[f"--baseline={folder / 'other.json'}"])


def colours(picture):
    file = io.BytesIO()
    picture.figure.savefig(file, format="png", dpi=40)
    return np.unique(np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3), axis=0)


@pytest.mark.parametrize("draw", ALL)
def test_a_picture_says_what_it_shows(made, draw):
    picture = draw(made[0])
    assert picture.name == picture.name.lower().replace("_", "-")
    assert len({len(column) for column in picture.data.values()}) == 1
    assert len(next(iter(picture.data.values()))) > 0
    assert all(ord(letter) >= 32 for letter in picture.caption + picture.title)
    assert len(colours(picture)) > 20


@pytest.mark.parametrize("draw", ALL)
def test_without_shift_json_there_is_nothing_to_draw(made, draw, tmp_path):
    run = shutil.copytree(made[0].path, tmp_path / "run")
    (run / "shift.json").unlink()
    with pytest.raises(NotHere, match="`dist-dash shift RUN` was not run"):
        draw(FinishedRun(run))


def test_names_are_different(made):
    assert len({draw(made[0]).name for draw in ALL}) == 4


def test_scores_against_severity(made):
    run, found = made
    data = shift.severity(run).data
    rows = {
        (line, severity): (accuracy, nll, ece)
        for line, severity, accuracy, nll, ece in zip(
            *(data[name] for name in ("line", "severity", "accuracy", "cal_nll", "cal_ece")), strict=True
        )
    }

    def three(scores):
        return scores["accuracy"], scores["cal_nll"], scores["cal_ece"]

    assert len(rows) == len(data["line"]) == 4 * 3
    for line in ("ensemble", "member_mean"):
        assert rows[line, 0] == three(found["clean"][line])
        assert rows[line, 4] == three(found["mean"]["4"][line])
    assert rows["contrast", 0] == three(found["clean"]["ensemble"])
    assert rows["contrast", 4] == three(found["corrupted"]["contrast"]["4"]["ensemble"])
    drawn = shift.severity(run).figure.axes[1].lines
    assert list(drawn[0].get_ydata()) == [rows["ensemble", s][1] for s in (0, 1, 4)]
    assert list(drawn[1].get_ydata()) == [rows["member_mean", s][1] for s in (0, 1, 4)]
    findings = shift.severity(run).findings
    assert f"{found['mean_corruption_error']['ensemble']:.2%}" in findings.values()
    hardest = min(
        found["corrupted"], key=lambda name: sum(e["ensemble"]["accuracy"] for e in found["corrupted"][name].values())
    )
    assert any(hardest in text for text in findings.values())


def test_errors_relative_to_a_baseline(made, tmp_path):
    run, found = made
    picture = shift.corruption_errors(run)
    (axes,) = picture.figure.axes
    for place, who in enumerate(("ensemble", "member_mean")):
        error = {
            kind: np.mean([1 - found["corrupted"][kind][level][who]["accuracy"] for level in ("1", "4")])
            for kind in ("contrast", "impulse_noise")
        }
        ce = [error["contrast"] / 0.5, error["impulse_noise"] / 0.25]
        assert [bar.get_width() for bar in axes.containers[place]] == pytest.approx(ce)
        assert axes.lines[place].get_xdata() == pytest.approx([sum(ce) / 2] * 2)
        assert picture.data[f"ce, {who}"] == pytest.approx(ce)
        assert f"{sum(ce) / 2:.1%}" in picture.findings.values()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["contrast", "impulse noise"]
    without = shutil.copytree(run.path, tmp_path / "run")
    (without / "shift.json").write_text(json.dumps({k: v for k, v in found.items() if k not in ("baseline", SEAL)}))
    with pytest.raises(NotHere, match="compared with no other classifier's"):
        shift.corruption_errors(FinishedRun(without))


def test_the_contact_sheet_shows_the_sample_itself(made):
    run, found = made
    picture = shift.corruptions(run)
    sample = run.data().test.evaluation(found["example"])
    drawn = [axes.images[0].get_array() for axes in picture.figure.axes]
    assert np.allclose(drawn[0], sample.transpose(1, 2, 0) / 255)
    assert len(drawn) == 2 * 3
    for image, change in zip(drawn, picture.data["mean_change"], strict=True):
        assert np.abs(np.asarray(image) - drawn[0]).mean() == pytest.approx(change)
    assert picture.data["severity"] == [0, 1, 4] * 2
    assert picture.data["mean_change"][0] == 0 < picture.data["mean_change"][1] < picture.data["mean_change"][2]


def test_distributions_and_curves(made):
    run, found = made
    picture = shift.detection(run)
    columns = list(zip(*picture.data.values(), strict=True))
    one = found["ood"]["sets"][0]
    shown = [row for row in columns if row[:3] == (one["name"], "histogram", "entropy")]
    assert [row[4] for row in shown] == one["histograms"]["entropy"]["in"]
    assert [row[5] for row in shown] == one["histograms"]["entropy"]["out"]
    assert [row[3] for row in shown] == one["histograms"]["entropy"]["edges"][:-1]
    shown = [row for row in columns if row[:3] == (one["name"], "roc", "variance")]
    assert [row[4] for row in shown] == one["roc"]["variance"]["fpr"]
    assert [row[5] for row in shown] == one["roc"]["variance"]["tpr"]
    assert len(picture.figure.axes) == 9
    assert f"{one['ensemble']['entropy']['auroc']:.3f}" in picture.figure.axes[0].get_xlabel()
    assert len(picture.findings) == 3


def test_names_of_files_are_drawn_letter_by_letter(tmp_path):
    file = tmp_path / ("$\\frac{<b>$" + "x" * 60 + ".npz")
    np.savez(file, x=np.zeros((4, 3, 8, 8), np.uint8))
    run, _ = shifted(tmp_path / "run", 1, *SYNTHETIC, options=[f"--ood={file}"])
    assert len(colours(shift.detection(run))) > 20


def test_vectors_have_no_contact_sheet_and_one_sample_no_calibration(tmp_path):
    run, _ = shifted(tmp_path / "run", 1, *vectors(tmp_path / "data.npz"), options=["--samples=1"])
    with pytest.raises(NotHere, match="no images"):
        shift.corruptions(run)
    assert "nll" in shift.severity(run).data
    (tmp_path / "data.npz").unlink()
    with pytest.raises(NotHere, match="data are not at hand"):
        shift.corruptions(FinishedRun(run.path))


def test_large_images_are_shown_small(tmp_path):
    run, _ = shifted(tmp_path / "run", 1, *SYNTHETIC, "--data.size=300", "--data.test=2")
    sheet = shift.corruptions(run).figure.axes
    assert max(sheet[0].images[0].get_array().shape) <= 150
