import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from complaints import cli_complaint
from finished_by_hand import CLASSES, SHAPE, finished_run, images

from dist_dash.analysis.evaluate import evaluate_run
from dist_dash.commands.cli import main
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import ArraySplit, UnreadableSample
from dist_dash.ensembles.ensemble import load_ensemble, save_member
from dist_dash.ensembles.weight_cosines import weight_cosines
from dist_dash.metrics.predictions import save_predictions
from dist_dash.metrics.summary import evaluate
from dist_dash.models import MLP, SmallCNN
from dist_dash.runs.owner import OwnedFolder

pytestmark = pytest.mark.usefixtures("not_a_rank")
NOISY = ["--labels.noise=0.4", "--labels.validation=0.2", "--seed=3"]


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "run", arguments=NOISY)[0]


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def expected(run, split):
    """By the exported ensemble's own `predict`, without batches and ranks."""
    of = run.data().evaluation_split(split)
    samples = np.stack([of.evaluation(index) for index in range(len(of))])
    log_probs = load_ensemble(run.path).predict(samples).member_log_probs.numpy().astype(np.float32)
    cosines = weight_cosines(run.ensemble().networks)
    return log_probs, of.labels, evaluate(log_probs, of.labels, split, 3, weight_cosines=cosines)


def close(ours, theirs):
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for name in theirs:
            close(ours[name], theirs[name])
    elif isinstance(theirs, list):
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    else:
        assert ours == theirs


# -- a run's own data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "validation", "train"])
def test_every_split_has_files_of_its_own(run, split, capsys):
    given = [] if split == "test" else ["--split", split]
    assert main(["evaluate", str(run.path), *given, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    suffix = "" if split == "test" else f"_{split}"
    assert printed == json.loads((run.path / f"evaluation{suffix}.json").read_text())
    log_probs, labels, result = expected(run, split)
    found = arrays(run.path / f"predictions{suffix}.npz")
    np.testing.assert_array_equal(found["labels"], labels)
    np.testing.assert_allclose(found["log_probs"], log_probs, atol=1e-5)
    np.testing.assert_allclose(found["probs"], np.exp(log_probs).mean(0), atol=1e-6)
    close(printed, result)
    assert printed["split"] == split
    assert [path.name for path in run.path.glob("evaluation*")] == [f"evaluation{suffix}.json"]


def test_the_training_split_has_the_labels_that_were_trained_on(run):
    recipe, ours = run.command.recipe, run.data()
    kept = {"label_noise": recipe.labels.noise, "validation": recipe.labels.validation}
    noisy = DataSet(recipe.data.load(), recipe.augment, seed=recipe.seed, **kept)  # as the trainer makes it
    assert noisy.noisy.any()
    np.testing.assert_array_equal(ours.labels, noisy.labels)
    np.testing.assert_array_equal(ours.evaluation_split("validation").labels, noisy.validation.labels)
    assert (ours.mean, ours.std, ours.uint8) == (noisy.mean, noisy.std, noisy.uint8)


def test_the_function_says_what_the_command_says(run, capsys):
    assert main(["evaluate", str(run.path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    before = sorted(run.path.iterdir())
    assert json.loads(json.dumps(evaluate_run(run.path, "validation", write=False)))["split"] == "validation"
    assert json.loads(json.dumps(evaluate_run(run.path))) == printed
    assert sorted(run.path.iterdir()) == before


def test_a_run_that_starts_over_clears_its_scores(run):
    for split in ("test", "validation", "train"):
        evaluate_run(run.path, split)
    OwnedFolder(run.path).clear()
    assert not [*run.path.glob("evaluation*"), *run.path.glob("predictions*")]


def test_the_tables_are_shown(run, capsys):
    assert main(["evaluate", str(run.path)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for text in ("test split, 45 samples", "member 2", "member mean", "ensemble", "between members"):
        assert text in shown.out


def test_the_size_of_a_batch_changes_nothing(run, tmp_path):
    one = evaluate_run(run.path, write=False)
    recipe = yaml.safe_load(run.folder.recipe.read_text())
    recipe["loader"]["batch_size"] = 45
    run.folder.recipe.write_text(yaml.safe_dump(recipe))
    close(evaluate_run(run.path, write=False), one)


# -- sick members, unreadable samples ----------------------------------------------------------------------------------


def fall_ill(run, member):
    network = run.ensemble().networks[member]
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save_member(run.folder.ensemble / run.folder.weights(member), network)


def test_a_sick_member_is_left_out_and_named(run, capsys):
    fall_ill(run, 1)
    assert main(["evaluate", str(run.path), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "left out, because predictions are not finite: member 1\n"
    found = json.loads(shown.out)
    assert (found["left_out"], len(found["members"])) == ([1], 2)
    kept = arrays(run.folder.predictions)
    assert np.isnan(kept["log_probs"][1]).all()
    np.testing.assert_allclose(kept["probs"], np.exp(kept["log_probs"][[0, 2]]).mean(0), atol=1e-6)
    assert np.shape(found["diversity"]["pairwise"]["weight_cosine"]) == (2, 2)
    assert np.isfinite(found["diversity"]["weight_cosine"])


def test_strict_refuses_a_sick_member(run, capsys):
    fall_ill(run, 1)
    assert "member 1 are not finite" in cli_complaint(capsys, "evaluate", run.path, "--strict")
    for member in (0, 2):
        fall_ill(run, member)
    assert "every member" in cli_complaint(capsys, "evaluate", run.path)


def test_unreadable_samples_are_named_and_left_out(tmp_path, capsys, monkeypatch):
    run, _ = finished_run(tmp_path / "run", arguments=["--loader.on_bad_sample=skip"])
    read = ArraySplit.evaluation

    def broken(split, index):
        if index in (7, 44):
            raise UnreadableSample(f"image {index}", "torn")
        return read(split, index)

    whole = evaluate_run(run.path, write=False)
    monkeypatch.setattr(ArraySplit, "evaluation", broken)
    assert main(["evaluate", str(run.path), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "unreadable sample left out: image 44\nunreadable sample left out: image 7\n"
    assert (json.loads(shown.out)["samples"], whole["samples"]) == (43, 45)
    kept = arrays(run.folder.predictions)
    np.testing.assert_array_equal(kept["labels"], np.delete(run.data().test.labels, [7, 44]))
    assert kept["log_probs"].shape == (3, 43, CLASSES)

    def torn(split, index):
        raise UnreadableSample(f"image {index}", "torn")

    monkeypatch.setattr(ArraySplit, "evaluation", torn)
    assert "none of 45 samples of the test split can be read" in cli_complaint(capsys, "evaluate", run.path)


# -- other data --------------------------------------------------------------------------------------------------------


def test_other_data_of_the_same_kind(run, tmp_path, capsys):
    x, y = images(33, seed=5), np.arange(33) % CLASSES
    np.savez(tmp_path / "new.npz", x=x, y=y)
    source = {"x_train": x[:20], "y_train": y[:20], "x_test": x, "y_test": y}
    np.savez(tmp_path / "source.npz", **source)
    before = {path: path.read_bytes() for path in run.path.rglob("*.*")}
    assert main(["evaluate", str(run.path), "--data", str(tmp_path / "new.npz"), "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    fields = ["--data", "Arrays", "--data.path", str(tmp_path / "source.npz"), "--json"]
    assert main(["evaluate", *fields, str(run.path)]) == 0
    test = json.loads(capsys.readouterr().out)
    assert (
        main(
            [
                "evaluate",
                str(run.path),
                *fields[:2],
                f"--data.path={tmp_path / 'source.npz'}",
                "--split=train",
                "--json",
            ]
        )
        == 0
    )
    train = json.loads(capsys.readouterr().out)
    assert {path: path.read_bytes() for path in run.path.rglob("*.*")} == before
    log_probs = load_ensemble(run.path).predict(x).member_log_probs.numpy().astype(np.float32)
    cosines = weight_cosines(run.ensemble().networks)
    for found, n, split, data in (
        (given, 33, "given", str(tmp_path / "new.npz")),
        (test, 33, "test", "Arrays"),
        (train, 20, "train", "Arrays"),
    ):
        result = evaluate(log_probs[:, :n], y[:n], split, 3, weight_cosines=cosines)
        close(found, {**result, "data": data})


def test_output_takes_the_files(run, tmp_path, capsys):
    np.savez(tmp_path / "new.npz", x=images(9), y=np.arange(9) % CLASSES)
    target = tmp_path / "a/b"
    assert main(["evaluate", str(run.path), "--data", str(tmp_path / "new.npz"), "--output", str(target)]) == 0
    assert "given split of new.npz, 9 samples" in capsys.readouterr().out
    assert json.loads((target / "evaluation.json").read_text())["samples"] == 9
    assert arrays(target / "predictions.npz")["log_probs"].shape == (3, 9, CLASSES)
    assert main(["evaluate", str(run.path), "--split=validation", "--output", str(target)]) == 0
    assert json.loads((target / "evaluation.json").read_text())["split"] == "validation"
    assert not run.folder.evaluation_of("validation").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "data: {file} is missing or not an .npz file"),
        ({"x": images(3)}, "data: {file} holds ['x']; it must hold x, samples [N, …], and y"),
        ({"x": images(3), "y": np.zeros(2, int)}, "holds int64 (2,); it must hold 3 whole numbers"),
        ({"x": images(3), "y": np.zeros(3)}, "holds float64 (3,); it must hold 3 whole numbers"),
        (
            {"x": images(3), "y": np.array([0, 4, 0])},
            "data: y of {file}: label 4 is not allowed; labels must lie in 0",
        ),
        (
            {"x": images(3)[..., :5], "y": np.zeros(3, int)},
            "data: x of {file}: shape (3, 1, 6, 5) is not allowed; it must be [N, 1, 6, 6] with N ≥ 1",
        ),
        (
            {"x": images(3) / 255, "y": np.zeros(3, int)},
            "trained on bytes (uint8, 0 … 255) and normalises them itself; multiply by 255",
        ),
        ({"x": np.full((3, *SHAPE), np.inf, np.float32), "y": np.zeros(3, int)}, "NaN or infinite"),
        ({"x": np.full((1, *SHAPE), "a"), "y": np.zeros(1, int)}, "holds <U1, which are no numbers"),
    ],
)
def test_other_data_that_do_not_fit_are_named(run, tmp_path, capsys, content, complaint):
    file = tmp_path / "bad.npz"
    if content is not None:
        np.savez(file, **content)
    assert complaint.format(file=file) in cli_complaint(capsys, "evaluate", run.path, "--data", file)


def test_other_sources_that_do_not_fit_are_named(run, tmp_path, capsys):
    def refused(*arguments):
        return cli_complaint(capsys, "evaluate", run.path, *arguments)

    assert "data: 'Digit' is not allowed" in refused("--data=Digit")
    assert "data: classes: 10 is not allowed; it must be 4, as in the run's data" in refused("--data=Digits")
    assert "data.size: no such field" in refused("--data=Digits", "--data.size=3")
    assert "data.path: missing" in refused("--data=Arrays")
    assert "data.path: missing; give its value" in refused("--data=Arrays", "--data.path")
    assert "data.path: not allowed without --data" in refused("--data.path=x.npz")
    assert "data.path: no such field; an .npz" in refused("--data=x.npz", "--data.path=x.npz")
    np.savez(tmp_path / "y.npz", x=images(3), y=np.zeros(3, int))
    assert "split: 'test' is not allowed; it must be left out" in refused("--data", tmp_path / "y.npz", "--split=test")
    data = tmp_path / "data.npz"
    assert "split: 'validation' does not exist" in refused("--data=Arrays", f"--data.path={data}", "--split=validation")


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_options_that_do_not_go_together(run, tmp_path, capsys):
    def refused(*arguments):
        return cli_complaint(capsys, "evaluate", *arguments)

    assert "split" in refused(run.path, "--split=best")
    for option in ("--split=test", "--data=Digits", f"--output={tmp_path / 'x'}"):
        assert "not allowed with --predictions" in refused("--predictions=p.npz", option)
    (tmp_path / "file").touch()
    assert "output: " in refused(run.path, "--output", tmp_path / "file")
    assert "another folder than a run's" in refused(run.path, "--output", run.path)
    assert "split: 'validation' does not exist here" in refused(
        finished_run(tmp_path / "other")[0].path, "--split=validation"
    )


def test_runs_that_are_not_whole(run, tmp_path, capsys):
    def refused():
        return cli_complaint(capsys, "evaluate", run.path)

    good = run.folder.recipe.read_text()
    fields = yaml.safe_load(good)
    run.folder.recipe.write_text(yaml.safe_dump({**fields, "loader": {"batches": 3}}))
    assert "loader does not fit this version" in refused()
    run.folder.recipe.write_text(yaml.safe_dump({**fields, "data": {"class_path": "nowhere.Data"}}))
    assert "data: " in refused()
    run.folder.recipe.write_text(yaml.safe_dump({**fields, "data": None}))
    assert "data: " in refused()
    run.folder.recipe.write_text(good)
    (tmp_path / "data.npz").unlink()
    assert "data.path: " in refused()
    shutil.rmtree(run.folder.ensemble)
    assert "holds no exported ensemble" in refused()


# -- given predictions -------------------------------------------------------------------------------------------------


def test_given_predictions_of_any_precision(tmp_path, capsys):
    generator = np.random.default_rng(0)
    log_probs = np.log(generator.dirichlet(np.ones(7), size=(2, 30)))
    labels = generator.integers(7, size=30).astype(np.uint8)
    for dtype in (np.float16, np.float32, np.float64):
        np.savez(tmp_path / "p.npz", log_probs=log_probs.astype(dtype), labels=labels, more=np.zeros(2))
        assert main(["evaluate", "--predictions", str(tmp_path / "p.npz"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == evaluate(log_probs.astype(dtype), labels, "given", None)
    sick = log_probs.copy()
    sick[0, 0] = np.nan
    np.savez(tmp_path / "p.npz", log_probs=sick, labels=labels)
    assert main(["evaluate", "--predictions", str(tmp_path / "p.npz")]) == 0
    assert "member 0" in capsys.readouterr().err
    assert "member 0 are not finite" in cli_complaint(
        capsys, "evaluate", "--predictions", tmp_path / "p.npz", "--strict"
    )


@pytest.mark.parametrize("labels", [None, np.array([1, 0], np.uint8)])
def test_saved_predictions_are_float32_with_their_mean(tmp_path, labels):
    probs = np.array([[[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [0.75, 0.25]]])
    with np.errstate(divide="ignore"):
        save_predictions(tmp_path / "p.npz", np.log(probs), labels)
    found = arrays(tmp_path / "p.npz")
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "log_probs": ("float32", (2, 2, 2)),
        "probs": ("float32", (2, 2)),
        **({} if labels is None else {"labels": ("int64", (2,))}),
    }
    np.testing.assert_allclose(found["probs"], [[0.75, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(np.exp(found["log_probs"]), probs, rtol=1e-6)


# -- weights -----------------------------------------------------------------------------------------------------------


class Weights(torch.nn.Module):
    def __init__(self, a, b, frozen=0.0):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.tensor(a)), torch.nn.Parameter(torch.tensor(b))
        self.frozen = torch.nn.Parameter(torch.tensor([frozen]), requires_grad=False)


def test_cosines_of_weights_by_hand():
    """(3, 4, 0), (0, 4, 3), (−3, −4, 0), 0."""
    members = [
        Weights([3.0, 4.0], [0.0], 7.0),
        Weights([0.0, 4.0], [3.0]),
        Weights([-3.0, -4.0], [0.0]),
        Weights([0.0, 0.0], [0.0]),
    ]
    expected = [[1, 0.64, -1, 0], [0.64, 1, -0.64, 0], [-1, -0.64, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(weight_cosines(members), expected, atol=1e-12)


def test_cosines_of_unlike_members_are_not_known(tmp_path):
    run, networks = finished_run(tmp_path / "run", [SmallCNN(width=2), MLP(hidden=4)])
    assert weight_cosines(networks) is None
    assert evaluate_run(run.path)["diversity"]["weight_cosine"] is None
    run, networks = finished_run(tmp_path / "alike/run", [MLP(hidden=4), MLP(hidden=4)])
    flat = [np.concatenate([p.detach().double().numpy().ravel() for p in network.parameters()]) for network in networks]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert evaluate_run(run.path)["diversity"]["weight_cosine"] == pytest.approx(cosine, rel=1e-9)
