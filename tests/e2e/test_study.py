"""Studies: the same bits whatever breaks or stops them, refused where they are wrong, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from filelock import FileLock

from dist_dash.commands.cli import main
from dist_dash.files import SEAL
from dist_dash.study import study_results, warm
from dist_dash.study.warm import WarmRanks
from tests.e2e.runs import assert_same_run, step_of
from tests.e2e.studies import quick_ranks, wait_until, when
from tests.support.ranks import FORKED


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(study_results, "report_of_folder", lambda folder, page, **_: page.write_text("drawn elsewhere"))
    with quick_ranks(monkeypatch, tmp_path):
        yield


def study(folder: Path, **changes: Any) -> Path:
    """A study of four short trials and four reported runs; its updates take longer while `folder/sign` is there."""
    content: dict[str, Any] = {
        "title": "A tiny study",
        "members": 2,
        "seeds": [0, 1],
        "selection": {"score": "nll", "seeds": [100]},
        "flatness": {"rho": 0.1, "steps": 1, "most_steps": 4, "most_probes": 2, "dtype": "float32"},
        "conditions": {"noisy": {"labels.noise": 0.2}},
        "methods": {
            "Plain": {"fields": {"method": "SGD"}, "trials": [{"optimizer.lr": 0.01}, {"optimizer.lr": 0.3}]},
            "DASH": {"fields": {"method": "DASH"}, "trials": [{"method.rho_div": 0.3}, {"method.rho_loss": 0.3}]},
        },
        "recipe": {
            "data": "Digits",
            "labels": {"validation": 0.25},
            "model": {"class_path": "MLP", "init_args": {"hidden": 8}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
            "engine": {"class_path": "tests.e2e.faults.Held", "init_args": {"sign": str(folder / "sign")}},
            "loader": {"batch_size": 256},
            "epochs": 2,
            "record": {"progress": False, "every": 1},
            "checkpoints": {"every_epochs": 0},
        },
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study, run in one go by ranks of its own."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "CONTEXT", FORKED)
        patch.setattr(os, "cpu_count", lambda: 2)
        assert (
            main(["study", str(study(folder)), f"--folder={folder / 'runs'}", f"--results={folder / 'results'}"]) == 0
        )
    return folder


TRIALS = [f"selection/noisy/{method}-t{number}-s100" for method in ("plain", "dash") for number in (0, 1)]


def reported(folder: Path) -> list[str]:
    """The runs that a study has chosen to report, in its order."""
    return list(json.loads((folder / "runs/groups.json").read_text())["runs"])


def assert_same_study(ours: Path, theirs: Path) -> None:
    for name in ("runs/selection.json", "runs/groups.json", "results/selection.md"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    for name in [*TRIALS, *reported(theirs)]:
        assert_same_run(ours / "runs" / name, theirs / "runs" / name)


def test_a_whole_study(undisturbed: Path) -> None:
    folder = undisturbed / "runs"
    done = {str(path.parent.relative_to(folder)) for path in folder.rglob("DONE")}
    assert done == {*TRIALS, *reported(undisturbed)}
    assert len(done) == 4 + 4
    selection = json.loads((folder / "selection.json").read_text())
    for method in ("Plain", "DASH"):
        found = selection["conditions"]["noisy"][method]
        best = found["trials"][found["chosen"]]
        assert best["mean"] == min(trial["mean"] for trial in found["trials"])
        ((field, value),) = best["fields"].items()
        group, _, part = field.partition(".")
        name = f"{method.lower()}-t{found['chosen']}"
        for seed in (0, 1):
            recipe = yaml.safe_load((folder / f"reported/noisy/{name}-s{seed}/recipe.yaml").read_text())
            assert recipe[group]["init_args"][part] == value
            assert recipe["seed"] == seed
            assert recipe["labels"] == {"noise": 0.2, "validation": 0.25, "smoothing": 0.0, "mixup": 0.0}
    assert "| **" in (undisturbed / "results/selection.md").read_text()
    for name in ("comparison.md", "comparison.csv", "report.html"):
        content = (undisturbed / "results" / name).read_text()
        assert "Plain" in content
        assert "DASH" in content
    for run in reported(undisturbed):
        assert json.loads((folder / run / "flatness.json").read_text())["rho"] == 0.1


def test_other_options_of_flatness_are_measured_again(undisturbed: Path, tmp_path: Path) -> None:
    """Nothing else is done again; what has these options already is left alone."""
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    content = yaml.safe_load((undisturbed / "tiny.yaml").read_text())
    content["flatness"]["rho"] = 0.2
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    files = [tmp_path / "runs" / run / "flatness.json" for run in reported(undisturbed)]
    known = {name: value for name, value in json.loads(files[0].read_text()).items() if name != SEAL}
    files[0].write_text(json.dumps({**known, "rho": 0.2}))
    assert main(["study", str(tmp_path / "tiny.yaml"), f"--folder={tmp_path / 'runs'}", f"--results={tmp_path}"]) == 0
    found = [json.loads(file.read_text()) for file in files]
    assert {one["rho"] for one in found} == {0.2}
    assert found[0]["mean"] == known["mean"]
    before = [json.loads((undisturbed / "runs" / run / "flatness.json").read_text()) for run in reported(undisturbed)]
    assert all(one["mean"] != other["mean"] for one, other in list(zip(found, before, strict=True))[1:])


def test_what_the_test_split_says_has_no_say_in_the_choice(undisturbed: Path, tmp_path: Path) -> None:
    """Scores of the test split that would turn every choice: the choice stays."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    folder = tmp_path / "copy/runs"
    for number, evaluation in enumerate(sorted(folder.rglob("evaluation.json"))):
        content = json.loads(evaluation.read_text())
        del content[SEAL]
        content["ensemble"] = dict.fromkeys(content["ensemble"], float(number % 2) - 1000)
        evaluation.write_text(json.dumps(content))
    for predictions in folder.rglob("predictions.npz"):
        predictions.write_bytes(b"")
    before = (folder / "selection.json").read_bytes()
    (folder / "selection.json").unlink()
    path = study_again(undisturbed, tmp_path)
    assert main(["study", str(path), f"--folder={folder}", f"--results={tmp_path}"]) == 0
    assert (folder / "selection.json").read_bytes() == before


def study_again(undisturbed: Path, tmp_path: Path) -> Path:
    """The file of the finished study, elsewhere."""
    return Path(shutil.copy(undisturbed / "tiny.yaml", tmp_path / "tiny.yaml"))


def test_a_finished_study_has_nothing_left_to_do(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WarmRanks, "train", lambda *_: pytest.fail("nothing is left to be trained"))
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "runs").rglob("metrics.jsonl")}
    arguments = ["study", str(undisturbed / "tiny.yaml"), f"--folder={undisturbed / 'runs'}"]
    assert main([*arguments, f"--results={undisturbed / 'results'}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_stopped_and_continued_it_is_the_same_study(undisturbed: Path, tmp_path: Path, capfd: Any) -> None:
    path, sign, folder = study_again(undisturbed, tmp_path), undisturbed / "sign", tmp_path / "runs"
    command = ["study", str(path), f"--folder={folder}", f"--results={tmp_path / 'results'}"]
    sign.write_text("0.2 3")
    strikes = [(TRIALS[1], signal.SIGTERM), (reported(undisturbed)[1], signal.SIGINT)]
    try:
        for run, number in strikes:
            hit = when(lambda run=run: step_of(folder / run) >= 3, lambda n=number: os.kill(os.getpid(), n))  # type: ignore[misc]
            assert main(command) == 75
            hit.join()
            assert (folder / run / "CONTINUE").exists()
            assert not (tmp_path / "results").exists()
            said = capfd.readouterr().err
            assert f"study: {signal.Signals(number).name}: stopping; run the same command to continue\n" in said
    finally:
        sign.unlink()
    assert main(command) == 0
    assert f"about 0 min left; finished {reported(undisturbed)[-1]}" in capfd.readouterr().err
    assert_same_study(tmp_path, undisturbed)


def test_two_groups_make_the_same_study(undisturbed: Path, tmp_path: Path) -> None:
    path = study_again(undisturbed, tmp_path)
    assert (
        main(["study", str(path), f"--folder={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}", "--groups=2"])
        == 0
    )
    assert_same_study(tmp_path, undisturbed)


def test_a_signal_before_anything_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_dash.study import run as command

    def struck(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command, "check_commands", struck)
    monkeypatch.setattr(WarmRanks, "train", lambda *_: pytest.fail("it was to stop"))
    path = study(tmp_path)
    assert main(["study", str(path), f"--folder={tmp_path / 'runs'}"]) == 75
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["base.yaml", "study.lock", "study.yaml"]


def test_a_signal_while_results_are_written(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_dash.study import run as command

    def struck(plan: Any, choice: Any, folder: Path, results: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(plan, choice, folder, results)

    write = command.write_results
    monkeypatch.setattr(command, "write_results", struck)
    arguments = ["study", str(undisturbed / "tiny.yaml"), f"--folder={undisturbed / 'runs'}"]
    assert main([*arguments, f"--results={tmp_path / 'results'}"]) == 0
    assert (tmp_path / "results/selection.md").read_bytes() == (undisturbed / "results/selection.md").read_bytes()


def test_a_run_that_breaks_twice_ends_the_study(tmp_path: Path, capfd: Any) -> None:
    sick = {"class_path": "tests.e2e.faults.Sick", "init_args": {"first": 0, "steps": 99}}
    content = yaml.safe_load(study(tmp_path).read_text())
    path = study(tmp_path, recipe={**content["recipe"], "engine": sick, "checks": {"max_skipped": 2}})
    assert main(["study", str(path), f"--folder={tmp_path / 'runs'}"]) == 1
    said = capfd.readouterr().err.splitlines()
    why = "member 1: no finite gradient for 2 updates in a row; lower its learning rate"
    log = tmp_path / "runs" / f"{TRIALS[0]}.log"
    assert said[1:] == [
        f"study: {TRIALS[0]} failed; trying again: {why}",
        f"study: {TRIALS[0]} failed: {why}",
        f"dist-dash: {TRIALS[0]} failed twice ({why}); see {log}. The same command continues with the remaining runs",
    ]
    assert log.read_text().count(why) == 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "base.yaml",
        "selection",
        "study.lock",
        "study.yaml",
    ]


def test_input_that_a_run_refuses_ends_the_study(tmp_path: Path, capfd: Any) -> None:
    content = yaml.safe_load(study(tmp_path).read_text())
    path = study(tmp_path, recipe={**content["recipe"], "loader": {"batch_size": 4096}})
    assert main(["study", str(path), f"--folder={tmp_path / 'runs'}"]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[1].startswith("dist-dash: loader.batch_size: 4096 × ")
    assert said[1].endswith(f"(study, run {TRIALS[0]})")


def test_a_folder_belongs_to_one_study_at_a_time(tmp_path: Path, capfd: Any) -> None:
    path, folder = study(tmp_path), tmp_path / "runs"
    folder.mkdir()
    with FileLock(folder / "study.lock"):
        assert main(["study", str(path), f"--folder={folder}"]) == 2
    assert f"dist-dash: folder: {folder} is in use by another `dist-dash study`" in capfd.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["study.lock"]


def started(tmp_path: Path, *command: str) -> subprocess.Popen[bytes]:
    """As a user starts it, in a process group as a terminal makes it; ranks are new interpreters."""
    return subprocess.Popen(
        [sys.executable, "-m", "dist_dash", *command],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def lone(tmp_path: Path) -> list[str]:
    """The command of a study of two runs."""
    methods = {"Plain": {"fields": {"method": "SGD"}, "trials": [{}]}}
    return ["study", str(study(tmp_path, methods=methods, seeds=[0])), f"--folder={tmp_path / 'runs'}"]


def test_a_study_that_is_killed_takes_its_ranks_along(tmp_path: Path, capfd: Any) -> None:
    """Killed without a warning, it can be run again at once."""
    command, folder = lone(tmp_path), tmp_path / "runs"
    (tmp_path / "sign").write_text("1 2")
    began = started(tmp_path, *command)
    try:
        wait_until(lambda: step_of(folder / TRIALS[0]) >= 2)
        (tmp_path / "sign").write_text("200")  # by themselves they would go on for long
        ranks = psutil.Process(began.pid).children(recursive=True)
        assert len(ranks) >= 2
        environment = json.loads((folder / TRIALS[0] / "environment.json").read_text())
        assert environment["threads"] == 1  # of cores // (groups · members)
        assert main(command) == 2
        assert "is in use by another `dist-dash study`; wait for it" in capfd.readouterr().err
    finally:
        began.kill()
        began.communicate()
    wait_until(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks))
    (tmp_path / "sign").unlink()
    shutil.rmtree(tmp_path / "temporary")  # nobody was left to clear it
    (tmp_path / "temporary").mkdir()
    assert main(command) == 0
    assert (folder / "reported/noisy/plain-t0-s0/DONE").exists()


def test_ctrl_c_while_the_ranks_are_started(tmp_path: Path) -> None:
    """The whole foreground process group hears it: the study says so in one line, the ranks nothing."""
    began = started(tmp_path, *lone(tmp_path))
    try:
        wait_until(lambda: len(psutil.Process(began.pid).children()) >= 3, 120)  # two ranks, the resource tracker
        os.killpg(began.pid, signal.SIGINT)
        _, said = began.communicate(timeout=300)
    finally:
        began.kill()
        began.communicate()
    assert began.returncode == 75, said.decode()
    assert said.decode().splitlines()[1:] == ["study: SIGINT: stopping; run the same command to continue"]
    assert not (tmp_path / "runs" / TRIALS[0] / "DONE").exists()
