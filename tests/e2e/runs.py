"""Start runs as ranks start them, strike at a chosen moment, and compare what two runs left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from dist_dash.commands.cli import main
from tests.support.ranks import LIMIT, Ranks

SMALL = [
    "--data=Digits",
    "--model=MLP",
    "--model.hidden=16",
    "--model.norm=batch",
    "--model.dropout=0.2",
    "--optimizer=torch.optim.SGD",
    "--optimizer.lr=0.05",
    "--optimizer.momentum=0.9",
    "--labels.noise=0.2",
    "--augment.pad_crop=1",
    "--loader.batch_size=32",
    "--record.every=1",
    "--checkpoints.every_steps=5",
    "--max_steps=30",
    "--record.progress=false",
]


def start(run: Path, world: int, members: int, *arguments: str) -> Ranks:
    """Ranks of `dist-dash train`, as torchrun would start them."""
    return Ranks(world, main, ["train", *SMALL, f"--run={run}", f"--members={members}", *arguments])


def finish(run: Path, world: int, members: int, *arguments: str) -> None:
    """Run to the end."""
    ranks = start(run, world, members, *arguments)
    results = ranks.results()
    assert results == [("value", 0)] * world, (results, ranks.output(0))


def until(condition: Callable[[], Any], ranks: Ranks, deadline: float = LIMIT) -> None:
    """Wait for a moment in a run that goes on."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end or not all(p.is_alive() for p in ranks.processes):
            ranks.signal(9)
            raise AssertionError(f"the moment did not come; rank 0 said:\n{ranks.output(0)}")
        time.sleep(0.002)


def step_of(run: Path) -> int:
    """The last step that the record holds."""
    lines = lines_of(run)
    return max((line["step"] for line in lines), default=0)


def lines_of(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def traces(run: Path) -> dict[str, bytes]:
    """What was kept of the evaluations under way; the files hold no time."""
    return {path.name: path.read_bytes() for path in (run / "trace").glob("*")}


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights, predictions and every recorded number equal to the bit; timings alone may differ."""
    members = sorted(path.name for path in (theirs / "ensemble").glob("*.safetensors"))
    assert members
    for name in members:
        a = safetensors.numpy.load_file(ours / "ensemble" / name)
        b = safetensors.numpy.load_file(theirs / "ensemble" / name)
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}")
    a, b = np.load(ours / "predictions.npz"), np.load(theirs / "predictions.npz")
    np.testing.assert_array_equal(a["log_probs"], b["log_probs"])
    assert traces(ours) == traces(theirs)
    kept = [[line for line in lines_of(run) if line["kind"] != "event"] for run in (ours, theirs)]
    for one, other in zip(*kept, strict=True):
        assert {**one, "timing": None} == {**other, "timing": None}
