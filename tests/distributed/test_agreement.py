"""What all ranks settle at every step: the same samples, one stop, no member sick for too long."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_dash.data.host_batch import HostBatch
from dist_dash.data.loader import TrainLoader
from dist_dash.errors import RunFailed
from dist_dash.member.engine import Torch
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.preemption import Stopped, StopRequest
from dist_dash.training.agreement import Agreement
from dist_dash.training.train import train
from tests.e2e.runs import SMALL, assert_same_run, finish, lines_of, start
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
            sick = [3 if odd and kind == "sick" else 2]
            host = HostBatch(0, step, ids, *[torch.zeros(0)] * 3)
            try:
                agreement.ask(iter([host]), step, sick, compared=kind != "unchecked")
                assert agreement.next_batch() is host
            except Stopped:
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


def sick_of_two(sick: list[int]) -> str:
    """What a rank of two members says, of which some have skipped so many updates."""
    with Exchange(layout_from_environment(2, None, 2), deadline=300) as exchange:
        agreement = Agreement(exchange, StopRequest(), max_skipped=3, same_samples=True)
        ids = torch.arange(6).reshape(2, 3)
        host = HostBatch(0, 0, ids, *[torch.zeros(0)] * 3)
        agreement.ask(iter([host]), 0, sick, compared=True)
        with pytest.raises(RunFailed) as raised:
            agreement.next_batch()
    return str(raised.value)


def test_of_a_rank_of_two_members_the_sick_one_is_named() -> None:
    (text,) = on_ranks(1, sick_of_two, [2, 3])
    assert text.startswith("member 1: no finite gradient for 3 updates in a row")


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
    assert "stopped at step 13; " in ranks.output(0)  # the agreement on update 12 was under way
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("step_00000013/member_*/*.pt")]
    assert (tmp_path / "run/CONTINUE").exists()


# A moment, the update in which it comes, and the step at which all stop: epochs of 8 updates, checkpoints every 4.
MOMENTS = {
    "the samples of the next update are fetched": (5, 6),
    "an update begins": (5, 7),
    "a forward": (5, 7),
    "an update ends": (5, 7),
    "an update of which an evaluation follows": (7, 8),
    "an evaluation": (7, 8),
    "a checkpoint": (7, 9),
    "the last update ends": (19, 20),
}


class AskedToStop(Torch):
    """An engine whose rank is asked to stop at a moment of an update."""

    moment, update, stop = "", 0, StopRequest()

    def now(self, *moments: str) -> None:
        if self.moment in moments and self.exchange.step == self.update and self.exchange.layout.rank == 1:
            AskedToStop.stop.signal = "SIGTERM"

    def scale_learning_rate(self, factor: float) -> None:
        self.now("an update begins")
        super().scale_learning_rate(factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.now("a forward" if torch.is_grad_enabled() else "an evaluation")
        return super().forward(x)

    def step(self) -> None:
        super().step()
        self.now("an update ends", "an update of which an evaluation follows", "the last update ends")

    def state(self) -> dict[str, Any]:
        self.now("a checkpoint")
        return super().state()


def stop_at_every_moment(folder: Path) -> dict[str, list[int]]:
    """For each moment the statuses of a run that is stopped then, and of its continuation."""
    assemble = TrainLoader.assemble

    def assembled(loader: TrainLoader, update: tuple[int, int]) -> HostBatch:
        fetched = AskedToStop.moment == "the samples of the next update are fetched"
        if fetched and layout.rank == 1 and update == (0, AskedToStop.update + 1):
            AskedToStop.stop.signal = "SIGTERM"
        return assemble(loader, update)

    TrainLoader.assemble = assembled  # type: ignore[method-assign]
    layout, found = layout_from_environment(2), dict[str, list[int]]()
    for number, (moment, (update, _)) in enumerate({**MOMENTS, "": (0, 0)}.items()):
        statuses, run = [], RunFolder(folder / (moment or "undisturbed"))
        for AskedToStop.moment in [moment, ""][: 2 if moment else 1]:
            os.environ["DIST_DASH_RENDEZVOUS"] = f"file://{folder}/store_{number}_{len(statuses)}"
            AskedToStop.update, AskedToStop.stop = update, StopRequest()
            command = parse_command([*SMALL, *SHORT, f"--run={run.path}", "--members=2"])
            statuses.append(train(command, layout, AskedToStop.stop))
        found[moment] = statuses
    return found


SHORT = ["--data=Synthetic", "--data.train=64", "--data.test=16", "--loader.batch_size=8", "--max_steps=20"]
SHORT += ["--augment.pad_crop=0", "--engine=tests.distributed.test_agreement.AskedToStop"]
SHORT += ["--record.evaluate_every=1", "--checkpoints.every_steps=4"]


def test_whenever_one_rank_is_asked_to_stop_all_stop_at_the_same_step_and_lose_nothing(tmp_path: Path) -> None:
    first, other = on_ranks(2, stop_at_every_moment, tmp_path)
    assert first == other == {**{moment: [75, 0] for moment in MOMENTS}, "": [0]}
    for moment, (_, step) in MOMENTS.items():
        said = [line["text"] for line in lines_of(tmp_path / moment) if line["kind"] == "event"]
        assert f"continuing {tmp_path / moment} at step {step} of 20" in said, moment
        assert_same_run(tmp_path / moment, tmp_path / "undisturbed")


def test_members_that_start_equal_part_by_their_own_orders(tmp_path: Path) -> None:
    same = ["--engine=Torch", "--method=SGD", "--init=shared", "--model.dropout=0"]
    for order in ("shared", "own"):
        finish(tmp_path / order, 2, 2, *same, f"--loader.order={order}")
        losses = [line["loss"] for line in lines_of(tmp_path / order) if line["kind"] == "train"]
        assert len(losses) == 30
        assert all((first == second) == (order == "shared") for first, second in losses)
