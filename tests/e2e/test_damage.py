"""Every file of a run, damaged on disk: refused or passed over by name, never a traceback or other numbers."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import random
import shutil
import signal
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_dash.commands.cli import main
from dist_dash.report.catalogue import PARTS
from tests.e2e.runs import SMALL
from tests.support.ranks import on_ranks

Damage = Callable[[Path, random.Random], None]


def flipped(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def truncated(file: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))])


def deleted(file: Path, draw: random.Random) -> None:
    file.unlink()


def another_type(file: Path, draw: random.Random) -> None:
    """JSON of another shape: a field of another type, or all of it."""
    try:
        content = json.loads(file.read_text())
        content[draw.choice(list(content))] = draw.choice([None, "x", [3], {"a": 1}, -1, 1e99])
        file.write_text(json.dumps(draw.choice([content, content, [], "x", None])))
    except (ValueError, TypeError, IndexError):
        file.write_bytes(draw.choice([b"[]", b"{}", b"3\n", b"\xff\xfe\x00", b"PK\x03\x04"]))


def a_folder(file: Path, draw: random.Random) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: list[Damage] = [flipped, truncated, deleted, another_type, a_folder]


def said_by(arguments: list[str]) -> tuple[int | str, str, str]:
    """Status, stdout and stderr of a command, called in this process; a traceback in place of the status."""
    os.environ["DIST_DASH_RENDEZVOUS"] = f"file://{Path.cwd()}/store-{uuid.uuid4()}"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: int | str = main(arguments)
        except BaseException:
            status = traceback.format_exc()
    if torch.distributed.is_initialized():  # a rank that fails ends with it
        torch.distributed.destroy_process_group()
    gc.collect()  # process groups hold threads and sockets
    return status, out.getvalue(), err.getvalue().replace("\n", " ").strip()


def results(run: Path) -> dict[str, Any]:
    """What a run came to: weights, scores and the figures of its record."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{**line, "timing": None} for line in lines if line["kind"] != "event"]
    weights = {file.name: file.read_bytes() for file in (run / "ensemble").glob("*.safetensors")}
    scores = json.loads((run / "evaluation.json").read_text())
    return {
        "lines": kept,
        "weights": weights,
        "scores": scores,
        "probs": np.load(run / "predictions.npz")["probs"].tobytes(),
    }


def training(folder: Path, run: Path) -> list[str]:
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={folder / 'orders'}", "--members=1", "--method=SGD"]
    sets = ["--max_steps=9", "--checkpoints.every_steps=2", "--checkpoints.keep=3", "--model.hidden=4"]
    return ["train", *SMALL, *struck, *sets, f"--run={run}"]


def commands(run: Path) -> dict[str, list[str]]:
    """What reads a finished run, `evaluate` last: it writes anew."""
    parts = ",".join(part.name for part in PARTS)
    return {
        "compare": ["compare", str(run), "--format=json"],
        "report": ["report", str(run), f"--output={run.with_suffix('.html')}", f"--without={parts}"],
        "predict": ["predict", str(run), str(run.parent / "x.npz"), f"--output={run.parent / 'p.npz'}"],
        "train": training(run.parent, run),
        "evaluate": ["evaluate", str(run), "--json"],
    }


def drawn(run: Path, files: list[str], draw: random.Random, each: int) -> list[tuple[str, Damage]]:
    """So many ways of damaging each file; a flipped bit, the least that can be, is always one of them."""
    found = []
    for name in files:
        ways = draw.sample(DAMAGES[1:], each - 1)
        found += [(name, way) for way in ([flipped, *ways] if (run / name).stat().st_size else [deleted, a_folder])]
    return found


def fault_of(status: int | str, err: str, run: Path) -> str:
    """What is wrong with the way in which a command ended that did not go well."""
    if status != 2:
        return f"status {status}; said: {err}"
    named = str(run) in err or run.name in err
    return "" if err.count("dist-dash: ") == 1 and named and len(err) < 900 else f"said: {err}"


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
    expected = {name: said_by(words) for name, words in commands(whole).items()}
    assert all(status == 0 for status, _, _ in expected.values()), expected
    draw = random.Random(seed)
    files = sorted(str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file())
    files = [name for name in files if "checkpoints/" not in name and "report" not in name]
    for number, (name, damage) in enumerate(drawn(whole, files, draw, each)):
        run = shutil.copytree(whole, root / f"run{number}")
        damage(run / name, draw)
        for command, words in commands(run).items():
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
    (found,) = on_ranks(1, campaign, str(tmp_path), 0, each)
    assert not found, "\n".join(found)
