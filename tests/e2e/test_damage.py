"""Every file of a run, damaged on disk: refused or passed over by name, never a traceback or other numbers."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import random
import re
import shutil
import signal
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_dash.commands.cli import main
from tests.e2e.runs import SMALL
from tests.support.ranks import on_ranks

PARTS = "examples,learning,calibration,coverage,size,pairs,landscape,embedding,directions,flatness,shift,time"
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
    return {
        "compare": ["compare", str(run), "--format=json"],
        "report": ["report", str(run), f"--output={run.with_suffix('.html')}", f"--without={PARTS}"],
        "predict": ["predict", str(run), str(run.parent / "x.npz"), f"--output={run.parent / 'p.npz'}"],
        "train": training(run.parent, run),
        "evaluate": ["evaluate", str(run), "--json"],
    }


def fault_of(status: int | str, err: str, run: Path) -> str:
    """What is wrong with the way in which a command ended that did not go well."""
    if status != 2:
        return f"status {status}"
    named = str(run) in err or run.name in err
    return "" if err.count("dist-dash: ") == 1 and named and len(err) < 900 else f"said: {err}"


def of_a_stopped_run(folder: str, seed: int, only: str) -> list[str]:
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
    assert sum("step_" in name and name.endswith("manifest.json") for name in files) == 3
    for number, (name, damage) in enumerate((n, d) for n in files for d in DAMAGES if re.search(only, n)):
        run = shutil.copytree(stopped, root / f"run{number}")
        if damage is flipped and not (run / name).stat().st_size:
            continue
        if damage is truncated and not (run / name).stat().st_size:
            continue
        damage(run / name, draw)
        status, _, err = said_by(training(root, run))
        if status == 0:
            ours = results(run)
            differ = [key for key in expected if ours[key] != expected[key]]
            newest = "step_00000007" in name
            if differ and not (name == "metrics.jsonl" and differ == ["lines"] and "metrics.jsonl is damaged" in err):
                found.append(f"{damage.__name__} {name}: {differ} differ; said: {err}")
            if newest and "step_00000007 is torn" not in err:
                found.append(f"{damage.__name__} {name}: not named; said: {err}")
        elif what := fault_of(status, err, run):
            found.append(f"{damage.__name__} {name}: {what}")
        shutil.rmtree(run)
    return found


def of_a_finished_run(folder: str, seed: int, only: str) -> list[str]:
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
    for number, (name, damage) in enumerate((n, d) for n in files for d in DAMAGES if re.search(only, n)):
        run = shutil.copytree(whole, root / f"run{number}")
        if damage in (flipped, truncated) and not (run / name).stat().st_size:
            continue
        damage(run / name, draw)
        for command, words in commands(run).items():
            status, out, err = said_by(words)
            if status == 0:
                same = out.replace(str(run), "") == expected[command][1].replace(str(whole), "")
                if not (same or (command == "train" and name == "DONE")):
                    found.append(f"{damage.__name__} {name}: {command} gives other numbers: {out} {err}")
            elif what := fault_of(status, err, run):
                found.append(f"{damage.__name__} {name}: {command}: {what}")
        shutil.rmtree(run)
    return found


@pytest.mark.parametrize("campaign", [of_a_stopped_run, of_a_finished_run])
def test_no_damage_is_a_traceback_or_a_silent_change(campaign: Callable[..., list[str]], tmp_path: Path) -> None:
    seed, only = int(os.environ.get("DAMAGE_SEED", "0")), os.environ.get("DAMAGE_ONLY", "")
    (found,) = on_ranks(1, campaign, str(tmp_path), seed, only)
    assert not found, "\n".join(found)
