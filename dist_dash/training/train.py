"""One run, start to end: build, resume, loop, evaluate, export."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dist_dash.ensembles.evaluation import save_results
from dist_dash.errors import BadInput, RunFailed, everywhere, own_code
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.parsing import Command
from dist_dash.recipe.recipe_of_run import finished_before
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import Stopped, StopRequest
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED
from dist_dash.runs.record import say
from dist_dash.runs.slurm import is_over
from dist_dash.training.export import export
from dist_dash.training.identity import equal_members
from dist_dash.training.loop import loop, write_window
from dist_dash.training.resume import resume_or_start, save
from dist_dash.training.run import Run


def train(command: Command, layout: Layout, stop: StopRequest) -> int:
    """Train on this rank until the run is finished or all ranks agree to stop.

    Returns:
        The exit status: 0 finished, 75 stopped on purpose (run the same command to continue).

    Raises:
        BadInput: what was asked for cannot be done; nothing was started.
        RunFailed: the run broke; the last complete checkpoint set is intact.
    """
    recipe, folder = command.recipe, OwnedFolder(command.run)
    if command.replicas not in (None, layout.replicas):
        what = f"{layout.world} ranks for {layout.members} members make {layout.replicas}"
        raise BadInput(f"replicas: {command.replicas} is not allowed; {what}")
    asked = recipe.exchange, recipe.checks.deadline, stop.noticed
    with Exchange(layout, *asked) as exchange, contextlib.ExitStack() as stack:
        if any(exchange.collect(layout.restarted)):  # a requeued job goes on; torchrun's agents count each for itself
            command.fresh = False
        with exchange.together("run folder"):
            if layout.rank == 0:
                folder.acquire(layout.job, is_over)
                stack.callback(folder.release)
                stack.enter_context(folder.noting_failure())
        folder.token = exchange.collect(folder.token)[0]
        if layout.rank:
            stack.enter_context(noting_loss_of_owner(folder, exchange))
        with exchange.together("run folder"):
            folder.check_shared()
        with exchange.together("run folder"):
            finished = layout.rank == 0 and finished_already(command, layout.members, layout.replicas)
        if exchange.collect(finished)[0]:
            return FINISHED
        try:
            run = Run(command, folder, exchange, stop)
        except Stopped:
            return stopped_at_start(folder, exchange, stop)
        stack.callback(run.recorder.close)
        try:
            resume_or_start(run)
            loop(run)
            finish(run)
            return FINISHED
        except Stopped:
            reason = run.agreement.reason()
            run.event(f"{reason}: stopped at step {run.step}; run the same command to continue")
            if run.started:
                save(run)
            run.leave(folder.to_continue, reason)
            return TO_BE_CONTINUED
        except OSError as error:  # no longer wrong input
            raise error if own_code(error) else RunFailed(f"step {run.step}: {error}") from error


def stopped_at_start(folder: OwnedFolder, exchange: Exchange, stop: StopRequest) -> int:
    """Leave a run that was asked to stop before there was anything to save; its exit status."""
    reason = stop.named(exchange.maximum([stop.level])[0])
    with exchange.together("run folder"):
        if exchange.layout.rank == 0:
            folder.mark(folder.to_continue, reason)
            say(f"{reason}: stopped before the data were there; run the same command to continue")
    return TO_BE_CONTINUED


@contextlib.contextmanager
def noting_loss_of_owner(folder: OwnedFolder, exchange: Exchange) -> Iterator[None]:
    """Leave `FAILED` in place of rank 0 where that is what went missing in the body."""
    try:
        yield
    except RunFailed as error:
        if 0 in exchange.lost:
            with contextlib.suppress(OSError, RunFailed):  # a full disk, a new owner: the first error matters more
                folder.check_owner()
                folder.mark(folder.failed, " ".join(str(error).split()))
        raise


def finished_already(command: Command, members: int, replicas: int) -> bool:
    """Whether there is nothing left to do, which is said; arguments and errors as in `finished_before`."""
    finished = finished_before(command, members, replicas)
    if finished:
        say(f"{command.run} is finished already; --fresh starts over, --extend with more epochs trains on")
    return finished


def finish(run: Run) -> None:
    """Export the ensemble, evaluate it on the test split, print the table, mark the run as done."""
    if not run.window.empty:  # not before the last set: a longer run has no line here
        write_window(run)
    networks = run.member.networks
    if run.best.waited_enough:
        run.event(f"ended after {run.epoch:g} epochs: the validation score has not become better")
    if run.best.step is not None:
        what = f"{run.recipe.checkpoints.best} {run.best.score:.4f}"
        run.event(f"the exported weights are those of step {run.best.step}, the best: {what}")
    asked = run.folder, run.command, run.exchange, run.data, networks
    exported = export(*asked, len(run.members_at), snapshots=run.snapshots)
    non_finite, found = run.evaluate("test", exported)
    if non_finite:
        raise everywhere(RunFailed(f"member {non_finite[0]}: its predictions of the test split are not finite"))
    with run.exchange.together("export"):
        run.folder.check_owner()  # the evaluation takes long enough to be overtaken
        if found is not None:
            run.recorder.close()  # no progress bar below the table
            exported.write()
            save_results(run.folder, found)
    equal = equal_members(run.exchange, networks)
    if equal:
        run.recorder.say(f"note: members {equal[0]} and {equal[1]} are equal (init: {run.recipe.init})")
    run.leave(run.folder.done)
    run.recorder.say(f"finished; everything is in {run.folder.path}")
