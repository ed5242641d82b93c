"""From a recipe and a layout to the parts of a run: data, loaders, the network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dist_dash.data.dataset import DataSet, Sharding
from dist_dash.data.host_batch import HostBatch
from dist_dash.data.loader import EvalLoader, TrainLoader
from dist_dash.errors import require
from dist_dash.member.batch import Batch, micro_batch
from dist_dash.models import load_pretrained
from dist_dash.models.network import check_logits, seeded_network
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.recipe import Recipe
from dist_dash.seeds import derived_seed

Say = Callable[[str], None]


def load_data(recipe: Recipe, layout: Layout, say: Say) -> DataSet:
    """The data as this rank's member sees them; refuses a method that they do not suit."""
    labels = recipe.labels
    own_order = derived_seed("order", recipe.seed, layout.identity) if recipe.loader.order == "own" else None
    noise = {"label_noise": labels.noise, "validation": labels.validation}
    data = DataSet(recipe.data.load(), recipe.augment, seed=recipe.seed, order_seed=own_order, **noise)
    recipe.method.check(layout.members, data.classes, labels.mixup > 0)
    if layout.ensemble_members == 1 and recipe.method.exchanges:
        say(f"one member has no peers: {type(recipe.method).__name__} does without them")
    return data


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


def evaluation_loader(recipe: Recipe, data: DataSet, layout: Layout, split: str) -> EvalLoader:
    """This rank's share of a split to be evaluated."""
    loader = recipe.loader
    return EvalLoader(
        data.evaluation_split(split),
        batch_size=loader.batch_size,
        sharding=Sharding(layout.replicas, layout.replica),
        workers=loader.workers,
        pin_memory=layout.device.type == "cuda",
        on_bad_sample=loader.on_bad_sample,
    )


def build_network_of_member(recipe: Recipe, data: DataSet, layout: Layout, say: Say) -> nn.Module:
    """This rank's network with its initial weights, on the host.

    Raises:
        BadInput: there are not as many architectures as members, a network does not fit the data, or the weights to
            start from do not fit the network.
    """
    members = layout.ensemble_members
    architectures = recipe.models or [recipe.model] * members
    require(len(architectures) == members, "models", len(architectures), f"one per member ({members} members)")
    seed = derived_seed("weights", recipe.seed, 0 if recipe.init == "shared" else layout.identity)
    statistics = data.mean, data.std, data.uint8
    network = seeded_network(seed, architectures[layout.identity], data.shape, data.classes, *statistics)
    if recipe.init.endswith(".safetensors"):
        fresh = load_pretrained(network.net, recipe.init)  # type: ignore[arg-type]
        if fresh:
            say(f"init: {', '.join(fresh)} start anew: the file has them for another number of classes")
    check_logits(network, data.shape, data.heads)
    return network


def on_device(recipe: Recipe, host: HostBatch, layout: Layout, step: int) -> Batch:
    """A batch as the loader gave it, moved to the device and finished there."""
    mixes = host.mix if host.mix is not None else [None] * len(host.x)
    target = recipe.labels.smoothing, layout.device, recipe.engine.dtype
    micro = [
        micro_batch(x, y, ids, mix, *target)
        for x, y, ids, mix in zip(host.x, host.target, host.ids, mixes, strict=True)
    ]
    return Batch(micro, step)
