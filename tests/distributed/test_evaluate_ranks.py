"""`dist-dash evaluate` by several ranks: the figures of one, whatever their number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_dash.analysis.evaluate import evaluate_run
from dist_dash.commands.cli import main
from dist_dash.data.host_batch import EvalBatch
from dist_dash.data.loader import EvalLoader
from dist_dash.ensembles.ensemble import save_member
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.ensembles.predictor import predict_split
from dist_dash.files import read_json
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.recipe.recipe import Loader
from dist_dash.runs.folder import RunFolder
from tests.support.ranks import Ranks, on_ranks
from tests.unit.exported import unsealed
from tests.unit.finished_by_hand import finished_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three members, 45 test samples in 6 batches of 8."""
    return finished_run(tmp_path / "run")[0].path


def predictions(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("world", [1, 2, 4, 7])
def test_any_number_of_ranks_finds_the_same(run: Path, world: int) -> None:
    expected = json.loads(json.dumps(evaluate_run(run)))
    kept = predictions(run / "predictions.npz")
    for file in ("evaluation.json", "predictions.npz"):
        (run / file).unlink()
    ranks = Ranks(world, main, ["evaluate", str(run), "--json"])
    assert ranks.results() == [("value", 0)] * world, ranks.output(0)
    assert read_json(run / "evaluation.json", "run") == expected  # to the bit, hence to 1e-12
    for name, array in predictions(run / "predictions.npz").items():
        np.testing.assert_array_equal(array, kept[name], err_msg=name)


def shares(run: Path, read: list[Any]) -> tuple[list[Any], int | None]:
    """What this rank reads; on rank 0 also how many samples have arrived."""
    assemble = EvalLoader.assemble

    def noted(self: EvalLoader, number: int) -> EvalBatch:
        read.append(number)
        return assemble(self, number)

    EvalLoader.assemble = noted  # type: ignore[method-assign]
    of = FinishedRun(run)
    with Exchange(layout_from_environment(None)) as exchange:
        found = predict_split(of.ensemble(), of.data().test, Loader(batch_size=8), exchange)
    return read, None if found is None else int(found.read.sum())


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_members_and_samples(run: Path, world: int) -> None:
    """18 pairs of a member and a batch; no rank reads a batch twice."""
    found = on_ranks(world, shares, run, [])
    assert [arrived for _, arrived in found] == [45, *[None] * (world - 1)]
    read = [numbers for numbers, _ in found]
    if world == 3:
        assert read == [list(range(6))] * 3  # each its member
    elif world == 2:
        assert read == [list(range(6)), list(range(6))]  # a member and a half
    else:
        assert [sorted(numbers) for numbers in read] == [[0, 1, 2, 3], [0, 1, 2, 4, 5], [0, 3, 4, 5], [1, 2, 3, 4, 5]]
    assert all(len(set(numbers)) == len(numbers) for numbers in read)


def unreadable_on_rank_1(run: Path) -> tuple[list[bool], list[str]] | None:
    """What rank 0 finds where rank 1 alone cannot read the first sample of its first batch."""
    assemble = EvalLoader.assemble
    layout = layout_from_environment(None)

    def flawed(self: EvalLoader, number: int) -> EvalBatch:
        batch = assemble(self, number)
        if layout.rank == 1 and number == 0:
            batch.valid[0] = False
            batch.bad.append("the first")
        return batch

    EvalLoader.assemble = flawed  # type: ignore[method-assign]
    of = FinishedRun(run)
    with Exchange(layout) as exchange:
        found = predict_split(of.ensemble(), of.data().test, Loader(batch_size=8), exchange)
    return None if found is None else (found.read.tolist(), found.unreadable)


def test_a_sample_that_one_rank_cannot_read_is_left_out_of_all(run: Path) -> None:
    found, *others = on_ranks(3, unreadable_on_rank_1, run)
    assert found == ([False, *[True] * 44], ["the first"])
    assert others == [None, None]


def refused(world: int, *arguments: object) -> Iterator[str]:
    ranks = Ranks(world, main, ["evaluate", *map(str, arguments)])
    assert ranks.results() == [("value", 2)] * world
    for rank in range(world):
        yield ranks.output(rank)


def test_what_rank_0_refuses_all_leave_alone(run: Path) -> None:
    network = FinishedRun(run).ensemble().networks[2]
    with torch.no_grad():
        next(network.parameters()).fill_(float("inf"))
    save_member(RunFolder(run).ensemble / "member_02.safetensors", network)
    unsealed(RunFolder(run).ensemble)
    first, *others = refused(3, run, "--strict")
    assert first.count("\n") == 1
    assert "predictions: log_probs of member 2 are not finite" in first
    assert others == ["", ""]
    assert not (run / "evaluation.json").exists()


def test_bad_input_is_said_once(run: Path, tmp_path: Path) -> None:
    for arguments in ((tmp_path / "nowhere",), (run, "--split=validation"), (run, "--data=Digits")):
        first, second = refused(2, *arguments)
        assert first.startswith("dist-dash: ")
        assert first.count("\n") == 1
        assert second == ""


def test_given_predictions_are_scored_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", log_probs=np.log(np.full((2, 3, 4), 0.25)), labels=np.zeros(3, int))
    ranks = Ranks(2, main, ["evaluate", "--predictions", str(tmp_path / "p.npz"), "--json"])
    assert ranks.results() == [("value", 0)] * 2
    assert json.loads(ranks.output(0))["samples"] == 3
    assert ranks.output(1) == ""
