"""What all ranks settle at every step: the same samples, one stop, no member sick for too long."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from dist_dash.data.host_batch import sample_hash
from dist_dash.errors import RunFailed
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.runs.preemption import StopRequest
from dist_dash.training.agreement import Agreement
from tests.e2e.runs import finish, lines_of, start
from tests.support.ranks import on_ranks

STEPS = 8
Found = list[tuple[int, str]]


def settle_all(members: int, odd_rank: int, at: int, kind: str, same_samples: bool = True) -> Found:
    """Eight steps in which one rank is odd at one step; what each rank settles, with the step."""
    layout, stop = layout_from_environment(members), StopRequest()
    found: Found = []
    with Exchange(layout, deadline=300) as exchange:
        agreement = Agreement(exchange, stop, max_skipped=3, same_samples=same_samples)
        for step in range(STEPS):
            odd = layout.rank == odd_rank and step == at
            ids = torch.arange(6).reshape(2, 3) + 100 * layout.replica + 10 * step
            if odd and kind == "order":
                ids[0, [0, 1]] = ids[0, [1, 0]]
            if odd and kind == "stop":
                stop.signal = "SIGTERM"
            sick = 3 if odd and kind == "sick" else 2
            try:
                if agreement.settle(step, sick, None if kind == "unchecked" else sample_hash(ids)):
                    found.append((step, "stop"))
                    break
            except RunFailed as error:
                found.append((step, str(error) if error.everywhere else "said by every rank"))
                break
    return found


@pytest.mark.parametrize(("world", "members", "rank", "member"), [(3, 3, 1, 1), (3, 3, 0, 0), (6, 3, 5, 2)])
def test_another_order_is_caught_at_the_very_step(world: int, members: int, rank: int, member: int) -> None:
    for found in on_ranks(world, settle_all, members, rank, 5, "order"):
        ((step, text),) = found
        assert step == 5
        assert text.startswith(f"step 5: member {member} (rank {rank}) reads other samples than its peers")


def test_equal_orders_raise_no_alarm() -> None:
    assert on_ranks(4, settle_all, 2, 9, 0, "order") == [[]] * 4  # replicas read different samples all the time


def test_own_orders_raise_no_alarm() -> None:
    assert on_ranks(2, settle_all, 2, 1, 5, "order", False) == [[]] * 2


def test_a_step_that_is_not_compared_raises_no_alarm() -> None:
    assert on_ranks(2, settle_all, 2, 1, 5, "unchecked") == [[]] * 2


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stop_asked_of_one_rank_stops_all_at_the_same_step(rank: int) -> None:
    assert on_ranks(3, settle_all, 3, rank, 4, "stop") == [[(4, "stop")]] * 3


def test_a_member_sick_for_too_long_is_named_by_all() -> None:
    for found in on_ranks(4, settle_all, 2, 3, 6, "sick"):
        ((step, text),) = found
        assert step == 6
        assert text.startswith("member 1: no finite gradient for 3 updates in a row")


# -- in a run --------------------------------------------------------------------------------------------------------


def test_a_run_whose_ranks_read_in_different_orders_ends(tmp_path: Path) -> None:
    other = ["--engine=Torch", "--data=tests.e2e.faults.OtherOrder"]
    ranks = start(tmp_path / "run", 3, 3, *other)
    assert ranks.results() == [("value", 1)] * 3
    output = [line for line in ranks.output(0).splitlines() if line.startswith("dist-dash: ")]
    assert len(output) == 1
    assert output[0].startswith("dist-dash: step 2: member 1 (rank 1) reads other samples than its peers")
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [1, 2]


def test_a_run_that_is_asked_to_stop_on_one_rank_stops_on_all(tmp_path: Path) -> None:
    (tmp_path / "orders").write_text(f"2 11 {signal.SIGUSR2}")
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={tmp_path / 'orders'}"]
    ranks = start(tmp_path / "run", 3, 3, *struck)
    assert ranks.results() == [("value", 75)] * 3
    assert "stopped at step 12; " in ranks.output(0)
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("step_00000012/member_*/*.pt")]
    assert (tmp_path / "run/CONTINUE").exists()


def test_members_that_start_equal_part_by_their_own_orders(tmp_path: Path) -> None:
    same = ["--engine=Torch", "--method=SGD", "--init=shared", "--model.dropout=0"]
    for order in ("shared", "own"):
        finish(tmp_path / order, 2, 2, *same, f"--loader.order={order}")
        losses = [line["loss"] for line in lines_of(tmp_path / order) if line["kind"] == "train"]
        assert len(losses) == 30
        assert all((first == second) == (order == "shared") for first, second in losses)
