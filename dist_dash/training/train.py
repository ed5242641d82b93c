"""One run, start to end: build, resume, loop, evaluate, export."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from dist_dash.data.host_batch import HostBatch
from dist_dash.data.time_limit import Interrupted, TimeLimit
from dist_dash.ensembles.ensemble import StoredEnsemble, save_member
from dist_dash.ensembles.evaluation import Evaluated, save_results
from dist_dash.ensembles.predictor import MembersInTraining
from dist_dash.errors import BadInput, RunFailed, everywhere, own_code
from dist_dash.files import read_object, write_atomically, write_json
from dist_dash.member.batch import MicroBatch, Progress
from dist_dash.member.member import Member
from dist_dash.member.parameter_groups import with_groups
from dist_dash.member.sketch import Sketch
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import Layout, ask_for_determinism
from dist_dash.recipe.parsing import Command
from dist_dash.recipe.recipe_of_run import completed_recipe, finished_before
from dist_dash.runs.checkpoint import CheckpointSets
from dist_dash.runs.environment import describe_environment
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import Stopped, StopRequest
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED
from dist_dash.runs.record import Recorder, Window, say
from dist_dash.runs.slurm import is_over
from dist_dash.seeds import derived_seed
from dist_dash.training.agreement import Agreement
from dist_dash.training.best_weights import BestWeights
from dist_dash.training.build import (
    build_network_of_member,
    check_facts,
    groups_of_parameters,
    heads_of_parameters,
    load_data,
    on_device,
    train_loader,
    unaugmented,
)
from dist_dash.training.export import export
from dist_dash.training.extension import Extension, refuse_without_set
from dist_dash.training.held_out import evaluate_split
from dist_dash.training.identity import check_can_differ, check_members, check_same_data, equal_members


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
    with Exchange(layout, recipe.exchange, recipe.checks.deadline) as exchange, contextlib.ExitStack() as stack:
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
        run = Run(command, folder, exchange, stop)
        stack.callback(run.recorder.close)
        try:
            run.resume_or_start()
            run.loop()
            run.finish()
            return FINISHED
        except Stopped:
            reason = run.agreement.reason()
            run.event(f"{reason}: stopped at step {run.step}; run the same command to continue")
            if run.started:
                run.save()
            run.leave(folder.to_continue, reason)
            return TO_BE_CONTINUED
        except OSError as error:  # no longer wrong input
            raise error if own_code(error) else RunFailed(f"step {run.step}: {error}") from error


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


class Run:
    """Everything that one rank needs to train its member.

    Args:
        command: what to do.
        folder: the run's; rank 0 owns it.
        exchange: joined.
        stop: this rank's stop request.
    """

    def __init__(self, command: Command, folder: OwnedFolder, exchange: Exchange, stop: StopRequest) -> None:
        self.command, self.recipe, self.folder, self.exchange = command, command.recipe, folder, exchange
        self.layout, recipe = exchange.layout, command.recipe
        if recipe.deterministic:
            ask_for_determinism()
        torch.manual_seed(derived_seed("rank", recipe.seed, self.layout.ensemble_rank))
        self.step, self.evaluated, self.started = 0, True, False
        self.limit = TimeLimit(recipe.checks.deadline, lambda: stop.made)
        self.snapshots: dict[str, str] = {}
        """Checksums of what this rank has put there."""
        self.extended: list[dict[str, Any]] = []
        say_first = say if self.layout.rank == 0 else lambda text: None
        with exchange.together("data"):
            self.data = load_data(recipe, self.layout, say_first)
            facts = self.data.facts.as_json()
            self.loader = train_loader(recipe, self.data, self.layout)
            self.steps_per_epoch = self.loader.steps_per_epoch
            self.total_steps = recipe.max_steps or recipe.epochs * self.steps_per_epoch
            check_facts(recipe, self.data, self.layout, self.total_steps, self.steps_per_epoch)
        check_same_data(exchange, facts)
        length = self.steps_per_epoch, self.total_steps
        self.best = BestWeights(recipe, exchange)
        self.rate_range = recipe.schedule.rate_range(*length)
        self.members_at, self.restarts_at = recipe.schedule.members(*length), recipe.schedule.restarts(*length)
        with exchange.together("model"):
            self.best.check(recipe, self.data, self.layout, len(self.members_at))
            network = build_network_of_member(recipe, self.data, self.layout, say_first)
            heads, groups = heads_of_parameters(recipe, self.layout, network), groups_of_parameters(recipe, network)
        check_can_differ(exchange, network, recipe, self.data.shape)
        with exchange.together("engine"):  # its collectives start once every rank has its network
            recipe.engine.attach(network, with_groups(recipe.optimizer, groups), exchange)
            perturbed = [group is None or group.perturbed for group in groups]
            identity, accumulation = self.layout.identity, recipe.loader.accumulation
            self.member = Member(recipe.engine, identity, accumulation, recipe.seed, heads, perturbed)
            recipe.method.check_network(self.member)
        self.window = Window(exchange)
        with exchange.together("record"):
            self.recorder = self._open_record()
        self.checkpoints = CheckpointSets(
            folder,
            exchange,
            command.resolved,
            facts,
            recipe.checkpoints.keep,
            self.recorder.say,
            self.limit,
            command.extend,
            lambda: completed_recipe(folder, command.resolved),
        )
        same_samples = recipe.loader.order == "shared"
        self.agreement = Agreement(exchange, stop, recipe.checks.max_skipped, same_samples)

    @property
    def epoch(self) -> float:
        """Passes over the training split so far, not a whole number."""
        return self.step / self.steps_per_epoch

    # -- the loop ----------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """Update until all steps are done.

        Raises:
            Stopped: all ranks agreed to stop before the next update.
        """
        record, save = self.recipe.record, self.recipe.checkpoints
        batches = self.loader(*divmod(self.step, self.steps_per_epoch), self.limit)
        with contextlib.closing(batches):
            while self.step < self.total_steps and not self.best.waited_enough:
                compared = self.step % self.recipe.checks.samples_every == 0
                host = self.agreement.next_batch(batches, self.step, self.member.skipped_in_a_row, compared)
                self.prepare_update()
                self.update(host)
                if self.step in self.members_at[:-1]:
                    self.save_snapshot(self.members_at.index(self.step))
                end_of_epoch = self.step % self.steps_per_epoch == 0
                epochs_done = self.step // self.steps_per_epoch
                if self.step % record.every == 0:
                    self.write_window()
                self.evaluated = not (
                    end_of_epoch and record.evaluate_every and epochs_done % record.evaluate_every == 0
                )
                self.evaluate_if_due()
                due = end_of_epoch and save.every_epochs and epochs_done % save.every_epochs == 0
                if due or (save.every_steps and self.step % save.every_steps == 0):
                    self.save()

    def prepare_update(self) -> None:
        """What comes before an update: a restart of the weights, the method's look at an epoch."""
        exchange, method = self.exchange, self.recipe.method
        if self.step in self.restarts_at:
            cycle = 1 + self.restarts_at.index(self.step)
            with exchange.together("restart"):
                again = build_network_of_member(self.recipe, self.data, self.layout, lambda text: None, cycle)
                self.member.restart(again)
            method.restarted()
            self.recipe.sparsity.start(self.member)
        if self.step % self.steps_per_epoch == 0:
            with exchange.clock.excluded(), self.member.between_updates():
                method.before_epoch(self.step // self.steps_per_epoch, self.member, self.samples, exchange)

    def samples(self, split: str) -> Generator[MicroBatch, None, None]:
        """A split's samples, not augmented, in evaluation order; this replica's share.

        Raises:
            Stopped: all ranks agreed to stop; the pass is made again after the resume.
        """
        with contextlib.suppress(Interrupted):
            for micro in unaugmented(self.recipe, self.data, self.layout, split, self.limit):
                if self.agreement.stop_now():
                    raise Stopped
                yield micro
            return
        self.agreement.stop_now()  # of the other ranks
        raise Stopped

    def update(self, host: HostBatch) -> None:
        """One update of this rank's member."""
        recipe, exchange = self.recipe, self.exchange
        exchange.step = self.step
        factor = recipe.schedule.factor(self.step, self.steps_per_epoch, self.total_steps)
        self.member.engine.scale_learning_rate(factor)
        progress = Progress(self.step, self.total_steps, self.steps_per_epoch, factor, self.rate_range)
        batch = on_device(recipe, host, self.layout, progress)
        recipe.sparsity.before_update(self.member, batch, exchange)
        self.member.sketch = sketch = Sketch() if self._directions_due() else None
        measured = recipe.method.update(self.member, batch, exchange)
        skipped = self.member.engine.skipped
        recipe.sparsity.after_update(self.member, batch, not skipped)
        self.window.add(measured, skipped=float(skipped), **self.member.passes._asdict())
        self.step += 1
        if sketch is not None:
            with exchange.clock.excluded():
                cosines = sketch.cosines(exchange)
            if cosines is not None:
                self.recorder.write("ascent", self.step, self.epoch, cosines=cosines)
        if self.layout.member == 0:  # between them, its replicas read what every member reads
            tell = self.event if self.layout.rank == 0 else say
            for name in host.bad:
                tell(f"unreadable sample passed over: {name}")

    def evaluate_if_due(self) -> None:
        """Evaluate at the end of an epoch, on the validation split where there is one.

        Raises:
            Stopped: all ranks agreed to stop; the evaluation is done after the resume.
        """
        if not self.evaluated:
            with self.exchange.clock.excluded():
                non_finite, found = self._evaluation("validation" if self.data.validation is not None else "test")
            self.evaluated = True
            if self.best.is_best(found, self.step):
                self.save_snapshot(0)
            if non_finite:
                self.event(f"member {non_finite[0]}: predictions are not finite; this evaluation is left out")
            elif found is not None:
                self.recorder.write("eval", self.step, self.epoch, **found.shown)
                if self.recipe.record.trace:
                    with self.exchange.clock.excluded():
                        found.keep_trace(self.folder, self.step, self.recipe.record.trace)

    def write_window(self) -> None:
        """Write the mean of what was measured since the last line."""
        values = self.window.close()
        rate = self.member.engine.optimizer.param_groups[0]["lr"]
        loader = self.recipe.loader
        samples = loader.batch_size * loader.accumulation * self.layout.replicas
        self.recorder.write_training(self.step, self.epoch, values, rate, samples)

    # -- start, save, end --------------------------------------------------------------------------------------------

    def resume_or_start(self) -> None:
        """Go on from the newest complete checkpoint set, or start: weights as built, files as new."""
        folder, found = self.folder, None if self.command.fresh else self.checkpoints.load()
        longer: Extension | None = None
        if found is not None:
            self.step, states, shared = found
            own, longer = states[self.layout.replica], self._extension(shared)
            with self.exchange.together("checkpoint"):
                self.member.engine.load_state([state["engine"] for state in states])
                self.member.after_resume(own["skipped_in_a_row"], own["masks"])
                self.recipe.method.load_state_dict(own["method"])
                self.recipe.sparsity.load_state_dict(own["sparsity"])
                self.window.load_state(own["window"])
                if "best" in own:  # not in sets of earlier versions
                    self.best.load_state(own["best"])
            self.evaluated, self.snapshots = own["evaluated"], own.get("snapshots", {})
            with self.exchange.together("run folder"):
                folder.check_owner()  # before anything is changed: starting takes long enough to be overtaken
                damage = self.recorder.rewind(shared["metrics_bytes"], shared.get("metrics_blake2b"))
            if damage:
                self.event(damage)
            self.event(f"continuing {folder.path} at step {self.step} of {self.total_steps}")
            if longer is not None:
                self.extended.append(longer.as_json())
                self.event(longer.in_words(self.member.engine.learning_rates[0]))
        else:
            with self.exchange.together("run folder"):
                if self.command.extend:
                    refuse_without_set(folder)
                if self.layout.rank == 0:
                    if folder.recipe.exists() and not self.command.fresh:
                        self.recorder.say(f"{folder.path} holds no checkpoint set: starting over")
                    folder.clear()
                    folder.checkpoints.mkdir(exist_ok=True)
            with self.exchange.together("sparsity"):
                self.recipe.sparsity.start(self.member)
        self.started = True
        with self.exchange.together("run folder"):
            if self.layout.rank == 0:
                folder.mark(None)
                if longer is not None:
                    folder.clear_results()  # of the shorter run
                write_atomically(folder.recipe, self.command.as_yaml(self.layout.ensemble_members))
                length = {"total_steps": self.total_steps, **({"extended": self.extended} if self.extended else {})}
                write_json(folder.environment, {**describe_environment(self.layout), **length})
                if found is not None:
                    folder.note_continued()
        check_members(self.exchange, self.member.engine.module, self.recipe.init == "own")
        if found is None and self.recipe.checkpoints.at_start:
            self.save()
        self.evaluate_if_due()
        self.exchange.clock.read()

    def save_snapshot(self, cycle: int) -> None:
        """Keep the present weights as the member that cycle number `cycle` of this chain has made.

        A run that is killed before its next checkpoint comes here again, and writes the same bits.
        """
        with self.exchange.clock.excluded(), self.exchange.together("snapshot"):
            self.folder.check_owner()
            if self.layout.replica == 0:
                self.folder.snapshots.mkdir(exist_ok=True)
                number = self.layout.identity * len(self.members_at) + cycle
                name = self.folder.weights(number)
                self.snapshots[name] = save_member(self.folder.snapshots / name, self.member.engine.module)

    def save(self) -> None:
        """Write a complete checkpoint set of the present step."""
        with self.exchange.clock.excluded():
            check_members(self.exchange, self.member.engine.module, self.recipe.init == "own")
            state = {
                "engine": self.member.engine.state(),
                "method": self.recipe.method.state_dict(),
                "sparsity": self.recipe.sparsity.state_dict(),
                "masks": self.member.masks,
                "window": self.window.state(),
                "evaluated": self.evaluated,
                "best": self.best.state(),
                "skipped_in_a_row": self.member.skipped_in_a_row,
                "snapshots": self.snapshots,
            }
            length = {"total_steps": self.total_steps, "extended": self.extended}
            self.checkpoints.save(self.step, state, {**self.recorder.position(), **length})

    def _extension(self, shared: dict[str, Any]) -> Extension | None:
        """How a run that was to be shorter becomes longer; None where its length stays. Raises `BadInput`."""
        self.extended = shared.get("extended", [])
        before = shared.get("total_steps") or read_object(self.folder.environment).get("total_steps", self.total_steps)
        if not self.command.extend or before == self.total_steps:
            return None
        longer = Extension(self.recipe.schedule, self.steps_per_epoch, self.step, before, self.total_steps)
        with self.exchange.together("extension"):
            longer.check()
        return longer

    def finish(self) -> None:
        """Export the ensemble, evaluate it on the test split, print the table, mark the run as done."""
        if not self.window.empty:  # not before the last set: a longer run has no line here
            self.write_window()
        network = self.member.engine.module
        if self.best.waited_enough:
            self.event(f"ended after {self.epoch:g} epochs: the validation score has not become better")
        if self.best.step is not None:
            what = f"{self.recipe.checkpoints.best} {self.best.score:.4f}"
            self.event(f"the exported weights are those of step {self.best.step}, the best: {what}")
        asked = self.folder, self.command, self.exchange, self.data, network
        exported = export(*asked, len(self.members_at), snapshots=self.snapshots)
        non_finite, found = self._evaluation("test", exported)
        if non_finite:
            raise everywhere(RunFailed(f"member {non_finite[0]}: its predictions of the test split are not finite"))
        with self.exchange.together("export"):
            self.folder.check_owner()  # the evaluation takes long enough to be overtaken
            if found is not None:
                self.recorder.close()  # no progress bar below the table
                exported.write()
                save_results(self.folder, found)
        equal = equal_members(self.exchange, network)
        if equal:
            self.recorder.say(f"note: members {equal[0]} and {equal[1]} are equal (init: {self.recipe.init})")
        self.leave(self.folder.done)
        self.recorder.say(f"finished; everything is in {self.folder.path}")

    def leave(self, marker: Path, why: str = "") -> None:
        """Mark how the run ended."""
        with self.exchange.together("run folder"):
            if self.layout.rank == 0:
                self.folder.mark(marker, why)

    def event(self, text: str) -> None:
        """Say something that happened, and write it down."""
        self.recorder.event(self.step, self.epoch, text)

    def _open_record(self) -> Recorder:
        record, folder = self.recipe.record, self.folder
        board = folder.tensorboard if record.tensorboard else None
        return Recorder(self.layout.rank == 0, folder.metrics, self.total_steps, record.progress, board)

    def _directions_due(self) -> bool:
        epochs = 0 if self.recipe.models else self.recipe.record.directions  # one architecture, or no angle
        return bool(epochs) and self.layout.members > 1 and (self.step + 1) % (epochs * self.steps_per_epoch) == 0

    def _evaluation(self, split: str, exported: StoredEnsemble | None = None) -> tuple[list[int], Evaluated | None]:
        """Of the present weights, or of the exported members: see `evaluate_split`."""
        layout = self.layout
        members = exported or MembersInTraining(self.member.engine, layout, self.data.classes)
        asked = self.recipe, self.data, members, self.exchange, split
        first = layout.first_member * (len(members) // layout.members)
        with self.member.evaluating():
            return evaluate_split(
                *asked, first=first, stop_now=self.agreement.stop_now, limit=self.limit, tell=self.event
            )
