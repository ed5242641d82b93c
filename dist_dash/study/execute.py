"""Run what is left of a list of runs on warm ranks, with progress and an estimate of the time left."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dist_dash.errors import BadInput, RunFailed
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.last_lines import last_line
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import BAD_INPUT, FAILED, FINISHED, TO_BE_CONTINUED
from dist_dash.runs.record import say
from dist_dash.study.study_plan import PlannedRun
from dist_dash.study.warm import WarmRanks

EVERY = 10.0  # seconds between lines where no terminal shows a bar


class Executor:
    """Groups of warm ranks that share the runs of a study.

    Args:
        folder: of the study.
        world: ranks of each run.
        groups: runs at a time.
        threads: of each rank.
        stop: asked for by a signal.
        total: runs of the whole study, done or not: for the estimate.
    """

    def __init__(self, folder: Path, world: int, groups: int, threads: int, stop: StopRequest, total: int) -> None:
        self.folder, self._stop, self._total = folder, stop, total
        self._groups = [WarmRanks(world, threads) for _ in range(groups)]
        self._progress = StudyProgress(total)
        self._problems: list[Exception] = []
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> Executor:
        self._open = contextlib.ExitStack()
        self._open.enter_context(self._progress)
        for group in self._groups:
            self._open.enter_context(group)
        return self

    def __exit__(self, *problem: Any) -> None:
        self._open.__exit__(*problem)

    def run(self, runs: Sequence[PlannedRun], then: Callable[[PlannedRun], None]) -> bool:
        """Run what is not finished, and say whether all of them are finished now.

        Args:
            runs: in any number and state.
            then: called once for each finished run, whenever it was finished; by several threads, one at a time.

        Raises:
            BadInput: a run refused its input; the message is that of the run.
            RunFailed: a run failed twice.
        """
        left: queue.SimpleQueue[PlannedRun] = queue.SimpleQueue()
        done = [run for run in runs if RunFolder(self.folder / run.name).done.exists()]
        for run in runs:
            if run not in done:
                left.put(run)
        finished: list[PlannedRun] = []

        def work(group: WarmRanks) -> None:
            with contextlib.suppress(queue.Empty), self._handing_on():
                while not self._ending:
                    run = left.get_nowait()
                    if self._train(group, run):
                        with self._one_at_a_time:
                            then(run)
                        finished.append(run)
                        self._progress.advance(run.name)

        threads = [threading.Thread(target=work, args=(group,)) for group in self._groups]
        self._progress.skip(len(done))
        for thread in threads:
            thread.start()
        with self._handing_on():
            for run in done:
                if self._ending:
                    break
                with self._one_at_a_time:
                    then(run)
                finished.append(run)
        self._wait(threads)
        if self._problems:
            raise self._problems[0]
        return len(finished) == len(runs)

    @property
    def _ending(self) -> bool:
        """Whether no more runs are to start, and the current ones are to save and exit."""
        return self._stop.made or bool(self._problems)

    @contextlib.contextmanager
    def _handing_on(self) -> Iterator[None]:
        """Hand exceptions to the waiting thread, which raises them."""
        try:
            yield
        except queue.Empty:
            raise
        except Exception as error:
            self._problems.append(error)

    def _wait(self, threads: Sequence[threading.Thread]) -> None:
        asked = False
        while any(thread.is_alive() for thread in threads):
            if self._ending and not asked:
                asked = True
                for group in self._groups:
                    group.stop()
            for thread in threads:
                thread.join(0.05)

    def _train(self, group: WarmRanks, run: PlannedRun) -> bool:
        """Train a run, a second time if it fails; returns whether it is finished, which it is not after a stop."""
        folder = self.folder / run.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{folder.name}.log")
        for attempt in (1, 2):
            try:
                status = group.train([*run.arguments, f"--run={folder}"], log)
            except RunFailed as error:
                status, why = FAILED, str(error)
            else:
                why = last_line(log)
            if status == FINISHED or self._ending:
                return status == FINISHED
            if status == BAD_INPUT:
                raise BadInput(f"{why} (study, run {run.name})")
            what = "was stopped" if status == TO_BE_CONTINUED else "failed"  # by a signal to its ranks alone
            say(f"study: {run.name} {what}{'; trying again' if attempt == 1 else ''}: {why}")
        raise RunFailed(
            f"{run.name} failed twice ({why}); see {log}. The same command continues with the remaining runs"
        )


class StudyProgress:
    """Progress of a study: a bar on a terminal, otherwise a line every few seconds.

    Args:
        total: runs.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._run_here = total, 0, 0
        self._started = self._told = time.monotonic()
        self._lock = threading.Lock()
        columns = (TextColumn("study"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
        self._show = sys.stderr.isatty()
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> StudyProgress:
        if self._show:
            self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._show:
            self._bar.stop()

    def skip(self, runs: int) -> None:
        """Count runs that were finished before."""
        with self._lock:
            self._done += runs
            self._bar.update(self._task, advance=runs)

    def advance(self, name: str) -> None:
        """Count a run that has just finished."""
        with self._lock:
            self._done, self._run_here = self._done + 1, self._run_here + 1
            now = time.monotonic()
            # Rich's own estimate forgets what is older than half a minute, and takes skipped runs for quick ones.
            minutes = (self._total - self._done) * (now - self._started) / self._run_here / 60
            left = f"about {minutes:.0f} min left; finished {name}"
            self._bar.update(self._task, advance=1, description=left)
            if not self._show and (now - self._told > EVERY or self._done == self._total):
                self._told = now
                say(f"study: {self._done} of {self._total} runs, {left}")
