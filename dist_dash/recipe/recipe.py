"""The recipe: every choice of a run, with its default. Each field's type is the class that implements it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dist_dash.data import Augment, Source
from dist_dash.errors import (
    MOST,
    BadInput,
    require,
    require_count,
    require_fraction,
    require_non_negative,
    require_positive,
)
from dist_dash.member.engine import Engine, Torch
from dist_dash.member.optimizer import MakeOptimizer, try_optimizer
from dist_dash.member.parameter_groups import ParameterGroup
from dist_dash.methods import DASH, Method
from dist_dash.models import Architecture
from dist_dash.sparsity import Dense, Sparsity
from dist_dash.trajectories.schedules import Cosine
from dist_dash.trajectories.trajectory import Trajectory


@dataclass
class Loader:
    """How samples reach a rank.

    Args:
        batch_size: samples per micro-batch and rank.
        accumulation: micro-batches per update.
        workers: background processes that read and augment, per rank; 0 reads in the training process.
        order: `shared`: all members see the same samples; `own`: each member its own order (methods without exchange).
        on_bad_sample: `error` ends the run at an unreadable image; `skip` takes the next one instead, for all members.
    """

    batch_size: int = 64
    accumulation: int = 1
    workers: int = 0
    order: Literal["shared", "own"] = "shared"
    on_bad_sample: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        require_count("loader.batch_size", self.batch_size)
        require_count("loader.accumulation", self.accumulation)
        require_count("loader.workers", self.workers, 0, 1000)


@dataclass
class Labels:
    """What is done to the targets.

    Args:
        noise: share of the training labels replaced by another class, drawn uniformly; validation and test stay clean.
        validation: share of the training split held out, by class; 0 where the data has its own validation split.
        smoothing: label smoothing s: t ← (1 − s) t + s / C.
        mixup: α of the Beta distribution of the mixing share; 0 does not mix.
    """

    noise: float = 0.0
    validation: float = 0.0
    smoothing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        require_fraction("labels.noise", self.noise)
        require_fraction("labels.validation", self.validation)
        require_fraction("labels.smoothing", self.smoothing)
        require_non_negative("labels.mixup", self.mixup)


@dataclass
class Checkpoints:
    """When complete sets are written (always on a stop), and which weights become the ensemble.

    Args:
        every_steps: also every this many updates; 0 does not.
        every_epochs: at the end of every this many epochs; 0 does not.
        keep: how many of the newest sets stay.
        at_start: also before the first update.
        best: export the weights of the evaluation at which the ensemble's score on the validation split was best:
            `validation_nll` or `validation_accuracy`; null: the last weights.
        patience: end the run after so many evaluations in a row without a better one; 0 never does.
    """

    every_steps: int = 0
    every_epochs: int = 1
    keep: int = 2
    at_start: bool = False
    best: Literal["validation_nll", "validation_accuracy"] | None = None
    patience: int = 0

    def __post_init__(self) -> None:
        allowed = "a whole number ≥ 0; 0 without checkpoints.best"
        patient = self.patience == 0 or (self.patience > 0 and self.best is not None)
        require(patient, "checkpoints.patience", self.patience, allowed)
        require_count("checkpoints.every_steps", self.every_steps, 0)
        require_count("checkpoints.every_epochs", self.every_epochs, 0)
        require_count("checkpoints.keep", self.keep)


@dataclass
class Record:
    """What is written down while training; harmless: a resumed run may change it.

    Args:
        every: updates per line of `metrics.jsonl`, which holds their mean.
        evaluate_every: epochs between evaluations; 0 evaluates at the end only.
        progress: a progress bar on a terminal, plain lines elsewhere; false is silent.
        trace: samples of the evaluated split whose predictions are kept at every evaluation, for the report; 0: none.
        directions: epochs between records of the cosines between the members' perturbations; 0: none.
        tensorboard: also write TensorBoard files (needs `pip install dist-dash[report]`).
    """

    every: int = 10
    evaluate_every: int = 1
    progress: bool = True
    trace: int = 256
    directions: int = 1
    tensorboard: bool = False

    def __post_init__(self) -> None:
        require_count("record.every", self.every)
        for name in ("evaluate_every", "trace", "directions"):
            require_count(f"record.{name}", getattr(self, name), 0)


@dataclass
class Checks:
    """What is watched; harmless: a resumed run may change it.

    Args:
        samples_every: updates between comparisons of the sample ids among members.
        deadline: seconds until an exchange gives up and names who is missing; so long a rank waits for its data, too.
        max_skipped: updates in a row that a member may skip for a non-finite gradient before the run ends; those that
            only lower the loss scale of fp16 do not count.
    """

    samples_every: int = 1
    deadline: float = 600.0
    max_skipped: int = 20

    def __post_init__(self) -> None:
        require_count("checks.samples_every", self.samples_every)
        require_positive("checks.deadline", self.deadline)
        require(self.deadline <= MOST, "checks.deadline", self.deadline, f"a number of seconds ≤ {MOST}")
        require_count("checks.max_skipped", self.max_skipped)


@dataclass
class Recipe:
    """One run.

    Args:
        data: where images and labels come from.
        model: the architecture of every member.
        optimizer: any class of `torch.optim`, by name.
        engine: who owns precision and the update.
        method: the update rule.
        models: one architecture per member, in member order; replaces `model`.
        parameter_groups: parameters with their own weight decay or learning rate, or that no ascent moves.
        augment: what is done to training images.
        schedule: the learning rate over the run, and when the weights become a member or start anew.
        sparsity: which weights exist.
        loader: how samples reach a rank.
        labels: noise, validation split, smoothing, mixup.
        checkpoints: when complete sets are written.
        record: what is written down.
        checks: what is watched.
        epochs: passes over the training split.
        max_steps: end after this many updates; null: after `epochs`.
        seed: all randomness derives from it.
        members: ensemble members; null: `members_per_rank` on each rank.
        members_per_rank: small members of one architecture that each rank trains at once; results are those of ranks of
            their own, to rounding. Needs engine Torch, and no replicas.
        init: `own` initial weights per member, `shared` ones, or a `.safetensors` file to fine-tune from, or a list
            of one per member. A head that does not fit the classes starts anew, each member's own.
        init_noise: Gaussian noise of each member's own on its initial weights, as a share of each tensor's root mean
            square; 0 adds none.
        exchange: `gather` all members' logits, or `reduce` them to a sum (memory independent of the members).
        deterministic: ask torch for deterministic kernels: resumes are then equal to the bit on a GPU too. Without
            meaning where `speed` is fast.
        speed: `exact`; `fast` takes whatever kernels are fastest: on a GPU cuDNN tries them out, and fp32 products are
            made in TF32. A repeated run then differs by roundings.
        memory_format: of convolutional networks: `channels_last`, `contiguous`, or `auto`: channels_last on a GPU.
        compile: the networks by `torch.compile`, before the first update; needs a C++ compiler.
    """

    data: Source
    model: Architecture
    optimizer: MakeOptimizer
    engine: Engine
    method: Method = field(default_factory=DASH)
    models: list[Architecture] | None = None
    parameter_groups: list[ParameterGroup] = field(default_factory=list)
    augment: Augment = field(default_factory=Augment)
    schedule: Trajectory = field(default_factory=Cosine)
    sparsity: Sparsity = field(default_factory=Dense)
    loader: Loader = field(default_factory=Loader)
    labels: Labels = field(default_factory=Labels)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    record: Record = field(default_factory=Record)
    checks: Checks = field(default_factory=Checks)
    epochs: int = 10
    max_steps: int | None = None
    seed: int = 0
    members: int | None = None
    members_per_rank: int = 1
    init: list[str] | str = "own"
    init_noise: float = 0.0
    exchange: Literal["gather", "reduce"] = "gather"
    deterministic: bool = True
    speed: Literal["exact", "fast"] = "exact"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        require(
            self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "null or a whole number ≥ 1"
        )
        require_count("max_steps", self.max_steps)
        require(self.members is None or self.members >= 1, "members", self.members, "null or a whole number ≥ 1")
        require_count("members", self.members)
        require_count("members_per_rank", self.members_per_rank)
        require_count("seed", self.seed, 0, 2**63 - 1)
        require(self.models is None or len(self.models) > 0, "models", self.models, "null or one per member")
        try_optimizer(self.optimizer, [(1,)])
        require_non_negative("init_noise", self.init_noise)
        files = self.init if isinstance(self.init, list) else [self.init] * (self.init not in ("own", "shared"))
        if self.init == [] or not all(file.endswith(".safetensors") for file in files):
            allowed = "own, shared, a .safetensors file or a list of one per member"
            raise BadInput(f"init: {self.init!r} is not allowed; it must be {allowed}")
        if self.loader.order == "own" and self.method.exchanges:
            name = type(self.method).__name__
            raise BadInput(
                f"loader.order: own is not allowed with method {name}, whose members must see the same samples"
            )
        equal = self.init != "own" and not isinstance(self.init, list) and not self.init_noise
        if self.exchange == "reduce" and equal and self.method.exchanges:
            # Sums cannot give equal members exactly their own prediction back: noise would steer the ascent.
            raise BadInput("exchange: reduce is not allowed with members that start equal (init); use gather")
        if self.members_per_rank > 1:
            self._check_stacked()

    def _check_stacked(self) -> None:
        """Refuse what several members of one rank cannot do."""
        here = f"with members_per_rank: {self.members_per_rank}"
        whole = f"a divisor of the {self.members} members"
        divides = self.members is None or self.members % self.members_per_rank == 0
        require(divides, "members_per_rank", self.members_per_rank, whole)
        parts: dict[str, tuple[object, bool, str]] = {"engine": (self.engine, type(self.engine) is Torch, "Torch")}
        parts["sparsity"] = (self.sparsity, type(self.sparsity) is Dense, "Dense")
        parts["method"] = (self.method, self.method.stacked, "SGD, SAM, DASH or one that is made for it (`stacked`)")
        for field_name, (part, works, allowed) in parts.items():
            require(works, field_name, type(part).__name__, f"{allowed} {here}")
        require(not self.compile, "compile", self.compile, f"false {here}")
        precision = self.engine.precision
        require(precision != "fp16", "engine.precision", precision, f"fp32, fp64 or bf16 {here}")
        require(self.models is None, "models", len(self.models or []), f"null {here}: one architecture for all")
        require(self.loader.order == "shared", "loader.order", self.loader.order, f"shared {here}")
