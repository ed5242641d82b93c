"""Every file of a run, damaged on disk: refused or passed over by name, never a traceback or other numbers."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dist_dash.files import digest_of, read_json, write_json
from tests.campaign.damage import (
    NEWEST,
    Damage,
    Damaged,
    Trial,
    a_folder,
    another_type,
    commands,
    deleted,
    fault_of,
    flipped,
    results,
    said_by,
    truncated,
)
from tests.e2e.runs import SMALL
from tests.support.ranks import LIMIT, on_ranks

DAMAGES: list[Damage] = [flipped, truncated, deleted, another_type, a_folder]


def training(folder: Path, run: Path) -> list[str]:
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={folder / 'orders'}", "--members=1", "--method=SGD"]
    sets = ["--max_steps=9", "--checkpoints.every_steps=2", "--checkpoints.keep=3", "--model.hidden=4"]
    return ["train", *SMALL, *struck, *sets, f"--run={run}"]


def commands_of(run: Path) -> dict[str, list[str]]:
    """What reads a finished run; `evaluate`, which writes anew, at the end."""
    others = commands(run)
    return {**others, "train": training(run.parent, run), "evaluate": others.pop("evaluate")}


def drawn(run: Path, files: list[str], draw: random.Random, each: int) -> list[tuple[str, Damage]]:
    """So many ways of damaging each file; a flipped bit, the least that can be, is always one of them."""
    found = []
    for name in files:
        ways = draw.sample(DAMAGES[1:], each - 1)
        found += [(name, way) for way in ([flipped, *ways] if (run / name).stat().st_size else [deleted, a_folder])]
    return found


def of_a_stopped_run(folder: str, seed: int, each: int) -> list[str]:
    """Damage each file of a stopped run in every way, go on with it, and say what went wrong."""
    root, found = Path(folder), []
    os.chdir(root)
    stopped, whole = root / "stopped", root / "whole"
    (root / "orders").write_text(f"0 6 {signal.SIGTERM}")
    assert said_by(training(root, stopped))[0] == 75
    shutil.copytree(stopped, whole)
    assert said_by(training(root, whole))[0] == 0
    expected, draw = results(whole), random.Random(seed)
    files = sorted(str(file.relative_to(stopped)) for file in stopped.rglob("*") if file.is_file())
    *older, newest = sorted(path.name for path in (stopped / "checkpoints").iterdir())
    assert len(older) == 2
    for number, (name, damage) in enumerate(drawn(stopped, files, draw, each)):
        run = shutil.copytree(stopped, root / f"run{number}")
        damage(run / name, draw)
        status, _, err = said_by(training(root, run))
        if status == 0:
            ours = results(run)
            differ = [key for key in expected if ours[key] != expected[key]]
            if differ and not (name == "metrics.jsonl" and differ == ["lines"] and "metrics.jsonl is damaged" in err):
                found.append(f"{damage.__name__} {name}: {differ} differ; said: {err}")
            if newest in name and f"{newest} is torn" not in err:
                found.append(f"{damage.__name__} {name}: not named; said: {err}")
        elif what := fault_of(status, err, run):
            found.append(f"{damage.__name__} {name}: {what}")
        shutil.rmtree(run)
    for taken in (older[0], newest):  # under the name of a later step
        run = shutil.copytree(stopped, root / f"renamed-{taken}")
        (run / "checkpoints" / taken).rename(run / "checkpoints/step_00000077")
        status, _, err = said_by(training(root, run))
        if status or results(run) != expected or "step_00000077 is torn (it is the set of step" not in err:
            found.append(f"{taken} as step 77: {status}; said: {err}")
    return found


def of_a_finished_run(folder: str, seed: int, each: int) -> list[str]:
    """Damage each file of a finished run in every way, ask all commands for it, and say what went wrong."""
    root, found = Path(folder), []
    os.chdir(root)
    whole = root / "whole"
    assert said_by(training(root, whole))[0] == 0
    np.savez(root / "x.npz", x=np.zeros((2, 1, 8, 8), np.uint8))
    expected = {name: said_by(words) for name, words in commands_of(whole).items()}
    assert all(status == 0 for status, _, _ in expected.values()), expected
    draw = random.Random(seed)
    files = sorted(str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file())
    files = [name for name in files if "checkpoints/" not in name and "report" not in name]
    for number, (name, damage) in enumerate(drawn(whole, files, draw, each)):
        run = shutil.copytree(whole, root / f"run{number}")
        damage(run / name, draw)
        for command, words in commands_of(run).items():
            status, out, err = said_by(words)
            if status == 0:
                same = out.replace(str(run), "") == expected[command][1].replace(str(whole), "")
                named = command == "compare" and name == "predictions.npz"  # then without what is made of them
                if not (same or named or (command == "train" and name == "DONE")):
                    found.append(f"{damage.__name__} {name}: {command} gives other numbers: {out} {err}")
            elif what := fault_of(status, err, run):
                found.append(f"{damage.__name__} {name}: {command}: {what}")
        shutil.rmtree(run)
    return found


@pytest.mark.parametrize(("campaign", "each"), [(of_a_stopped_run, 2), (of_a_finished_run, 1)])
def test_no_damage_is_a_traceback_or_a_silent_change(
    campaign: Callable[..., list[str]], each: int, tmp_path: Path
) -> None:
    (found,) = on_ranks(1, campaign, str(tmp_path), 0, each, deadline=4 * LIMIT)
    assert not found, "\n".join(found)


def other_weights_sealed_anew(file: Path, draw: random.Random) -> None:
    """No damage, but another network: nothing on disk can tell."""
    state = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    described = read_json(file.with_name("ensemble.json"), "run")
    described["members"][1]["blake2b"] = digest_of(file)
    write_json(file.with_name("ensemble.json"), {k: v for k, v in described.items() if k != "blake2b"})


def other_state_sealed_anew(file: Path, draw: random.Random) -> None:
    """The same of a rank's part of a set."""
    state = torch.load(file, weights_only=True)
    for tensor in state["engine"]["module"].values():
        tensor.add_(1)
    torch.save(state, file)
    manifest = read_json(file.parents[1] / "manifest.json", "set")
    manifest["parts"]["member_01/replica_00.pt"]["blake2b"] = digest_of(file)
    write_json(file.parents[1] / "manifest.json", {k: v for k, v in manifest.items() if k != "blake2b"})


def test_the_campaign_sees_other_numbers_and_what_is_not_named(tmp_path: Path) -> None:
    damaged = Damaged(tmp_path / "runs", ("finished", "torch"))
    part = f"checkpoints/{NEWEST}/member_01/replica_00.pt"
    trial = Trial("finished", "ensemble/member_01.safetensors", other_weights_sealed_anew, "0")
    assert "evaluate gives other numbers" in damaged.wrong_with(trial)
    assert "differ" in damaged.wrong_with(Trial("torch", part, other_state_sealed_anew, "0"))
    assert "not named" in damaged.wrong_with(Trial("torch", part, lambda file, draw: None, "0"))
    assert damaged.wrong_with(Trial("torch", part, flipped, "0")) == ""
    assert not [*(tmp_path / "runs").glob("run-*")]
