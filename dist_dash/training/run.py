"""Everything that one rank needs to train its member, or members."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from dist_dash.data.time_limit import Interrupted, TimeLimit
from dist_dash.ensembles.ensemble import StoredEnsemble
from dist_dash.ensembles.evaluation import Evaluated
from dist_dash.ensembles.predictor import MembersInTraining
from dist_dash.ranks.exchange import Exchange
from dist_dash.recipe.parsing import Command
from dist_dash.recipe.recipe_of_run import completed_recipe
from dist_dash.runs.checkpoint import CheckpointSets
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import Stopped, StopRequest
from dist_dash.runs.record import Recorder, Window, say
from dist_dash.seeds import derived_seed
from dist_dash.training.agreement import Agreement
from dist_dash.training.best_weights import BestWeights
from dist_dash.training.build import (
    build_member,
    build_network_of_member,
    check_facts,
    groups_of_parameters,
    load_data,
    sample_batch,
    train_loader,
)
from dist_dash.training.held_out import evaluate_split
from dist_dash.training.identity import check_can_differ, check_same_data
from dist_dash.training.speed import choose_kernels, compile_network


class Run:
    """Everything that one rank needs to train its member, or members.

    Args:
        command: what to do.
        folder: the run's; rank 0 owns it.
        exchange: joined.
        stop: this rank's stop request.

    Raises:
        Stopped: a rank was asked to stop before its data were there.
    """

    def __init__(self, command: Command, folder: OwnedFolder, exchange: Exchange, stop: StopRequest) -> None:
        self.command, self.recipe, self.folder, self.exchange = command, command.recipe, folder, exchange
        self.layout, recipe = exchange.layout, command.recipe
        choose_kernels(recipe)
        torch.manual_seed(derived_seed("rank", recipe.seed, self.layout.ensemble_rank))
        self.step, self.evaluated, self.started = 0, True, False
        self.limit = TimeLimit(recipe.checks.deadline, lambda: stop.heard(exchange.stop_asked_for))
        self.snapshots: dict[str, str] = {}
        """Checksums of what this rank has put there."""
        self.extended: list[dict[str, Any]] = []
        say_first = say if self.layout.rank == 0 else lambda text: None
        loaded, late = False, "data: their source has given nothing"
        with exchange.together("data"), contextlib.suppress(Interrupted):
            self.data = self.limit.call(load_data, recipe, self.layout, say_first, what=lambda: late)
            loaded = True
            facts = self.data.facts.as_json()
            self.loader = train_loader(recipe, self.data, self.layout)
            self.steps_per_epoch = self.loader.steps_per_epoch
            self.total_steps = recipe.max_steps or recipe.epochs * self.steps_per_epoch
            check_facts(recipe, self.data, self.layout, self.total_steps, self.steps_per_epoch)
        if exchange.maximum([not loaded])[0]:
            raise Stopped
        check_same_data(exchange, facts)
        length = self.steps_per_epoch, self.total_steps
        self.best = BestWeights(recipe, exchange)
        self.rate_range = recipe.schedule.rate_range(*length)
        self.members_at, self.restarts_at = recipe.schedule.members(*length), recipe.schedule.restarts(*length)
        with exchange.together("model"):
            self.best.check(recipe, self.data, self.layout, len(self.members_at))
            own = [self.layout.apart(member) for member in self.layout.own_members]
            networks = [build_network_of_member(recipe, self.data, layout, say_first) for layout in own]
            groups = groups_of_parameters(recipe, networks[0])
        check_can_differ(exchange, networks, recipe, self.data.shape)
        with exchange.together("engine"):  # its collectives start once every rank has its network
            self.member = build_member(recipe, self.data.shape, exchange, networks, groups)
            if recipe.compile:
                compile_network(recipe.engine, sample_batch(recipe, self.data, self.layout))
            recipe.method.check_network(self.member)
        self.window = Window(exchange)
        with exchange.together("record"):
            board = folder.tensorboard if recipe.record.tensorboard else None
            display = self.total_steps, recipe.record.progress
            self.recorder = Recorder(self.layout.rank == 0, folder.metrics, *display, board)
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

    def event(self, text: str) -> None:
        """Say something that happened, and write it down."""
        self.recorder.event(self.step, self.epoch, text)

    def leave(self, marker: Path, why: str = "") -> None:
        """Mark how the run ended."""
        with self.exchange.together("run folder"):
            if self.layout.rank == 0:
                self.folder.mark(marker, why)

    def evaluate(self, split: str, exported: StoredEnsemble | None = None) -> tuple[list[int], Evaluated | None]:
        """Of the present weights, or of the exported members: see `evaluate_split`."""
        layout, engines = self.layout, [member.engine for member in self.member.each]
        members = exported or MembersInTraining(engines, layout, self.data.classes)
        asked = self.recipe, self.data, members, self.exchange, split
        first = layout.first_member * (len(members) // layout.members)
        with self.member.evaluating():
            return evaluate_split(
                *asked, first=first, stop_now=self.agreement.stop_now, limit=self.limit, tell=self.event
            )
