"""What a rank will need: against networks and optimizers that are really built, and forwards that are really run."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from dist_dash.cluster import memory
from dist_dash.cluster.memory import Memory, describe, estimate
from dist_dash.errors import BadInput
from dist_dash.methods import DASH, SAM, SGD
from dist_dash.methods.method import Method
from dist_dash.models import MLP, Architecture, ResNet, SmallCNN
from dist_dash.models.network import build_network
from dist_dash.recipe.parsing import parse_command
from dist_dash.recipe.recipe import Recipe

SAMPLE = str(Path(__file__).parents[1] / "sample.yaml")
DIGITS = (1, 8, 8), 10, True
CIFAR = (3, 32, 32), 10, True


def recipe(*arguments: str, **fields: object) -> Recipe:
    return dataclasses.replace(parse_command(["--config", SAMPLE, *arguments]).recipe, **fields)


def network(model: Architecture, shape, classes, uint8) -> nn.Module:
    return build_network(model, shape, classes, (0.5,) * shape[0], (0.2,) * shape[0], uint8)


def kept_for_backward(net: nn.Module, loss_of) -> int:
    """Bytes of all memory, but the parameters', that autograd holds once the loss is there."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    held: dict[int, torch.Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: held.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        loss_of(net)
    return sum(t.untyped_storage().nbytes() for place, t in held.items() if place not in own)


# -- weights, gradients, optimizer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        ["--optimizer=SGD", "--optimizer.lr=0.1", "--optimizer.momentum=0"],
        ["--optimizer=SGD", "--optimizer.lr=0.1", "--optimizer.momentum=0.9"],
        ["--optimizer=AdamW"],
        ["--optimizer=AdamW", "--optimizer.amsgrad=true"],
        ["--optimizer=Adam", "--optimizer.capturable=true"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_parameters_and_optimizer_are_those_of_a_real_one(optimizer, precision):
    found = recipe("--engine=Torch", f"--engine.precision={precision}", "--model.norm=group", *optimizer)
    net = network(found.model, *DIGITS).to(found.engine.dtype)
    made = found.optimizer(list(net.parameters()))
    for group in made.param_groups:
        group["capturable"] = False
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    made.step()
    state = [t for s in made.state.values() for t in s.values() if isinstance(t, torch.Tensor) and t.dim()]
    expected = estimate(found, 1, *DIGITS)
    assert expected.parameters == sum(p.numel() for p in net.parameters())
    assert expected.weights == expected.gradients == sum(p.nbytes for p in net.parameters())
    assert expected.optimizer == sum(t.nbytes for t in state)


def test_the_optimizer_is_asked_in_the_shape_that_it_will_see():
    rows = estimate(recipe("--engine=Torch", "--optimizer=Adafactor"), 1, *DIGITS)
    assert 0 < rows.optimizer < 0.1 * rows.weights  # one number per row and column
    flat = estimate(recipe("--engine.zero=1", "--optimizer=Adafactor"), 1, *DIGITS)
    assert flat.optimizer >= 2 * flat.weights  # ZeRO's vector has a number for each, beside its copy of the weights


class Accelerated(torch.optim.SGD):
    """Runs matrices on an accelerator only."""

    def step(self, closure=None):
        if any(p.dim() > 1 for group in self.param_groups for p in group["params"]):
            raise RuntimeError("there is no accelerator")


def test_an_optimizer_that_cannot_run_here_is_taken_for_adam():
    found = estimate(recipe(optimizer=lambda p: Accelerated(p, lr=0.1)), 1, *DIGITS)
    assert found.optimizer == 2 * found.weights


@pytest.mark.parametrize("zero", [1, 2])
def test_zero_divides_the_optimizer_by_the_replicas(zero):
    whole, sharded = (estimate(recipe(f"--engine.zero={z}"), 4, *DIGITS) for z in (0, zero))
    assert whole.optimizer == whole.weights  # momentum
    assert sharded.optimizer == (whole.optimizer + whole.weights) / 4
    others = [f.name for f in dataclasses.fields(Memory) if f.name != "optimizer"]
    assert [getattr(sharded, name) for name in others] == [getattr(whole, name) for name in others]
    assert estimate(recipe(f"--engine.zero={zero}"), 8, *DIGITS).optimizer == sharded.optimizer / 2
    assert estimate(recipe("--engine.zero=0"), 8, *DIGITS) == whole


@pytest.mark.parametrize("low", ["bf16", "fp16"])
def test_a_low_precision_keeps_full_masters_beside_its_casts(low):
    full, half = (estimate(recipe("--engine.precision", p), 1, *DIGITS) for p in ("fp32", low))
    assert half.weights == 1.5 * full.weights
    assert (half.gradients, half.optimizer, half.method) == (full.gradients, full.optimizer, full.method)
    assert half.activations == full.activations / 2


class Frozen(Architecture):
    """A fixed layer of 64 x 64 beneath a trained one of 64 x classes."""

    def build(self, shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False).requires_grad_(False), nn.Linear(64, classes))


def test_what_is_not_trained_has_no_gradient():
    found = estimate(recipe(model=Frozen(), method=SAM()), 1, *DIGITS)
    assert found.parameters == 64 * 64 + 64 * 10 + 10
    assert found.weights == 4 * found.parameters
    assert found.gradients == found.optimizer == found.method / 2 == 4 * 650


# -- the method --------------------------------------------------------------------------------------------------------


class Elsewhere(Method):
    def update(self, member, batch, exchange):
        raise AssertionError("an estimate runs nothing")


@pytest.mark.parametrize(
    ("method", "members", "copies"),
    [
        (SGD(), None, 0),
        (SAM(), None, 2),
        (DASH(), None, 4),
        (DASH(), 3, 4),
        (DASH(), 1, 2),
        (DASH(ascent="joint"), None, 2),
        (DASH(diversity_in="descent"), None, 2),
        (DASH(direction="random"), None, 4),
        (DASH(gamma=0.5), None, 5),
        (DASH(ascent="joint", gamma=0.5), None, 3),
        (Elsewhere(), None, 4),
    ],
)
def test_the_method_holds_copies_of_the_parameters(method, members, copies):
    found = estimate(recipe(method=method, members=members), 1, *DIGITS)
    assert found.method == copies * found.gradients


# -- activations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "floats"),
    [
        # what each layer reads; a ReLU keeps its result, which is what the next layer reads
        (MLP(hidden=128, depth=2), 64 + 128 + 128),
        (MLP(hidden=7, depth=1), 64 + 7),
        (MLP(depth=0), 64),
        (SmallCNN(16, norm="none"), 64 + 16 * 8 * 8 + 32 * 4 * 4 + 64 * 2 * 2 + 64),
        (SmallCNN(16, norm="batch"), 64 + 2 * (16 * 8 * 8 + 32 * 4 * 4 + 64 * 2 * 2) + 64),
    ],
    ids=lambda value: "",
)
def test_activations_by_hand(model, floats):
    assert estimate(recipe("--loader.batch_size=5", model=model), 1, *DIGITS).activations == 5 * 4 * floats


@pytest.mark.parametrize("bf16", [False, True])
def test_activations_of_a_resnet_are_what_autograd_really_holds(bf16):
    net, x, y = network(ResNet(18), *CIFAR), torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8)

    def loss_of(net):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return nn.functional.cross_entropy(net(x).float(), y)

    precision = "bf16" if bf16 else "fp32"
    found = estimate(recipe("--engine.precision", precision, "--loader.batch_size=8", model=ResNet(18)), 1, *CIFAR)
    casts = found.weights - 4 * found.parameters
    assert casts == (2 * found.parameters if bf16 else 0)
    assert kept_for_backward(net, loss_of) == pytest.approx(found.activations + casts, rel=0.02)


def test_activations_grow_with_the_micro_batch_alone():
    at = {n: estimate(recipe(f"--loader.batch_size={n}"), 1, *DIGITS) for n in (1, 7, 64)}
    assert at[64].activations == 64 * at[1].activations
    assert at[7].activations == 7 * at[1].activations > 0
    assert dataclasses.replace(at[7], activations=at[1].activations) == at[1]
    accumulated = estimate(recipe("--loader.batch_size=7", "--loader.accumulation=4"), 1, *DIGITS)
    assert accumulated == at[7]
    doubled = estimate(recipe("--loader.batch_size=7", "--engine=Torch", "--engine.precision=fp64"), 1, *DIGITS)
    assert doubled.activations == 2 * at[7].activations


def test_the_largest_of_several_architectures_counts():
    alone = [estimate(recipe(model=m), 1, *DIGITS) for m in (MLP(8), MLP(999), SmallCNN(4))]
    together = estimate(recipe(models=[MLP(8), MLP(999), SmallCNN(4), MLP(8)]), 1, *DIGITS)
    assert together == max(alone, key=lambda m: m.total)


class TwoReaders(Architecture):
    """Two layers read the same 8 numbers, one of them through a view."""

    def build(self, shape, classes):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.one, self.two = nn.Linear(64, 8), nn.Linear(8, classes), nn.Linear(8, classes)

            def forward(self, x):
                h = self.body(x.flatten(1))
                return self.one(h) + self.two(h.view(-1, 2, 4).flatten(1))

        return Net()


def test_memory_that_is_kept_twice_counts_once():
    assert estimate(recipe("--loader.batch_size=1", model=TwoReaders()), 1, *DIGITS).activations == 4 * (64 + 8)


class NeedsValues(Architecture):
    """Reads numbers out of tensors, in building and in running."""

    def build(self, shape, classes):
        width = int(torch.full((1,), 64.0).item())

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(width, classes)

            def forward(self, x):
                return self.head(x.flatten(1)) if x.sum() <= 0 else x

        return Net()


def test_a_network_that_reads_values_is_run_on_the_host():
    found = estimate(recipe("--loader.batch_size=3", model=NeedsValues()), 1, *DIGITS)
    assert (found.parameters, found.activations) == (650, 3 * 4 * 64)


def test_a_network_that_does_not_fit_the_data_is_bad_input():
    for model, said in ((SmallCNN(), "SmallCNN needs images"), (Frozen(), "cannot take samples of shape [65]")):
        with pytest.raises(BadInput, match="model") as caught:
            estimate(recipe(model=model), 1, (65,), 10, False)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_random_number_is_drawn():
    before = torch.get_rng_state()
    estimate(recipe(), 1, *DIGITS)
    estimate(recipe(model=NeedsValues()), 1, *DIGITS)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_estimate_in_words():
    gib = 2**30
    found = Memory(1, 0.1 * gib, 0.1 * gib, 0.1 * gib, 0.2 * gib, 7.4 * gib)
    parts = "(weights 0.1, gradients 0.1, optimizer 0.1, method 0.2, activations 7.4)"
    assert describe(found) == f"about 7.9 GiB per rank {parts}"
    small = Memory(1, *(getattr(found, p) / 1024 for p in memory.PARTS))
    assert describe(small) == f"about 7.9 MiB per rank {parts}"
