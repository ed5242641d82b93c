"""The loop over updates."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from functools import partial

from dist_dash.data.host_batch import HostBatch
from dist_dash.data.time_limit import Interrupted
from dist_dash.member.batch import MicroBatch, Progress
from dist_dash.member.sketch import Sketch
from dist_dash.runs.preemption import Stopped
from dist_dash.runs.record import say
from dist_dash.training.build import build_network_of_member, on_device, unaugmented
from dist_dash.training.resume import save, save_snapshot
from dist_dash.training.run import Run


def loop(run: Run) -> None:
    """Update until all steps are done.

    Raises:
        Stopped: all ranks agreed to stop; what was not done is done after the resume.
    """
    evaluate_if_due(run)  # left over by a run that was stopped
    run.exchange.clock.read()
    batches = run.loader(*divmod(run.step, run.steps_per_epoch), run.limit)
    with contextlib.closing(batches):
        ask(run, batches, run.step)
        while run.step < run.total_steps and not run.best.waited_enough:
            host = run.agreement.next_batch()
            prepare_update(run)
            ask(run, batches, run.step + 1)
            update(run, host)
            after_update(run)


def ask(run: Run, batches: Iterator[HostBatch], step: int) -> None:
    """Fetch the samples of an update, if there is to be one, and start to agree on it with all ranks."""
    if step < run.total_steps:
        compared = step % run.recipe.checks.samples_every == 0
        run.agreement.ask(batches, step, [member.known_skipped_in_a_row for member in run.member.each], compared)


def after_update(run: Run) -> None:
    """What is due at this step: a member of the chain, the record, an evaluation, a checkpoint set."""
    record, checkpoints = run.recipe.record, run.recipe.checkpoints
    if run.step in run.members_at[:-1]:
        save_snapshot(run, run.members_at.index(run.step))
    end_of_epoch = run.step % run.steps_per_epoch == 0
    epochs_done = run.step // run.steps_per_epoch
    if run.step % record.every == 0:
        write_window(run)
    run.evaluated = not (end_of_epoch and record.evaluate_every and epochs_done % record.evaluate_every == 0)
    evaluate_if_due(run)
    due = end_of_epoch and checkpoints.every_epochs and epochs_done % checkpoints.every_epochs == 0
    if due or (checkpoints.every_steps and run.step % checkpoints.every_steps == 0):
        save(run)


def prepare_update(run: Run) -> None:
    """What comes before an update: a restart of the weights, the method's look at an epoch."""
    exchange, method = run.exchange, run.recipe.method
    if run.step in run.restarts_at:
        cycle = 1 + run.restarts_at.index(run.step)
        with exchange.together("restart"):
            for member, number in zip(run.member.each, run.layout.own_members, strict=True):
                layout = run.layout.apart(number)
                member.restart(build_network_of_member(run.recipe, run.data, layout, lambda text: None, cycle))
        method.restarted()
        run.recipe.sparsity.start(run.member)
    if run.step % run.steps_per_epoch == 0:
        with exchange.clock.excluded(), run.member.between_updates():
            method.before_epoch(run.step // run.steps_per_epoch, run.member, partial(samples, run), exchange)


def samples(run: Run, split: str) -> Generator[MicroBatch, None, None]:
    """A split's samples, not augmented, in evaluation order; this replica's share.

    Raises:
        Stopped: all ranks agreed to stop; the pass is made again after the resume.
    """
    with contextlib.suppress(Interrupted):
        for micro in unaugmented(run.recipe, run.data, run.layout, split, run.limit):
            if run.agreement.stop_now():
                raise Stopped
            yield micro
        return
    run.agreement.stop_now()  # of the other ranks
    raise Stopped


def update(run: Run, host: HostBatch) -> None:
    """One update of this rank's member, or members."""
    recipe, exchange = run.recipe, run.exchange
    exchange.step = run.step
    factor = recipe.schedule.factor(run.step, run.steps_per_epoch, run.total_steps)
    for member in run.member.each:
        member.engine.scale_learning_rate(factor)
    progress = Progress(run.step, run.total_steps, run.steps_per_epoch, factor, run.rate_range)
    batch = on_device(recipe, host, run.layout, progress)
    recipe.sparsity.before_update(run.member, batch, exchange)
    run.member.sketch = sketch = Sketch() if directions_due(run) else None
    measured = recipe.method.update(run.member, batch, exchange)
    recipe.sparsity.after_update(run.member, batch, run.member.moved)
    scale = run.member.engine.loss_scale
    scales = {} if scale is None else {"loss_scale": scale.value}  # of the next update
    skipped = [member.engine.skipped for member in run.member.each]
    run.window.add(measured, skipped, **scales, **run.member.passes._asdict())
    run.step += 1
    if sketch is not None:
        with exchange.clock.excluded():
            cosines = sketch.cosines(exchange)
        if cosines is not None:
            run.recorder.write("ascent", run.step, run.epoch, cosines=cosines)
    if run.layout.member == 0:  # between them, its replicas read what every member reads
        tell = run.event if run.layout.rank == 0 else say
        for name in host.bad:
            tell(f"unreadable sample passed over: {name}")


def evaluate_if_due(run: Run) -> None:
    """Evaluate at the end of an epoch, on the validation split where there is one.

    Raises:
        Stopped: all ranks agreed to stop; the evaluation is done after the resume.
    """
    if not run.evaluated:
        with run.exchange.clock.excluded():
            non_finite, found = run.evaluate("validation" if run.data.validation is not None else "test")
        run.evaluated = True
        if run.best.is_best(found, run.step):
            save_snapshot(run, 0)
        if non_finite:
            run.event(f"member {non_finite[0]}: predictions are not finite; this evaluation is left out")
        elif found is not None:
            run.recorder.write("eval", run.step, run.epoch, **found.shown)
            if run.recipe.record.trace:
                with run.exchange.clock.excluded():
                    found.keep_trace(run.folder, run.step, run.recipe.record.trace)


def write_window(run: Run) -> None:
    """Write the mean of what was measured since the last line."""
    values = run.window.close()
    rate = run.member.each[0].engine.optimizer.param_groups[0]["lr"]
    loader = run.recipe.loader
    samples = loader.batch_size * loader.accumulation * run.layout.replicas
    run.recorder.write_training(run.step, run.epoch, values, rate, samples)


def directions_due(run: Run) -> bool:
    """Whether the angles between the members' ascents are measured in this update."""
    epochs = 0 if run.recipe.models else run.recipe.record.directions  # one architecture, or no angle
    return bool(epochs) and run.layout.members > 1 and (run.step + 1) % (epochs * run.steps_per_epoch) == 0
