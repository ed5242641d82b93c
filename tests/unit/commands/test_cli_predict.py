import json

import numpy as np
import pytest
from complaints import cli_complaint
from exported import images

from dist_dash.commands.cli import main
from dist_dash.ensembles.ensemble import load_ensemble

pytestmark = pytest.mark.usefixtures("not_a_rank")


def test_predict_writes_what_the_ensemble_says(run, tmp_path, capsys):
    assert main(["predict", str(run), str(tmp_path / "x.npz"), "--output", str(tmp_path / "p.npz")]) == 0
    with np.load(tmp_path / "x.npz") as given, np.load(tmp_path / "p.npz") as found:
        expected = load_ensemble(run).predict(given["x"])
        assert np.allclose(found["log_probs"], expected.member_log_probs.numpy(), rtol=0, atol=1e-6)
        assert found["log_probs"].dtype == np.float32
        assert np.array_equal(found["labels"], given["y"])
    assert main(["evaluate", "--predictions", str(tmp_path / "p.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 7


def test_predict_writes_the_mean_probabilities_beside_the_labels(run, tmp_path):
    main(["predict", str(run), str(tmp_path / "x.npz"), "--output", str(tmp_path / "p.npz")])
    with np.load(tmp_path / "p.npz") as found:
        assert {"probs", "log_probs", "labels"} <= set(found.files)


def test_predict_needs_no_labels(run, tmp_path):
    np.savez(tmp_path / "only_x.npz", x=images(7).numpy())
    assert main(["predict", str(run), str(tmp_path / "only_x.npz"), "--output", str(tmp_path / "p.npz")]) == 0
    with np.load(tmp_path / "p.npz") as found:
        assert set(found.files) == {"probs", "log_probs"}
        assert np.allclose(found["probs"], np.exp(found["log_probs"]).mean(0), rtol=0, atol=1e-6)


def test_predict_names_what_is_wrong(run, tmp_path, capsys):
    np.savez(tmp_path / "no_x.npz", images=np.zeros((2, 1, 8, 8)))
    np.savez(tmp_path / "shape.npz", x=np.zeros((2, 3, 8, 8)))
    (tmp_path / "text.npz").write_text("no archive")
    x, out = tmp_path / "x.npz", tmp_path / "p.npz"

    def refused(*arguments: object) -> str:
        return cli_complaint(capsys, "predict", *arguments)

    assert f"input: {tmp_path / 'none.npz'} is missing" in refused(run, tmp_path / "none.npz", "--output", out)
    assert f"input: {tmp_path / 'text.npz'} is missing or not" in refused(run, tmp_path / "text.npz", "--output", out)
    assert "holds ['images']; it must hold x" in refused(run, tmp_path / "no_x.npz", "--output", out)
    assert "x: shape (2, 3, 8, 8)" in refused(run, tmp_path / "shape.npz", "--output", out)
    assert "is no folder; it must be a finished run" in refused(tmp_path / "nowhere", x, "--output", out)
    assert "a file in a folder that exists" in refused(run, x, "--output", tmp_path / "nowhere/p.npz")
    assert "an .npz file" in refused(run, x, "--output", tmp_path / "p.csv")
    assert "batch-size: 0" in refused(run, x, "--output", out, "--batch-size", "0")


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": images(2).numpy(), "y": np.array(["cat", "dog"])},
        {"x": images(2).numpy(), "y": np.zeros(3, int)},
        {"x": np.full((2, 1, 8, 8), "a")},
        {"x": images(2).numpy(), "y": np.array([0, 5])},
        {"x": images(2).numpy(), "y": np.array([0, -1])},
        {"x": images(2).numpy() / 255},
        {"x": np.full((2, 1, 8, 8), np.nan)},
        {"x": (images(2).numpy() / 255 - 0.4) / 0.3},
    ],
)
def test_predict_names_arrays_of_another_kind(run, tmp_path, capsys, arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    cli_complaint(capsys, "predict", run, tmp_path / "bad.npz", "--output", tmp_path / "p.npz")
    assert not (tmp_path / "p.npz").exists()
