"""The golden curve: 30 steps of DASH on digits, in float64, compared with the losses of the day it was written down.

It tells an intended change of the training step from an accident. After an intended one, write it anew:
`DIST_DASH_WRITE_GOLDEN=1 python -m pytest tests/e2e/test_golden.py`, and say in the commit why the curve has moved.

The tolerance: torch 2.11 and 2.13 agree to the bit, sums taken in another order (another BLAS, `exchange: reduce`)
move the curve by 3e-15, a radius larger by 1e-12 of itself by 1e-13. So 1e-6 leaves room for any machine, and still is
far below what a change of the method does: a radius larger by a thousandth moves the curve by 1e-4, tested below.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.runs import finish, lines_of

GOLDEN = Path(__file__).with_name("golden_dash.json")
RTOL = 1e-6
Curves = dict[str, list[list[float]]]


def curves(run: Path, *arguments: str) -> Curves:
    """Per measured value, `[step][member]`."""
    exact = ["--engine=Torch", "--engine.precision=fp64", "--model.dropout=0", "--schedule.warmup=0"]
    finish(run, 3, 3, *exact, *arguments)
    lines = [line for line in lines_of(run) if line["kind"] == "train"]
    return {name: [line[name] for line in lines] for name in ("loss", "perturbed_loss", "diversity")}


def distance(found: Curves, golden: Curves) -> float:
    """The largest relative difference of any value."""
    assert set(found) == set(golden)
    return max(float(np.abs(np.array(found[name]) / np.array(golden[name]) - 1).max()) for name in golden)


def test_the_golden_curve(tmp_path: Path) -> None:
    found = curves(tmp_path / "run")
    if os.environ.get("DIST_DASH_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1))
    golden = json.loads(GOLDEN.read_text())
    assert np.array(golden["loss"]).shape == (30, 3)
    assert distance(found, golden) < RTOL


@pytest.mark.parametrize("changed", ["--method.rho_loss=0.05005", "--method.rho_div=0.05005"])
def test_a_change_of_the_method_moves_the_curve(changed: str, tmp_path: Path) -> None:
    assert distance(curves(tmp_path / "run", changed), json.loads(GOLDEN.read_text())) > 10 * RTOL
