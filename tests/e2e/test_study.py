"""Studies on warm ranks: the bits of cold ones, whatever breaks or stops them, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from filelock import FileLock

from dist_dash.cli import main
from dist_dash.engine import Torch
from dist_dash.errors import RunFailed
from dist_dash.preemption import StopRequest
from dist_dash.study import results, warm
from dist_dash.study.execute import Executor
from dist_dash.study.plan import StudyRun
from dist_dash.study.warm import WarmRanks
from tests.e2e.runs import SMALL, assert_same_run, finish, step_of
from tests.support.ranks import CONTEXT, on_ranks

SHORT = [*SMALL, "--engine=Torch", "--max_steps=12", "--loader.batch_size=128", "--labels.validation=0.2"]
SHORT += ["--members=2", "--checkpoints.every_steps=4"]
METHODS = {
    "sgd": ["--method=SGD", "--optimizer.nesterov=true"],
    "sam": ["--method=SAM", "--loader.workers=1", "--labels.mixup=0.2"],
    "dash": ["--method=DASH", "--method.gamma=0.2", "--deterministic=false", "--seed=3"],
}


class Failing(Torch):
    """An engine whose second rank fails alone, in the middle of things, while the others wait for it."""

    def step(self) -> None:
        super().step()
        if self.exchange.step == 5 and self.exchange.layout.rank == 1:
            raise RunFailed("its own trouble")


class Witness(Torch):
    """An engine that writes down whether torch is asked for deterministic kernels.

    Args:
        file: to which a line is added.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def step(self) -> None:
        super().step()
        with Path(self.file).open("a") as file:
            file.write(f"{torch.are_deterministic_algorithms_enabled()}\n")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Ranks that are forked where torch is imported already; none of them, and none of their folders, is left."""
    on_ranks(1, int)  # the fork server stays
    before = set(alive())
    monkeypatch.setattr(warm, "CONTEXT", CONTEXT)
    monkeypatch.setattr(results, "report_of_folder", lambda folder, page, **_: page.write_text("drawn elsewhere"))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # as many threads a rank as the ranks that they are compared with
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    caught = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in caught.items():
        signal.signal(number, handler)
    wait_until(lambda: set(alive()) <= before)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert threading.active_count() == 1


def alive() -> list[int]:
    """Every process below this one."""
    below = psutil.Process().children(recursive=True)
    return [process.pid for process in below if process.status() != psutil.STATUS_ZOMBIE]


def wait_until(condition: Callable[[], Any], deadline: float = 60) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.01)


def when(condition: Callable[[], Any], act: Callable[[], None]) -> threading.Thread:
    """Do something in the background at a moment that comes."""

    def waiting() -> None:
        wait_until(condition)
        act()

    thread = threading.Thread(target=waiting)
    thread.start()
    return thread


# -- warm ranks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each method's run by processes of its own."""
    folder = tmp_path_factory.mktemp("cold")
    for name, arguments in METHODS.items():
        finish(folder / name, 2, 2, *SHORT, *arguments)
    return folder


def train(ranks: WarmRanks, run: Path, *arguments: str) -> int:
    return ranks.train([*SHORT, *arguments, f"--run={run}"], run.parent / "log")


def outcome(call: Callable[[], int]) -> str:
    try:
        return str(call())
    except RunFailed as error:
        return str(error)


def assert_same(ours: Path, theirs: Path) -> None:
    """Everything that a run leaves is the same, to the byte where it holds no times."""
    assert_same_run(ours, theirs)
    found = [{str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} for run in (ours, theirs)]
    assert found[0] == found[1]
    exact = [name for name in found[0] if name.startswith(("ensemble/", "trace/")) or name == "evaluation.json"]
    assert len(exact) >= 5
    for name in [*exact, "predictions.npz", "recipe.yaml", "DONE"]:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    environments = [json.loads((run / "environment.json").read_text()) for run in (ours, theirs)]
    assert environments[0] == environments[1]


def test_warm_ranks_train_as_cold_ones_in_any_order(cold: Path, tmp_path: Path) -> None:
    with WarmRanks(2) as ranks:
        for number, name in enumerate(["sgd", "sam", "dash", "dash", "sam", "sgd", "sgd"]):
            run = tmp_path / f"{number}-{name}"
            assert train(ranks, run, *METHODS[name]) == 0, (tmp_path / "log").read_text()
            processes = {process.pid for process in ranks._processes}
            assert_same(run, cold / name)
        assert train(ranks, run, *METHODS["sgd"]) == 0  # finished already
        assert {process.pid for process in ranks._processes} == processes
    assert f"{run} is finished already" in (tmp_path / "log").read_text()


def test_warm_ranks_hold_on_to_nothing(tmp_path: Path) -> None:
    with WarmRanks(2) as ranks:
        held = []
        for number in range(5):
            assert train(ranks, tmp_path / f"{number}", "--method=DASH", "--max_steps=2") == 0
            own = [psutil.Process(process.pid) for process in ranks._processes]
            held.append([(rank.num_fds(), rank.num_threads()) for rank in own])
        assert held[0] == held[-1], held
        assert list(Path(ranks._folder.name).iterdir()) == []


def test_warm_ranks_forget_what_a_recipe_asked_of_torch(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    witness = ["--engine=tests.e2e.test_study.Witness", f"--engine.file={seen}", "--members=1", "--max_steps=1"]
    with WarmRanks(1) as ranks:
        for number, asked in enumerate(["true", "false", "true"]):
            assert train(ranks, tmp_path / str(number), *witness, "--method=SGD", f"--deterministic={asked}") == 0
    assert seen.read_text().split() == ["True", "False", "True"]


def test_other_ranks_follow_bad_input_and_a_stop(cold: Path, tmp_path: Path) -> None:
    with WarmRanks(2) as ranks:
        assert train(ranks, tmp_path / "a", "--method=DASH", "--method.rho=3") == 2
        assert train(ranks, tmp_path / "a", "--method=SGD", "--loader.batch_size=4096") == 2  # in the middle of things
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign/letter").touch()
        assert train(ranks, tmp_path / "foreign", "--method=SGD") == 2
        (tmp_path / "sign").write_text("0.1")
        held = ["--engine=tests.e2e.faults.Held", f"--engine.sign={tmp_path / 'sign'}", *METHODS["sgd"]]
        striking = when(lambda: step_of(tmp_path / "b") >= 5, lambda: os.kill(ranks._processes[1].pid, signal.SIGUSR2))
        assert train(ranks, tmp_path / "b", *held) == 75
        striking.join()
        (tmp_path / "sign").unlink()
        assert train(ranks, tmp_path / "b", *held) == 0
        assert_same_run(tmp_path / "b", cold / "sgd")
        assert not (tmp_path / "a").exists()
    log = (tmp_path / "log").read_text()
    assert "dist-dash: method.rho: no such field" in log
    assert "dist-dash: loader.batch_size: 4096 × " in log
    assert "SIGUSR2: stopped at step " in log


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_in_a_run_is_named(rank: int, cold: Path, tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    orders.write_text(f"{rank} 6 {signal.SIGKILL}")
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={orders}", *METHODS["sgd"], "--loader.workers=2"]
    with WarmRanks(2) as ranks:
        with pytest.raises(RunFailed, match=rf"^rank {rank} died \(exit status -9\)$"):
            train(ranks, tmp_path / "run", *struck)
        assert ranks._processes == []
        assert train(ranks, tmp_path / "run", *struck) == 0
        assert_same_run(tmp_path / "run", cold / "sgd")
        os.kill(ranks._processes[rank].pid, signal.SIGKILL)  # while nothing is to be done
        with pytest.raises(RunFailed, match=rf"^rank {rank} died \(exit status -9\)$"):
            train(ranks, tmp_path / "other", *METHODS["sgd"])
        assert train(ranks, tmp_path / "other", *METHODS["sgd"]) == 0
    assert_same(tmp_path / "other", cold / "sgd")


def test_a_rank_that_fails_alone_is_not_waited_for(cold: Path, tmp_path: Path) -> None:
    """It leaves, as a cold one does; the others do not wait until the deadline of ten minutes."""
    with WarmRanks(2) as ranks:
        began = time.monotonic()
        assert train(ranks, tmp_path / "run", *METHODS["sgd"], "--engine=tests.e2e.test_study.Failing") == 1
        assert time.monotonic() - began < 60
        assert train(ranks, tmp_path / "other", *METHODS["sgd"]) == 0
    assert_same(tmp_path / "other", cold / "sgd")
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("dist-dash: ")]
    assert len(said) == 2
    assert "dist-dash: rank 1: its own trouble" in said
    assert all("its own trouble" in line for line in said)


def test_a_stop_that_comes_before_the_ranks_is_not_lost(tmp_path: Path) -> None:
    with WarmRanks(2) as ranks:
        ranks.stop()
        ended = outcome(lambda: train(ranks, tmp_path / "run", "--method=SGD", "--max_steps=100000"))
    # In the latter case they had no handler for it yet.
    assert ended in {"75", "rank 0 died (exit status -15)", "rank 1 died (exit status -15)"}


def test_groups_start_their_ranks_at_the_same_time(tmp_path: Path) -> None:
    """What the ranks are to find in the environment is there for all of them, and gone afterwards."""
    before = dict(os.environ)
    statuses: list[int] = []

    def one(number: int) -> None:
        with WarmRanks(1) as ranks:
            arguments = [*SHORT, "--members=1", "--method=SGD", "--max_steps=1", f"--run={tmp_path / str(number)}"]
            statuses.append(ranks.train(arguments, tmp_path / "log"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 4
    assert dict(os.environ) == before


def test_the_executor_tries_a_killed_run_again(cold: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "orders").write_text(f"1 6 {signal.SIGKILL}")
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={tmp_path / 'orders'}"]
    runs = [
        StudyRun("selection/a", (*SHORT, *METHODS["sgd"], *struck)),
        StudyRun("selection/b", (*SHORT, *METHODS["dash"])),
    ]
    seen: list[str] = []
    with Executor(tmp_path, 2, 1, 1, StopRequest(), 2) as executor:
        assert executor.run(runs, lambda run: seen.append(run.name))
    assert seen == ["selection/a", "selection/b"]
    assert_same_run(tmp_path / "selection/a", cold / "sgd")
    assert_same(tmp_path / "selection/b", cold / "dash")
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "study: selection/a broke; trying again: rank 1 died (exit status -9)"
    assert said[1:] == ["study: 2 of 2 runs, about 0 min left; finished selection/b"]


# -- the command -------------------------------------------------------------------------------------------------------


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
        patch.setattr(warm, "CONTEXT", CONTEXT)
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
    for name in ("comparison.md", "comparison.csv", "comparison.json", "report.html"):
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
    known = json.loads(files[0].read_text())
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
    sign.write_text("0.03")
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
    from dist_dash.study import command

    def struck(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command, "check_commands", struck)
    monkeypatch.setattr(WarmRanks, "train", lambda *_: pytest.fail("it was to stop"))
    path = study(tmp_path)
    assert main(["study", str(path), f"--folder={tmp_path / 'runs'}"]) == 75
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["base.yaml", "study.lock", "study.yaml"]


def test_a_signal_while_results_are_written(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_dash.study import command

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
        f"study: {TRIALS[0]} broke; trying again: {why}",
        f"study: {TRIALS[0]} broke: {why}",
        f"dist-dash: {TRIALS[0]} broke twice ({why}); see {log}. The same command goes on with what is left",
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
    (tmp_path / "sign").write_text("0.1")
    began = started(tmp_path, *command)
    try:
        wait_until(lambda: step_of(folder / TRIALS[0]) >= 2, 120)
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
    wait_until(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks), 30)
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
        _, said = began.communicate(timeout=120)
    finally:
        began.kill()
        began.communicate()
    assert began.returncode == 75, said.decode()
    assert said.decode().splitlines()[1:] == ["study: SIGINT: stopping; run the same command to continue"]
    assert not (tmp_path / "runs" / TRIALS[0] / "DONE").exists()
