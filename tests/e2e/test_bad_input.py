"""Whatever a user gets wrong: one line that says what and what is allowed, exit status 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.pictures import picture_folder, vectors
from tests.e2e.runs import SMALL, finish, lines_of, start, step_of, until
from tests.support.ranks import Ranks

QUICK = ["--engine=Torch", "--max_steps=6"]


def said(ranks: Ranks) -> list[str]:
    """Every line that any of the ranks has printed, on stdout or stderr."""
    return [line for rank in range(len(ranks.logs)) for line in ranks.output(rank).splitlines() if line.strip()]


def refusal(run: Path, world: int, members: int, *arguments: str) -> str:
    """The one line with which the ranks refuse to start, or to go on."""
    before = files(run)
    ranks = start(run, world, members, *QUICK, *arguments)
    assert ranks.results() == [("value", 2)] * world, said(ranks)
    lines = said(ranks)
    assert len(lines) == 1, lines
    assert lines[0].startswith("dist-dash: ")
    assert files(run) == before
    return lines[0].removeprefix("dist-dash: ")


def files(run: Path) -> dict[str, bytes] | None:
    """What a folder holds, but for the note of who used it last; None where there is no folder."""
    if not run.exists():
        return None
    return {str(p): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "owner.json"}


WRONG = {
    "an unknown field": (["--loader.batchsize=3"], "loader.batchsize: no such field; did you mean loader.batch_size?"),
    "a wrong type": (["--epochs=x"], "epochs: 'x' is not allowed; it must be a whole number"),
    "out of range": (["--labels.noise=1.5"], "labels.noise: 1.5 is not allowed; it must be a number in [0, 1)"),
    "an unknown class": (["--data=Nope"], "data: 'Nope' is not allowed; it must be one of Arrays, "),
    "a list of another length": (
        ['--models=[{"class_path": "MLP"}]'],
        "models: 1 is not allowed; it must be one per member (2 members)",
    ),
    "too large a batch": (["--loader.batch_size=4096"], "loader.batch_size: 4096 × "),
    "own order for a method that compares": (["--loader.order=own"], "loader.order: own is not allowed with method DA"),
    "weights that are not there": (["--init=/nowhere/a.safetensors"], "init: '/nowhere/a.safetensors' cannot be read"),
    "a network of the user's own that is not there": (
        ["--model=Custom", "--model.target=tests.e2e.pictures:two_to_many"],
        "model.target: 'tests.e2e.pictures' has no 'two_to_many'; did you mean 'two_too_many'?",
    ),
    "a network with other logits": (
        ["--model=Custom", "--model.target=tests.e2e.pictures:two_too_many"],
        "model: gives logits of shape (2, 12) for 2 samples; it must be (2, 10)",
    ),
    "a network for other data": (
        ["--model=Custom", "--model.target=tests.e2e.pictures:needs_other_data"],
        "model: cannot take samples of shape [1, 8, 8] (",
    ),
    "an engine that cannot do it": (["--engine=DeepSpeed", "--engine.zero=3"], "engine.zero: 3 shards the parameters"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_in_one_line(wrong: str, tmp_path: Path) -> None:
    arguments, expected = WRONG[wrong]
    found = refusal(tmp_path / "run", 2, 2, *arguments)
    assert found.startswith(expected), found


def test_more_than_one_thing_wrong_is_still_one_line(tmp_path: Path) -> None:
    found = refusal(tmp_path / "run", 2, 2, "--labels.noise=2", "--nope=3", "--epochs=x", "--models=[]")
    assert found.partition(":")[0] in ("labels.noise", "nope", "epochs", "models")


def test_ranks_that_members_do_not_divide(tmp_path: Path) -> None:
    found = refusal(tmp_path / "run", 3, 2)
    assert found == "members: 2 does not divide the world size 3; start a multiple of it"


def test_two_classes_leave_nothing_to_disagree_on(tmp_path: Path) -> None:
    data = vectors(tmp_path / "two.npz", classes=2)
    found = refusal(tmp_path / "run", 2, 2, *data)
    assert found == ("method.classes: non_target leaves one of 2 classes without the true class; it must be all")
    finish(tmp_path / "run", 2, 2, *QUICK, *data, "--method.classes=all")
    assert (tmp_path / "run/DONE").exists()


def test_a_data_folder_that_is_missing_or_empty(tmp_path: Path) -> None:
    root, run = tmp_path / "pictures", tmp_path / "run"
    data = ["--data=ImageFolder", f"--data.root={root}"]
    assert refusal(run, 2, 2, *data).startswith(f"data.root: '{root}' is no folder; it must hold train/ and val/")
    (root / "train").mkdir(parents=True)
    assert refusal(run, 2, 2, *data).startswith(f"data.train: '{root / 'train'}' has no subfolders; it must hold ")
    (root / "train/ant").mkdir()
    (root / "val/ant").mkdir(parents=True)
    assert refusal(run, 2, 2, *data).startswith(f"data.train: '{root / 'train/ant'}' has no images; it must hold ")


@pytest.mark.parametrize(
    ("train", "test", "found"),
    [
        ([1, 2, 3], [1, 2, 3], "data: labels in the train split run from 1 to 3; give --data.first_label 1"),
        ([0, 2, 4], [0, 2, 4], "data: labels there are 0, 2, 4 and must follow each other from 0; "),
        ([0, 1, 2], [0, 1, 3], "data: label 3 in the test split has no sample in the train split, "),
    ],
    ids=["from 1", "gaps", "in the test split alone"],
)
def test_labels_that_do_not_number_the_classes(tmp_path: Path, train: list[int], test: list[int], found: str) -> None:
    x = np.zeros((24, 5), np.float32)
    labels = {"y_train": np.resize(train, 24), "y_test": np.resize(test, 24)}
    np.savez(tmp_path / "data.npz", x_train=x, x_test=x, **labels)
    data = ["--data=Arrays", f"--data.path={tmp_path / 'data.npz'}", "--augment.pad_crop=0", "--labels.noise=0.4"]
    assert refusal(tmp_path / "run", 1, 1, *data).startswith(found)


def test_files_passed_over_are_said_once(tmp_path: Path) -> None:
    """By the first of two ranks."""
    data = picture_folder(tmp_path / "pictures")
    place = next(path for path in (tmp_path / "pictures/train").iterdir() if path.is_dir())
    for name in ("notes.txt", "a.heic", "b.heic"):
        (place / name).touch()
    ranks = start(tmp_path / "run", 2, 2, *QUICK, *data)
    assert ranks.results() == [("value", 0)] * 2, said(ranks)
    remark = "data.train: passed over 3 of other endings (.heic 2, .txt 1)"
    assert [line for line in said(ranks) if "passed over" in line] == [remark]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_picture_is_named_or_passed_over(workers: int, tmp_path: Path) -> None:
    data = [*picture_folder(tmp_path / "pictures"), f"--loader.workers={workers}"]
    bad = tmp_path / "pictures/train/bee/03.png"
    bad.write_bytes(bad.read_bytes()[:60])
    ranks = start(tmp_path / "run", 2, 2, *QUICK, *data)
    assert ranks.results() == [("value", 2)] * 2
    (line,) = said(ranks)
    assert line.startswith(f"dist-dash: data: '{bad}' cannot be read (")
    assert line.endswith("repair or remove it, or let loader.on_bad_sample: skip pass over it")
    # Passed over, it is so by all members alike: their samples are compared at every step.
    ranks = start(tmp_path / "skip", 2, 2, *QUICK, *data, "--loader.on_bad_sample=skip")
    assert ranks.results() == [("value", 0)] * 2
    assert said(ranks).count(f"unreadable sample passed over: {bad}") == 1


def test_a_corrupt_picture_that_only_some_ranks_read(tmp_path: Path) -> None:
    """Replicas read different samples: what one of them cannot read is said once, and no other rank waits for it."""
    data = picture_folder(tmp_path / "pictures")
    bad = tmp_path / "pictures/val/ant/07.png"  # in the second batch: the second replica's
    bad.write_bytes(b"no picture")
    ranks = start(tmp_path / "run", 4, 2, *QUICK, *data, "--checks.deadline=3600")
    assert ranks.results() == [("value", 2)] * 4
    (line,) = said(ranks)
    assert line.startswith(f"dist-dash: data: '{bad}' cannot be read (")
    ranks = start(tmp_path / "skip", 4, 2, *QUICK, *data, "--loader.on_bad_sample=skip")
    assert ranks.results() == [("value", 0)] * 4
    text = f"unreadable sample left out of the test split: {bad}"
    assert text in said(ranks)
    assert text in [line["text"] for line in lines_of(tmp_path / "skip") if line["kind"] == "event"]
    assert json.loads((tmp_path / "skip/evaluation.json").read_text())["samples"] == 35


# -- run folders ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two members that was asked to stop in its second step of six, and did so after the next."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "orders").write_text(f"1 1 {signal.SIGTERM}")
    ranks = start(folder / "run", 2, 2, *QUICK, *struck(folder / "run"))
    assert ranks.results() == [("value", 75)] * 2, ranks.output(0)
    return folder / "run"


def struck(run: Path) -> list[str]:
    return ["--engine=tests.e2e.faults.Struck", f"--engine.orders={run.with_name('orders')}"]


OTHERWISE = {
    "method.rho_div 0.05 → 0.2": (2, 2, ["--method.rho_div=0.2"]),
    "optimizer.lr 0.05 → 0.1; seed 0 → 4": (2, 2, ["--seed=4", "--optimizer.lr=0.1"]),
    "members 2 → 3": (3, 3, []),
    "replicas 1 → 2": (4, 2, []),
    "max_steps 6 → 7": (2, 2, ["--max_steps=7"]),
}


@pytest.mark.parametrize("difference", OTHERWISE)
def test_a_run_that_was_started_otherwise_is_not_continued(difference: str, stopped: Path) -> None:
    world, members, arguments = OTHERWISE[difference]
    found = refusal(stopped, world, members, *struck(stopped), *arguments)
    how = "use another --run, --extend, or --fresh" if "max_steps" in difference else "use another --run, or --fresh"
    assert found == f"run: {stopped} was started with other settings ({difference}); {how}"
    assert (stopped / "CONTINUE").exists()


def test_harmless_differences_are_allowed(stopped: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    changed = ["--record.every=3", "--checkpoints.keep=1", "--loader.workers=1", "--checks.deadline=500"]
    ranks = start(run, 2, 2, *QUICK, *struck(stopped), *changed)
    assert ranks.results() == [("value", 0)] * 2
    assert f"continuing {run} at step 3 of 6" in said(ranks)
    assert [line["step"] for line in lines_of(run) if line["kind"] == "train"] == [1, 2, 3, 6]
    assert len(list((run / "checkpoints").glob("step_*"))) == 1


def test_a_folder_in_use(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start(run, 2, 2, "--engine=Torch", "--max_steps=100000")
    try:
        until(lambda: step_of(run) >= 1, first)
        second = start(run, 2, 2, *QUICK)
        assert second.results() == [("value", 2)] * 2
        (line,) = said(second)
        owner = f"process {first.processes[0].pid} on "
        assert line.startswith(f"dist-dash: run: {run} is in use by {owner}")
        assert line.endswith("; stop that run or use another --run")
        first.signal(signal.SIGTERM, [1])
        assert first.results() == [("value", 75)] * 2
    finally:
        first.signal(signal.SIGKILL)
    assert (run / "CONTINUE").exists()


def test_a_folder_with_something_else_in_it(tmp_path: Path) -> None:
    run = tmp_path / "thesis"
    run.mkdir()
    (run / "chapter_1.tex").write_text("years of work")
    found = refusal(run, 2, 2)
    assert found == f"run: {run} holds files that are not a run's; it must be empty, new, or a run folder"
    found = refusal(run / "chapter_1.tex", 2, 2)
    assert found == f"run: {run / 'chapter_1.tex'} is a file; it must be a folder"
    found = refusal(Path("/dev/null/run"), 2, 2)
    assert found == "run: /dev/null/run cannot be written to (Not a directory); use another --run"


def test_weights_to_start_from_that_do_not_fit(tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a.weight": np.zeros((3, 4), np.float32)}, weights)
    found = refusal(tmp_path / "run", 2, 2, f"--init={weights}")
    assert found.startswith(f"init: '{weights}' does not fit the network; ")


# -- started without torchrun ----------------------------------------------------------------------------------------


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m dist_dash train` as a user types it."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    command = [sys.executable, "-m", "dist_dash", "train", *SMALL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_the_command_that_starts_the_ranks_refuses_before_it_does(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = alone(f"--run={run}", "--members=2", "--method.rho=1")
    assert done.returncode == 2
    assert done.stderr.startswith("dist-dash: method.rho: no such field; ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not run.exists()


def test_what_the_ranks_refuse_is_said_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = alone(
        f"--run={run}", "--members=2", "--data=ImageFolder", f"--data.root={tmp_path / 'no'}", "--engine=Torch"
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (f"dist-dash: data.root: '{tmp_path / 'no'}' is no folder; it must hold train/ and val/\n")
    assert done.stdout == ""
    assert not run.exists()
