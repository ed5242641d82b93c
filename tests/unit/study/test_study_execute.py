"""Who runs what, what is tried again, what ends a study: with ranks that only pretend."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dist_dash.errors import BadInput, RunFailed
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import BAD_INPUT, FAILED, FINISHED, TO_BE_CONTINUED
from dist_dash.study import execute
from dist_dash.study.execute import Executor
from dist_dash.study.study_plan import PlannedRun

Act = Callable[["Pretended"], int]


class Pretended:
    """Ranks that do what the test says; `acts` by the name of the run, one for each attempt, then 0."""

    acts: dict[str, list[Act | int | Exception]]
    trained: list[tuple[str, int]]
    groups: list[Pretended]

    def __init__(self, world: int, threads: int) -> None:
        self.world, self.threads, self.stopped, self.left = world, threads, threading.Event(), 0
        self.groups.append(self)

    def __enter__(self) -> Pretended:
        return self

    def __exit__(self, *problem: object) -> None:
        self.left += 1

    def stop(self) -> None:
        self.stopped.set()

    def train(self, arguments: Sequence[str], log: Path) -> int:
        folder = Path(next(a for a in arguments if a.startswith("--run=")).removeprefix("--run="))
        self.trained.append((folder.name, id(self)))
        assert log == folder.parent / f"{folder.name}.log"
        assert log.parent.is_dir()
        acts = self.acts.get(folder.name, [])
        act = acts.pop(0) if acts else FINISHED
        if isinstance(act, Exception):
            raise act
        status = act if isinstance(act, int) else act(self)
        if status == FINISHED:
            folder.mkdir(exist_ok=True)
            (folder / "DONE").touch()
        else:
            with log.open("a") as file:
                file.write(f"a table\ndist-dash: the words of {folder.name}\n\n")
        return status


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> type[Pretended]:
    kind = type("Kind", (Pretended,), {"acts": {}, "trained": [], "groups": []})
    monkeypatch.setattr(execute, "WarmRanks", kind)
    return kind


def runs(number: int) -> list[PlannedRun]:
    return [PlannedRun(f"selection/c/r{n}", (f"--seed={n}",)) for n in range(number)]


def executed(
    folder: Path, number: int, *, groups: int = 1, stop: StopRequest | None = None, then: Any = None
) -> tuple[bool, list[str]]:
    """Whether all runs are finished, and what `then` was called with."""
    seen: list[str] = []
    with Executor(folder, 2, groups, 1, stop or StopRequest(), number) as executor:
        finished = executor.run(runs(number), then or (lambda run: seen.append(run.name)))
    return finished, seen


def names(ranks: type[Pretended]) -> list[str]:
    return [name for name, _ in ranks.trained]


def test_each_run_once_and_told_of_once(ranks: type[Pretended], tmp_path: Path) -> None:
    finished, seen = executed(tmp_path, 7, groups=3)
    assert finished
    assert sorted(seen) == [run.name for run in runs(7)]
    assert sorted(names(ranks)) == [f"r{n}" for n in range(7)]
    assert [group.left for group in ranks.groups] == [1, 1, 1]


def test_groups_share_the_runs(ranks: type[Pretended], tmp_path: Path) -> None:
    meet = threading.Barrier(2, timeout=300)

    def together(group: Pretended) -> int:
        meet.wait()  # passes only where two groups train at the same time
        return FINISHED

    ranks.acts.update({f"r{n}": [together] for n in range(4)})
    assert executed(tmp_path, 4, groups=2)[0]
    assert len({group for _, group in ranks.trained}) == 2


def test_what_follows_a_run_is_done_one_at_a_time(ranks: type[Pretended], tmp_path: Path) -> None:
    """It scores and measures in this process; neither must know of threads."""
    executed(tmp_path, 3)
    inside = threading.Lock()

    def then(run: PlannedRun) -> None:
        assert inside.acquire(blocking=False)
        threading.Event().wait(0.01)
        inside.release()

    assert executed(tmp_path, 9, groups=3, then=then)[0]


def test_what_is_finished_is_told_of_but_not_run(ranks: type[Pretended], tmp_path: Path) -> None:
    executed(tmp_path, 3)
    ranks.trained.clear()
    finished, seen = executed(tmp_path, 5)
    assert finished
    assert names(ranks) == ["r3", "r4"]
    assert sorted(seen) == [run.name for run in runs(5)]
    finished, seen = executed(tmp_path, 5)
    assert finished
    assert names(ranks) == ["r3", "r4"]
    assert len(seen) == 5


BROKEN: list[tuple[int | Exception, str]] = [
    (FAILED, "study: selection/c/r1 failed; trying again: the words of r1\n"),
    (RunFailed("rank 1 died (exit status -9)"), "study: selection/c/r1 failed; trying again: rank 1 died (exit status"),
    (TO_BE_CONTINUED, "study: selection/c/r1 was stopped; trying again: the words of r1\n"),
]


@pytest.mark.parametrize(("act", "line"), BROKEN)
def test_what_breaks_is_tried_once_more(
    act: int | Exception, line: str, ranks: type[Pretended], tmp_path: Path, capsys: Any
) -> None:
    ranks.acts["r1"] = [act]
    finished, seen = executed(tmp_path, 3)
    assert finished
    assert names(ranks) == ["r0", "r1", "r1", "r2"]
    assert len(seen) == 3
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize(("act", "line"), BROKEN)
def test_what_breaks_twice_ends_the_study(
    act: int | Exception, line: str, ranks: type[Pretended], tmp_path: Path
) -> None:
    ranks.acts["r1"] = [act, act]
    with pytest.raises(
        RunFailed, match=r"^selection/c/r1 failed twice \((the words of r1|rank 1 died.*)\); see .*r1.log"
    ):
        executed(tmp_path, 3)
    assert names(ranks) == ["r0", "r1", "r1"]
    assert [group.left for group in ranks.groups] == [1]
    assert executed(tmp_path, 3)[0]  # the same command goes on with what is left
    assert names(ranks)[3:] == ["r1", "r2"]


def test_bad_input_is_not_tried_again(ranks: type[Pretended], tmp_path: Path) -> None:
    ranks.acts["r1"] = [BAD_INPUT]
    with pytest.raises(BadInput, match=r"^the words of r1 \(study, run selection/c/r1\)$"):
        executed(tmp_path, 3)
    assert names(ranks) == ["r0", "r1"]


def test_another_group_is_stopped_where_one_fails(ranks: type[Pretended], tmp_path: Path) -> None:
    begun, asked = threading.Event(), list[bool]()

    def long(group: Pretended) -> int:
        begun.set()
        asked.append(group.stopped.wait(20))
        return TO_BE_CONTINUED  # not a reason to try again

    def bad(group: Pretended) -> int:
        assert begun.wait(20)
        return BAD_INPUT

    ranks.acts.update(r0=[long], r1=[bad])
    with pytest.raises(BadInput, match="the words of r1"):
        executed(tmp_path, 4, groups=2)
    assert sorted(names(ranks)) == ["r0", "r1"]
    assert asked == [True]


@pytest.mark.parametrize("status", [TO_BE_CONTINUED, FAILED, BAD_INPUT, RunFailed("rank 0 died (exit status -15)")])
def test_a_stop_ends_the_run_under_way_and_begins_no_other(
    status: int | Exception, ranks: type[Pretended], tmp_path: Path
) -> None:
    stop = StopRequest()

    def under_way(group: Pretended) -> int:
        stop.signal = "SIGTERM"
        assert group.stopped.wait(20)
        if isinstance(status, Exception):  # ranks that were starting had no handler yet
            raise status
        return status

    ranks.acts["r1"] = [under_way]
    finished, seen = executed(tmp_path, 4, stop=stop)
    assert not finished
    assert names(ranks) == ["r0", "r1"]
    assert seen == ["selection/c/r0"]


def test_a_stop_before_the_first_run(ranks: type[Pretended], tmp_path: Path) -> None:
    stop = StopRequest()
    stop.signal = "SIGINT"
    assert executed(tmp_path, 2, stop=stop) == (False, [])
    assert names(ranks) == []


def test_a_stop_while_finished_runs_are_scored(ranks: type[Pretended], tmp_path: Path) -> None:
    executed(tmp_path, 6)
    (tmp_path / "selection/c/r5/DONE").unlink()
    stop, seen = StopRequest(), list[str]()
    ranks.acts["r5"] = [lambda group: TO_BE_CONTINUED if group.stopped.wait(20) else FAILED]

    def score(run: PlannedRun) -> None:
        seen.append(run.name)
        stop.signal = "SIGTERM"

    assert not executed(tmp_path, 6, stop=stop, then=score)[0]
    assert seen == ["selection/c/r0"]


def test_a_stop_after_the_last_run_changes_nothing(ranks: type[Pretended], tmp_path: Path) -> None:
    stop = StopRequest()

    def last(run: PlannedRun) -> None:
        stop.signal = "SIGTERM" if run.name.endswith("r1") else None

    assert executed(tmp_path, 2, stop=stop, then=last)[0]


@pytest.mark.parametrize("before", [True, False])
def test_what_goes_wrong_with_a_score_ends_the_study(before: bool, ranks: type[Pretended], tmp_path: Path) -> None:
    """Whether a run was finished before (scored by the waiting thread) or now (by a group's)."""
    before_all = threading.active_count()

    def score(run: PlannedRun) -> None:
        if run.name.endswith("r0"):
            raise BadInput("selection.score: no such thing")

    if before:
        executed(tmp_path, 1)
        ranks.acts["r1"] = [lambda group: TO_BE_CONTINUED if group.stopped.wait(20) else FAILED]
    with pytest.raises(BadInput, match="no such thing"):
        executed(tmp_path, 3, then=score)
    assert threading.active_count() == before_all
    assert not (tmp_path / "selection/c/r2").exists()


def test_an_error_nobody_foresaw_is_not_swallowed(ranks: type[Pretended], tmp_path: Path) -> None:
    ranks.acts["r0"] = [KeyError("unforeseen")]
    with pytest.raises(KeyError, match="unforeseen"):
        executed(tmp_path, 2)


# -- progress ----------------------------------------------------------------------------------------------------------


class Watch:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(execute, "time", self)

    def monotonic(self) -> float:
        return self.now


def lines(capsys: Any) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line]


def test_the_estimate_counts_only_what_was_run_here(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    watch = Watch(monkeypatch)
    with execute.StudyProgress(20) as shown:
        watch.now += 5
        shown.skip(10)
        watch.now += 55  # a minute in all for the first one
        shown.advance("a")
        assert lines(capsys) == ["study: 11 of 20 runs, about 9 min left; finished a"]
        watch.now += 9
        shown.advance("b")
        assert lines(capsys) == []  # not more often than every ten seconds
        watch.now += 51
        shown.advance("c")
        assert lines(capsys) == ["study: 13 of 20 runs, about 5 min left; finished c"]  # 7 × 2 min / 3
        shown.skip(6)
        assert lines(capsys) == []
        watch.now += 1
        shown.advance("d")  # the last one is told of in any case
        assert lines(capsys) == ["study: 20 of 20 runs, about 0 min left; finished d"]


def test_on_a_terminal_a_bar_says_the_same(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    watch = Watch(monkeypatch)
    monkeypatch.setattr(execute.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with execute.StudyProgress(4) as shown:
        shown.skip(2)
        watch.now += 600
        shown.advance("a/b")
    found = capsys.readouterr().err
    assert "3/4" in found
    assert re.search(r"about 10 min\s+left;\s+finished a/b", found), found


def test_many_threads_lose_no_count(capsys: Any) -> None:
    with execute.StudyProgress(400) as shown:
        threads = [threading.Thread(target=lambda: [shown.advance("x") for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert lines(capsys)[-1].startswith("study: 400 of 400 runs")


def test_the_log_s_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert execute.last_line(log) == "it printed nothing"
    log.write_bytes(b"one\n\xff\n  \n")
    assert execute.last_line(log) == "�"
    log.write_text("table\ndist-dash: rank 1: lost\n\n")
    assert execute.last_line(log) == "rank 1: lost"
