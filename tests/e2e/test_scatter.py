"""Members trained alone: to the bit what they become among the others, wherever they were stopped on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from dist_dash.commands.cli import main
from dist_dash.files import SEAL
from tests.e2e.runs import SMALL, finish, lines_of, start
from tests.support.ranks import Ranks

EVERYTHING = ["--labels.mixup=0.4", "--labels.smoothing=0.1", "--max_steps=50"]  # 42 updates are an epoch
MODELS = [{"class_path": "MLP", "init_args": {"hidden": 8, "dropout": 0.3}}, {"class_path": "SmallCNN"}]
VARIANTS = {
    "sgd": (1, ["--method=SGD", "--engine=Torch"]),
    "sgd-own-order": (1, ["--method=SGD", "--loader.order=own", "--labels.validation=0.1", "--loader.workers=1"]),
    "sgd-replicas": (2, ["--method=SGD", "--engine.zero=1", "--loader.batch_size=16"]),
    "sam": (1, ["--method=SAM", "--init=shared", "--loader.accumulation=2", "--loader.batch_size=16"]),
    "sam-replicas": (2, ["--method=SAM", "--engine=Torch", "--loader.order=own", "--loader.batch_size=16"]),
    "sam-architectures": (1, ["--method=SAM", "--engine=Torch", f"--models={json.dumps(MODELS)}"]),
}


def assert_member_of(together: Path, alone: Path, member: int) -> None:
    """Weights, predictions and every recorded number of a member equal what it became among the others."""
    files = [path.name for path in (alone / "ensemble").iterdir()]
    name = f"member_{member:02d}.safetensors"
    assert sorted(files) == ["ensemble.json", name]
    a, b = (safetensors.numpy.load_file(run / "ensemble" / name) for run in (alone, together))
    assert set(a) == set(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    specs = [json.loads((run / "ensemble/ensemble.json").read_text()) for run in (alone, together)]
    for spec in specs:
        del spec[SEAL]
    assert specs[0] == {**specs[1], "members": [specs[1]["members"][member]]}
    a, b = (np.load(run / "predictions.npz") for run in (alone, together))
    np.testing.assert_array_equal(a["log_probs"], b["log_probs"][[member]])
    np.testing.assert_array_equal(a["labels"], b["labels"])
    # Cosines between members are known to members together only.
    ours, theirs = (
        [line for line in lines_of(run) if line["kind"] not in ("event", "ascent")] for run in (alone, together)
    )
    assert [line["kind"] for line in ours] == [line["kind"] for line in theirs]
    assert any(line["kind"] == "eval" for line in ours)
    for one, other in zip(ours, theirs, strict=True):
        if one["kind"] == "eval":
            assert one["members"] == [other["members"][member]]
            continue
        assert set(one) == set(other)
        for key, value in one.items():
            if key != "timing":
                assert value == ([other[key][member]] if isinstance(value, list) else other[key]), (one["step"], key)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_member_alone_becomes_what_it_becomes_among_the_others(variant: str, tmp_path: Path) -> None:
    replicas, arguments = VARIANTS[variant]
    finish(tmp_path / "together", 2 * replicas, 2, *EVERYTHING, *arguments)
    for member in (0, 1) if replicas == 1 else (1,):
        alone = tmp_path / f"alone_{member}"
        finish(alone, replicas, 2, *EVERYTHING, *arguments, f"--member={member}")
        assert_member_of(tmp_path / "together", alone, member)


@pytest.mark.parametrize(("replicas", "number"), [(1, signal.SIGKILL), (2, signal.SIGTERM)])
def test_a_member_that_was_stopped_alone_goes_on(replicas: int, number: int, tmp_path: Path) -> None:
    orders, alone = tmp_path / "orders", tmp_path / "alone"
    struck = ["--method=SAM", "--engine=tests.e2e.faults.Struck", f"--engine.orders={orders}"]
    struck.append(f"--loader.batch_size={32 // replicas}")
    finish(tmp_path / "together", 2 * replicas, 2, *EVERYTHING, *struck)
    for step in (12, 46):
        orders.write_text(f"{replicas - 1} {step} {number}")
        ranks = start(alone, replicas, 2, *EVERYTHING, *struck, "--member=1")
        expected = ("killed", signal.SIGKILL) if number == signal.SIGKILL else ("value", 75)
        assert ranks.results() == [expected] * replicas, ranks.output(0)
    finish(alone, replicas, 2, *EVERYTHING, *struck, "--member=1")
    assert [line["text"] for line in lines_of(alone) if line["kind"] == "event"][-1].startswith("continuing ")
    assert_member_of(tmp_path / "together", alone, 1)


# -- what is refused -------------------------------------------------------------------------------------------------

WRONG = {
    "without members": (["--method=SGD", "--member=0"], "member: 0 is not allowed without members; say how many "),
    "too high": (["--method=SGD", "--members=3", "--member=3"], "member: 3 is not allowed; it must be one of 0 … 2"),
    "negative": (["--method=SGD", "--members=3", "--member=-1"], "member: -1 is not allowed; it must be one of 0 … 2"),
    "no number": (["--method=SGD", "--members=3", "--member=x"], "member: 'x' is not allowed; it must be a whole num"),
    "with exchange": (
        ["--method=DASH", "--members=3", "--member=1"],
        "member: 1 is not allowed with method DASH, whose members must be trained together",
    ),
    "with other replicas": (
        ["--method=SGD", "--members=3", "--member=1", "--replicas=2"],
        "replicas: 2 is not allowed; 1 ranks for 1 members make 1",
    ),
    "of too few architectures": (
        ["--method=SGD", "--members=3", "--member=1", f"--models={json.dumps(MODELS)}"],
        "models: 2 is not allowed; it must be one per member (3 members)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_trained_alone_is_said_in_one_line(wrong: str, tmp_path: Path) -> None:
    arguments, expected = WRONG[wrong]
    run = tmp_path / "run"
    ranks = Ranks(1, main, ["train", *SMALL, "--engine=Torch", f"--run={run}", *arguments])
    assert ranks.results() == [("value", 2)], ranks.output(0)
    (line,) = ranks.output(0).splitlines()
    assert line.startswith(f"dist-dash: {expected}"), line
    assert not run.exists()


@pytest.mark.parametrize(
    ("world", "others", "difference"),
    [(1, ["--member=2"], "first_member 1 → 2"), (3, [], "first_member 1 → 0; members 1 → 3")],
    ids=["another member", "all together"],
)
def test_the_checkpoint_of_another_member(world: int, others: list[str], difference: str, tmp_path: Path) -> None:
    orders, run = tmp_path / "orders", tmp_path / "run"
    struck = ["--method=SGD", "--engine=tests.e2e.faults.Struck", f"--engine.orders={orders}"]
    orders.write_text(f"0 12 {signal.SIGTERM}")
    assert start(run, 1, 3, *struck, "--member=1").results() == [("value", 75)]
    ranks = start(run, world, 3, *struck, *others)
    assert ranks.results() == [("value", 2)] * world
    said = f"run: {run} was started with other settings ({difference}); use another --run, or --fresh"
    assert said in ranks.output(0)
    finish(run, 1, 3, *struck, "--member=1")


def test_a_member_alone_is_called_by_its_number(tmp_path: Path) -> None:
    sick = ["--model=Custom", "--model.target=tests.e2e.doubles:non_finite_in_evaluation", "--max_steps=3"]
    ranks = start(tmp_path / "run", 1, 3, "--method=SGD", "--engine=Torch", *sick, "--member=2")
    assert ranks.results() == [("value", 1)]
    assert "member 2: its predictions of the test split are not finite" in ranks.output(0)


def test_a_member_alone_starts_its_own_rank(tmp_path: Path) -> None:
    run = tmp_path / "runs/member_01"
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    options = ["--method=SGD", "--engine=Torch", "--members=3", "--member=1", f"--run={run}"]
    command = [sys.executable, "-m", "dist_dash", "train", *SMALL, *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**environment, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (run / "ensemble/member_01.safetensors").exists()
    layout = json.loads((run / "environment.json").read_text())["layout"]
    assert (layout["world"], layout["members"], layout["replicas"]) == (1, 1, 1)
