"""Sets that cannot be read: never the reason to lose those that can, or to start over unasked."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.e2e.runs import assert_same_run, finish, start, step_of, until


def stopped_run(run: Path, at: int, *arguments: str) -> list[Path]:
    """The checkpoint sets of a run that was stopped, oldest first."""
    ranks = start(run, 2, 2, *arguments)
    until(lambda: step_of(run) >= at, ranks)
    ranks.signal(signal.SIGTERM)
    assert ranks.results() == [("value", 75)] * 2, ranks.output(0)
    return sorted((run / "checkpoints").glob("step_*"))


def tear(folder: Path) -> None:
    part = folder / "member_00" / "replica_00.pt"
    part.write_bytes(part.read_bytes()[:-100])


def test_a_torn_newest_set_does_not_crowd_out_the_next_ones(tmp_path: Path) -> None:
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    finish(undisturbed, 2, 2)
    sets = stopped_run(run, 17, "--checkpoints.keep=3")
    tear(sets[-1])
    ranks = start(run, 2, 2, "--checkpoints.keep=1", "--checkpoints.every_steps=1")
    until(lambda: len(list((run / "checkpoints").glob("step_*"))) == 1, ranks)
    ranks.signal(signal.SIGKILL)  # what is left must be a whole set, not the torn one
    ranks.results()
    again = start(run, 2, 2)
    assert again.results() == [("value", 0)] * 2
    assert "is torn" not in again.output(0)
    assert "continuing" in again.output(0)
    assert_same_run(run, undisturbed)


def test_a_run_without_a_readable_set_is_not_started_over_unasked(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in stopped_run(run, 12):
        tear(folder)
    before = sorted(path.name for path in run.rglob("*"))
    ranks = start(run, 2, 2)
    assert ranks.results() == [("value", 2)] * 2
    assert "no checkpoint set in" in ranks.output(0)
    assert "can be read; --fresh starts over" in ranks.output(0).replace("\n", " ")
    assert sorted(path.name for path in run.rglob("*")) == before
    finish(run, 2, 2, "--fresh")


def test_a_member_that_cannot_be_built_ends_all_ranks_at_once(tmp_path: Path) -> None:
    models = "[{class_path: MLP}, {class_path: ResNet, init_args: {depth: 18}}]"
    npz = tmp_path / "features.npz"
    import numpy as np

    draw = np.random.default_rng(0)
    arrays = {f"x_{s}": draw.normal(size=(64, 5)).astype("float32") for s in ("train", "test")}
    np.savez(npz, **arrays, y_train=np.arange(64) % 4, y_test=np.arange(64) % 4)
    ranks = start(
        tmp_path / "run", 2, 2, "--data=Arrays", f"--data.path={npz}", "--augment.pad_crop=0", f"--models={models}"
    )
    assert ranks.results() == [("value", 2)] * 2, ranks.output(0)
    assert "needs images" in ranks.output(0)
    assert "(rank 1, member 1)" in ranks.output(0).replace("\n", " ")
    assert not (tmp_path / "run").exists()
