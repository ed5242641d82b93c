"""From a recipe and a layout to the parts of a run: data, loaders, the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from dist_dash.data.dataset import DataSet, Sharding
from dist_dash.data.host_batch import HostBatch
from dist_dash.data.labels import check_every_class
from dist_dash.data.loader import EvalLoader, TrainLoader
from dist_dash.data.time_limit import TimeLimit
from dist_dash.errors import NOT_TO_BE_USED, BadInput, own_code, require
from dist_dash.member.batch import Batch, MicroBatch, Progress, micro_batch
from dist_dash.member.facts import RunFacts
from dist_dash.member.member import Member
from dist_dash.member.optimizer import fused_by_default, try_optimizer
from dist_dash.member.parameter_groups import ParameterGroup, group_of_each, with_groups
from dist_dash.member.parameters import kinds_of, names_of
from dist_dash.member.stacked import StackedMember
from dist_dash.models import load_pretrained
from dist_dash.models.network import add_noise, seeded_network, try_network
from dist_dash.models.weights import uncompiled
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.recipe import Recipe
from dist_dash.seeds import derived_seed
from dist_dash.training.speed import laid_out

Say = Callable[[str], None]
BY_MATRIX = ("Adafactor", "Muon")  # optimizers whose update of a matrix is another one than that of its elements


def load_data(recipe: Recipe, layout: Layout, say: Say) -> DataSet:
    """The data as this rank's member sees them. Raises `BadInput`, also where a class has no training sample."""
    labels = recipe.labels
    own_order = derived_seed("order", recipe.seed, layout.identity) if recipe.loader.order == "own" else None
    noise = {"label_noise": labels.noise, "validation": labels.validation}
    try:
        splits = recipe.data.load()
    except OSError as error:
        if own_code(error) or error.filename is None or error.errno not in NOT_TO_BE_USED:
            raise
        raise BadInput(f"data: {str(error.filename)!r} cannot be used ({error.strerror})") from error
    if len(splits.heads) == 1:
        check_every_class(splits.train.labels, splits.classes, splits.class_names)
    data = DataSet(splits, recipe.augment, seed=recipe.seed, order_seed=own_order, **noise)
    for remark in splits.remarks:
        say(remark)
    if layout.ensemble_members == 1 and recipe.method.exchanges:
        say(f"one member has no peers: {type(recipe.method).__name__} does without them")
    return data


def check_facts(recipe: Recipe, data: DataSet, layout: Layout, total_steps: int, steps_per_epoch: int) -> RunFacts:
    """What is known of the run before its first update.

    Raises:
        BadInput: method, trajectory or sparsity cannot work with it.
    """
    facts = RunFacts(
        members=layout.members,
        replicas=layout.replicas,
        classes=data.classes,
        heads=data.heads,
        mixed=recipe.labels.mixup > 0,
        precision=recipe.engine.precision,
        zero=getattr(recipe.engine, "zero", 0),
        order=recipe.loader.order,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        alike=not recipe.models,
        compiled=recipe.compile,
    )
    recipe.method.check(facts)
    recipe.schedule.check(facts)
    recipe.sparsity.check(facts)
    saved, restarts = (of(steps_per_epoch, total_steps) for of in (recipe.schedule.members, recipe.schedule.restarts))
    ascending = bool(saved) and sorted({*saved}) == saved and saved[0] >= 1 and saved[-1] == total_steps
    require(ascending, "schedule.members", saved, f"numbers of updates that ascend, the last of them {total_steps}")
    inside = sorted({*restarts}) == restarts and all(0 < update < total_steps for update in restarts)
    require(inside, "schedule.restarts", restarts, f"updates that ascend between 0 and {total_steps}")
    require(not (restarts and facts.zero), "engine.zero", facts.zero, "0 with a schedule that starts anew")
    return facts


def train_loader(recipe: Recipe, data: DataSet, layout: Layout) -> TrainLoader:
    """This rank's share of the training batches."""
    loader = recipe.loader
    return TrainLoader(
        data,
        batch_size=loader.batch_size,
        accumulation=loader.accumulation,
        sharding=Sharding(layout.replicas, layout.replica),
        workers=loader.workers,
        mixup=recipe.labels.mixup,
        pin_memory=layout.device.type == "cuda",
        on_bad_sample=loader.on_bad_sample,
    )


def evaluation_loader(recipe: Recipe, data: DataSet, layout: Layout, split: str, limit: TimeLimit) -> EvalLoader:
    """This rank's share of a split to be evaluated."""
    loader = recipe.loader
    return EvalLoader(
        data.evaluation_split(split),
        batch_size=loader.batch_size,
        sharding=Sharding(layout.replicas, layout.replica),
        workers=loader.workers,
        pin_memory=layout.device.type == "cuda",
        on_bad_sample=loader.on_bad_sample,
        limit=limit,
    )


def unaugmented(
    recipe: Recipe, data: DataSet, layout: Layout, split: str, limit: TimeLimit
) -> Generator[MicroBatch, None, None]:
    """A split's samples in evaluation order, not augmented, with the labels that are trained on; this replica's share.

    Every rank gets equally many micro-batches; those beyond the split's end are empty.
    """
    dtype = recipe.engine.dtype
    for batch in evaluation_loader(recipe, data, layout, split, limit):
        x, labels, ids = batch.x[batch.valid], batch.labels[batch.valid], batch.ids[batch.valid]
        yield micro_batch(x, one_hot(labels, data.classes), ids, None, recipe.labels.smoothing, layout.device, dtype)


def build_network_of_member(recipe: Recipe, data: DataSet, layout: Layout, say: Say, cycle: int = 0) -> nn.Module:
    """This rank's network with its initial weights, on the host.

    Args:
        recipe: of the run.
        data: of the run.
        layout: who this rank is.
        say: takes a line for the user.
        cycle: how often the member's weights have started anew.

    Raises:
        BadInput: there are not as many architectures as members, a network does not fit the data, or the weights to
            start from do not fit the network.
    """
    members = layout.ensemble_members
    architectures = recipe.models or [recipe.model] * members
    require(len(architectures) == members, "models", len(architectures), f"one per member ({members} members)")
    again = [cycle] if cycle else []
    seed = derived_seed("weights", recipe.seed, 0 if recipe.init == "shared" else layout.identity, *again)
    statistics = data.mean, data.std, data.uint8
    own = architectures[layout.identity], data.shape, data.classes, *statistics
    network = seeded_network(seed, *own, heads=data.heads)
    if isinstance(recipe.init, list):
        require(len(recipe.init) == members, "init", len(recipe.init), f"one file per member ({members} members)")
    file = recipe.init[layout.identity] if isinstance(recipe.init, list) else recipe.init
    if file not in ("own", "shared"):
        fresh = load_pretrained(network.net, file)  # type: ignore[arg-type]
        if fresh:
            say(f"init: {', '.join(fresh)} start anew: the file has them for another number of classes")
    if recipe.init_noise:
        add_noise(network, recipe.init_noise, derived_seed("init noise", recipe.seed, layout.identity, *again))
    # A method that holds no gradient beside the descent gradient takes none by `torch.autograd.grad`.
    by_grad = recipe.method.copies(members) > 0
    try_network(network, data.shape, data.heads, recipe.loader.batch_size, by_grad)
    shapes = {parameter.shape for parameter in network.parameters() if parameter.requires_grad}
    make = fused_by_default(recipe.optimizer, layout.device)
    optimizer = try_optimizer(make, shapes, layout.device, recipe.engine.dtype)
    zero = getattr(recipe.engine, "zero", 0)
    name = type(optimizer).__name__
    allowed = f"0 with {name}, which updates matrices as such: sharded, they are parts of a vector"
    require(not (zero and name in BY_MATRIX), "engine.zero", zero, allowed)
    return network


def heads_of_parameters(recipe: Recipe, layout: Layout, network: nn.Module) -> list[int | None]:
    """For each trainable parameter the head that it belongs to; None where all heads share it."""
    architecture = recipe.models[layout.identity] if recipe.models else recipe.model
    return [architecture.head_of(name) for name in _own_names(network)]


def build_member(
    recipe: Recipe,
    shape: tuple[int, ...],
    exchange: Exchange,
    networks: Sequence[nn.Module],
    groups: Sequence[ParameterGroup | None],
) -> Member:
    """The member of this rank, or its members as one.

    Args:
        recipe: of the run.
        shape: of a sample.
        exchange: joined.
        networks: of the members, with their initial weights.
        groups: of each trainable parameter.
    """
    make = with_groups(fused_by_default(recipe.optimizer, exchange.layout.device), groups)
    identity, each = exchange.layout.identity, list[Member]()
    heads = heads_of_parameters(recipe, exchange.layout, networks[0])
    perturbed = [group is None or group.perturbed for group in groups]
    for number, network in enumerate(networks):
        engine = copy.copy(recipe.engine) if len(networks) > 1 else recipe.engine
        engine.attach(laid_out(recipe, network, exchange.layout.device), make, exchange)
        each.append(Member(engine, identity + number, recipe.loader.accumulation, recipe.seed, heads, perturbed))
    if len(each) == 1:
        return each[0]
    return StackedMember(each, torch.zeros(min(2, recipe.loader.batch_size), *shape, device=exchange.layout.device))


def groups_of_parameters(recipe: Recipe, network: nn.Module) -> list[ParameterGroup | None]:
    """For each trainable parameter its group, None where it has none.

    Raises:
        BadInput: a group has no parameter.
    """
    return group_of_each(recipe.parameter_groups, _own_names(network), kinds_of(network))


def _own_names(network: nn.Module) -> list[str]:
    """The names that parameters have in the user's network, without the normalisation of pixels before it."""
    return [uncompiled(name).removeprefix("net.") for name in names_of(network)]


def on_device(recipe: Recipe, host: HostBatch, layout: Layout, progress: Progress) -> Batch:
    """A batch as the loader gave it, moved to the device and finished there."""
    mixes = host.mix if host.mix is not None else [None] * len(host.x)
    target = recipe.labels.smoothing, layout.device, recipe.engine.dtype
    micro = [
        micro_batch(x, y, ids, mix, *target)
        for x, y, ids, mix in zip(host.x, host.target, host.ids, mixes, strict=True)
    ]
    return Batch(micro, progress)


def sample_batch(recipe: Recipe, data: DataSet, layout: Layout) -> Tensor:
    """Zeros in the shape, type and place of a training micro-batch."""
    kept = torch.uint8 if data.uint8 else torch.float32
    dtype = recipe.engine.dtype if recipe.labels.mixup else kept
    return torch.zeros(recipe.loader.batch_size, *data.shape, dtype=dtype, device=layout.device)
