"""A run that was stopped and continued equals the uninterrupted one to the bit."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.part import Part, run
from tests.e2e.runs import assert_same_run, finish, start, step_of, until


def stopped_and_continued(folder: Path, settings: list[str]) -> int:
    """Compare both runs; returns the step at which one of them was stopped."""
    one, other = folder / "one", folder / "other"
    finish(one, 2, 2, *settings)
    ranks = start(other, 2, 2, *settings)
    until(lambda: step_of(other) >= 7, ranks)
    ranks.signal(signal.SIGTERM)
    statuses = ranks.results(30)
    assert statuses == [("value", 75)] * 2, f"the run did not stop when it was asked to: {statuses}"
    at = step_of(other)
    finish(other, 2, 2, *settings)
    assert_same_run(other, one)
    return at


def resume(part: Part) -> None:
    precision = "bf16" if part.device == "cuda" else "fp32"
    data = ["--data=Synthetic", f"--data.size={32 if part.tiny else 64}", "--data.train=128", "--data.test=32"]
    rest = ["--model=SmallCNN" if part.tiny else "--model=ResNet", "--loader.batch_size=8", "--max_steps=24"]
    for engine in ("Torch", "DeepSpeed"):
        started = time.monotonic()
        with part.section(f"resume, {engine}"), tempfile.TemporaryDirectory() as folder:
            settings = [*data, *rest, f"--engine={engine}", f"--engine.precision={precision}"]
            at = stopped_and_continued(Path(folder), settings)
            note = f"DASH, 2 ranks, {precision}, stopped at step {at} of 24: equal to the bit"
            part.add(f"resume, {engine}: both runs", time.monotonic() - started, "s", note=note)


if __name__ == "__main__":
    run(resume)
