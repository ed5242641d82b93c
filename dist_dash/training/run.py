"""Everything that one rank needs to train its member."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dist_dash.data.time_limit import TimeLimit
from dist_dash.ensembles.ensemble import StoredEnsemble
from dist_dash.ensembles.evaluation import Evaluated
from dist_dash.ensembles.predictor import MembersInTraining
from dist_dash.member.member import Member
from dist_dash.member.optimizer import fused_by_default
from dist_dash.member.parameter_groups import with_groups
from dist_dash.ranks.exchange import Exchange
from dist_dash.recipe.parsing import Command
from dist_dash.recipe.recipe_of_run import completed_recipe
from dist_dash.runs.checkpoint import CheckpointSets
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.record import Recorder, Window, say
from dist_dash.seeds import derived_seed
from dist_dash.training.agreement import Agreement
from dist_dash.training.best_weights import BestWeights
from dist_dash.training.build import (
    build_network_of_member,
    check_facts,
    groups_of_parameters,
    heads_of_parameters,
    load_data,
    sample_batch,
    train_loader,
)
from dist_dash.training.held_out import evaluate_split
from dist_dash.training.identity import check_can_differ, check_same_data
from dist_dash.training.speed import choose_kernels, compile_network, laid_out


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
        choose_kernels(recipe)
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
            optimizer = with_groups(fused_by_default(recipe.optimizer, self.layout.device), groups)
            recipe.engine.attach(laid_out(recipe, network, self.layout.device), optimizer, exchange)
            if recipe.compile:
                compile_network(recipe.engine, sample_batch(recipe, self.data, self.layout))
            perturbed = [group is None or group.perturbed for group in groups]
            identity, accumulation = self.layout.identity, recipe.loader.accumulation
            self.member = Member(recipe.engine, identity, accumulation, recipe.seed, heads, perturbed)
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
        layout = self.layout
        members = exported or MembersInTraining(self.member.engine, layout, self.data.classes)
        asked = self.recipe, self.data, members, self.exchange, split
        first = layout.first_member * (len(members) // layout.members)
        with self.member.evaluating():
            return evaluate_split(
                *asked, first=first, stop_now=self.agreement.stop_now, limit=self.limit, tell=self.event
            )
