"""An error that a user's own code raises keeps its traceback: once, on one rank, its file and line first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e import faulty
from tests.e2e.runs import start

QUICK = ["--engine=Torch", "--max_steps=6", "--labels.noise=0", "--augment.pad_crop=0"]


def model(fault: str, rank: int) -> list[str]:
    kwargs = f'{{"fault": "{fault}", "rank": {rank}}}'
    return ["--model=Custom", "--model.target=tests.e2e.faulty:Net", f"--model.kwargs={kwargs}"]


def data(fault: str, rank: int) -> list[str]:
    return ["--data=tests.e2e.faulty.Data", f"--data.fault={fault}", f"--data.rank={rank}"]


METHOD = "--method=tests.e2e.faulty.Rule"
FAULTS = {
    "a model's constructor": (model("constructor", -1), "RuntimeError"),
    "a model's constructor on one rank": (model("constructor", 1), "RuntimeError"),
    "a model in training": (model("training", -1), "RuntimeError"),
    "a model's missing layer": (model("key", -1), "KeyError"),
    "a model in a later step": (model("later", -1), "ZeroDivisionError"),
    "a model in a later step on one rank": (model("later", 1), "ZeroDivisionError"),
    "a method": ([METHOD], "KeyError"),
    "a method on one rank": ([METHOD, "--method.rank=1"], "KeyError"),
    "a data set": (data("load", -1), "OSError"),
    "a data set on one rank": (data("load", 1), "OSError"),
    "a sample": (data("read", 1), "FileNotFoundError"),
    "a sample in a worker": ([*data("read", -1), "--loader.workers=1"], "FileNotFoundError"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_traceback_is_shown_once_after_its_place(fault: str, tmp_path: Path) -> None:
    arguments, kind = FAULTS[fault]
    ranks = start(tmp_path / "run", 2, 2, *QUICK, *[a for a in arguments if a])
    assert ranks.results() == [("value", 1)] * 2, ranks.output(0)
    (text,) = [found for found in (ranks.output(rank) for rank in range(2)) if "Traceback" in found]
    first = next(line for line in text.splitlines() if line.startswith("dist-dash: "))
    place = re.fullmatch(rf"dist-dash: {re.escape(faulty.__file__)}:(\d+): {kind}: .*", first)
    assert place, first
    assert "FAULT" in Path(faulty.__file__).read_text().splitlines()[int(place[1]) - 1]
    assert f"{kind}: " in text.rstrip().splitlines()[-1]
    (other,) = [ranks.output(rank) for rank in range(2) if ranks.output(rank) != text] or [""]
    assert "dist-dash: " not in other
