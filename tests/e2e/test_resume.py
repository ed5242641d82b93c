"""Stopped anywhere, by anything, and started again: the same weights and the same record as the undisturbed run."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.e2e.runs import assert_same_run, finish, lines_of, start, step_of, until

VARIANTS = {
    "zero0": (2, 2, []),
    "zero0-workers": (2, 2, ["--loader.workers=2"]),
    "zero1-replicas": (4, 2, ["--engine.zero=1", "--loader.batch_size=16"]),
    # Fifteen skipped updates until the loss scale is found: it is struck in the search and after it.
    "zero1-workers-accumulation-fp16": (
        2,
        1,
        [
            *["--engine.zero=1", "--loader.workers=2", "--loader.accumulation=2", "--loader.batch_size=8"],
            *["--engine.precision=fp16", f"--engine.scaling.initial={2**30}"],
        ],
    ),
    "torch-adam": (
        2,
        2,
        ["--engine=Torch", "--optimizer=torch.optim.AdamW", "--optimizer.lr=0.01", "--method.gamma=0.3"],
    ),
}
STRIKES = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_at_random_steps(variant: str, tmp_path: Path) -> None:
    world, members, arguments = VARIANTS[variant]
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    finish(undisturbed, world, members, *arguments)
    engine = "Held" if "--engine=Torch" in arguments else "HeldDeepSpeed"
    arguments = [*arguments, f"--engine=tests.e2e.faults.{engine}", f"--engine.sign={tmp_path / 'sign'}"]
    draw = random.Random(variant)
    strikes = draw.sample(STRIKES[1:], 2)
    strikes.insert(draw.randrange(3), signal.SIGKILL)  # a kill without warning always among them
    at = sorted(draw.sample(range(6, 28), 3))
    for number, step in zip(strikes, at, strict=True):
        (tmp_path / "sign").write_text(f"0.5 {step}")
        ranks = start(disturbed, world, members, *arguments)
        until(lambda s=step: step_of(disturbed) >= s, ranks)  # type: ignore[misc]
        # A polite signal may reach one rank only: all must leave together all the same.
        ranks.signal(number, None if number == signal.SIGKILL else [draw.randrange(world)])
        results = ranks.results()
        if number == signal.SIGKILL:
            assert all(kind == "killed" for kind, _ in results)
        else:
            assert results == [("value", 75)] * world, (number, results, ranks.output(0))
            assert (disturbed / "CONTINUE").exists()
            assert not (disturbed / "DONE").exists()
    (tmp_path / "sign").unlink()
    finish(disturbed, world, members, *arguments)
    assert (disturbed / "DONE").exists()
    assert not (disturbed / "CONTINUE").exists()
    assert_same_run(disturbed, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_an_evaluation(number: int, tmp_path: Path) -> None:
    undisturbed, disturbed, sign = tmp_path / "undisturbed", tmp_path / "disturbed", tmp_path / "sign"
    slow = ["--data=tests.e2e.doubles.SlowEvaluation", f"--data.sign={sign}", "--max_steps=45"]
    finish(undisturbed, 2, 2, *slow)
    sign.unlink()
    for _ in range(2):  # in the evaluation after the first epoch (42 updates), then in the last one
        ranks = start(disturbed, 2, 2, *slow)
        until(sign.exists, ranks)
        ranks.signal(number)
        results = ranks.results()
        assert results == [("value", 75)] * 2 or number == signal.SIGKILL, ranks.output(0)
        sign.unlink()
    finish(disturbed, 2, 2, *slow)
    assert_same_run(disturbed, undisturbed)
    assert [line["kind"] for line in lines_of(disturbed)].count("eval") == 1


def test_killed_during_the_save_itself(tmp_path: Path) -> None:
    undisturbed, disturbed, sign = tmp_path / "undisturbed", tmp_path / "disturbed", tmp_path / "sign"
    slow = ["--engine=tests.e2e.doubles.SlowSave", f"--engine.sign={sign}"]
    sign.touch()
    finish(undisturbed, 2, 2, *slow)
    sign.unlink()
    ranks = start(disturbed, 2, 2, *slow)
    folder = disturbed / "checkpoints"
    until(lambda: sign.exists() and list(folder.glob(".step_00000015.*.partial/member_00/*.pt")), ranks)
    ranks.signal(signal.SIGKILL)
    ranks.results()
    assert sorted(p.name for p in folder.glob("step_*")) == ["step_00000005", "step_00000010"]
    finish(disturbed, 2, 2, *slow)
    assert not list(folder.glob(".*.partial"))
    assert_same_run(disturbed, undisturbed)


def test_a_torn_set_is_named_and_passed_over(tmp_path: Path) -> None:
    undisturbed, disturbed, sign = tmp_path / "undisturbed", tmp_path / "disturbed", tmp_path / "sign"
    held = ["--engine=tests.e2e.faults.HeldDeepSpeed", f"--engine.sign={sign}"]
    finish(undisturbed, 2, 2)
    sign.write_text("0.5 17")
    ranks = start(disturbed, 2, 2, *held)
    until(lambda: step_of(disturbed) >= 17, ranks)
    ranks.signal(signal.SIGTERM)
    ranks.results()
    newest = max((disturbed / "checkpoints").glob("step_*"))
    part = newest / "member_01" / "replica_00.pt"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    sign.unlink()
    ranks = start(disturbed, 2, 2, *held)
    assert ranks.results() == [("value", 0)] * 2
    said = f"{newest.name} is torn (member_01/replica_00.pt has changed since it was written)"
    assert said in ranks.output(0).replace("\n", "")
    assert_same_run(disturbed, undisturbed)
