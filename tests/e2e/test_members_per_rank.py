"""Runs whose ranks train several members each: resumed to the bit, and read by everybody as any other run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from dist_dash.commands.cli import main
from tests.e2e.runs import assert_same_run, finish, lines_of, start, until

ENGINE = "--engine=Torch"
SHORT = [ENGINE, "--max_steps=12", "--model.dropout=0"]
"""Without dropout, whose draws are those of a process."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By the number of members per rank: the same four members on four ranks and on one."""
    folder = tmp_path_factory.mktemp("stacked")
    found = {per_rank: folder / f"run-{per_rank}" for per_rank in (1, 4)}
    for per_rank, run in found.items():
        finish(run, 4 // per_rank, 4, *SHORT, f"--members_per_rank={per_rank}")
    return found


def test_the_run_is_that_of_ranks_of_their_own(runs: dict[int, Path]) -> None:
    ours, theirs = runs[4], runs[1]
    names = sorted(path.name for path in (theirs / "ensemble").glob("*.safetensors"))
    assert [path.name for path in sorted((ours / "ensemble").glob("*.safetensors"))] == names
    for name in names:
        a, b = load_file(ours / "ensemble" / name), load_file(theirs / "ensemble" / name)
        assert list(a) == list(b)
        for key, value in a.items():
            np.testing.assert_allclose(value, b[key], rtol=0, atol=1e-6, err_msg=f"{name} {key}")
    assert len(lines_of(ours)) == len(lines_of(theirs))
    for one, other in zip(lines_of(ours), lines_of(theirs), strict=True):
        assert list(one) == list(other)
        for field in one.keys() & {"loss", "accuracy", "diversity", "g_div_norm", "skipped", "forwards", "cosines"}:
            np.testing.assert_allclose(one[field], other[field], rtol=1e-4, atol=1e-5, err_msg=field)
    parts = [sorted(str(p.relative_to(run)) for p in run.glob("checkpoints/*/*/*.pt")) for run in (ours, theirs)]
    assert parts[0] == parts[1]
    state = [torch.load(run / parts[0][-1], map_location="cpu") for run in (ours, theirs)]
    assert (ours / parts[0][-1]).stat().st_size < 1.1 * (theirs / parts[0][-1]).stat().st_size  # one member in each
    assert state[0].keys() == state[1].keys()
    layout = json.loads((ours / "environment.json").read_text())["layout"]
    assert (layout["world"], layout["members"], layout["members_per_rank"]) == (1, 4, 4)


def test_what_reads_runs_reads_these(runs: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((runs[4] / "evaluation.json").read_text())
    assert main(["evaluate", str(runs[4])]) == 0
    assert len(before["members"]) == 4
    assert main(["runs", str(runs[4].parent)]) == 0
    assert main(["compare", *map(str, runs.values()), f"--output={tmp_path / 'compared.json'}"]) == 0
    capsys.readouterr()


def test_resumed_to_the_bit(tmp_path: Path) -> None:
    """Two members on each of two ranks."""
    undisturbed, disturbed, orders, world = tmp_path / "undisturbed", tmp_path / "disturbed", tmp_path / "orders", 2
    method = ["--method=tests.e2e.faults.StruckDASH", f"--method.orders={orders}"]
    several = [ENGINE, *method, "--members_per_rank=2", "--record.every=4"]  # with dropout
    finish(undisturbed, world, 4, *several)
    for number, step in ((signal.SIGTERM, 7), (signal.SIGKILL, 17)):
        orders.write_text(f"0 {step} {int(number)}")
        ranks = start(disturbed, world, 4, *several)
        if number == signal.SIGKILL:
            until(lambda: not orders.exists(), ranks)
            ranks.signal(signal.SIGKILL)
        results = ranks.results()
        assert number == signal.SIGKILL or results == [("value", 75)] * world, (results, ranks.output(0))
        assert not orders.exists()
    finish(disturbed, world, 4, *several)
    assert_same_run(disturbed, undisturbed)
