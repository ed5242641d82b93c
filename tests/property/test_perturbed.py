from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dist_dash.member.losses import cross_entropy
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, unit


class Broken(Exception):
    pass


def network(seed: int) -> nn.Module:
    """Batch norm (buffers that move), a frozen layer, and parameters of several shapes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 3)]
    layers[3].requires_grad_(False)
    return nn.Sequential(OrderedDict((f"layer{i}", layer) for i, layer in enumerate(layers)))


def bits(member: Member) -> dict[str, bytes]:
    return {name: t.detach().numpy().tobytes() for name, t in member.engine.module.state_dict().items()}


def samples(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 2 + 3 * torch.randn(8, 4, generator=generator, dtype=dtype)
    return x, nn.functional.one_hot(torch.randint(3, (8,), generator=generator), 3).to(dtype)


@given(
    seed=st.integers(0, 2**32),
    exponent=st.integers(-12, 12),
    precision=st.sampled_from(["fp32", "fp64", "bf16"]),
    raises=st.booleans(),
)
def test_weights_and_statistics_come_back_to_the_bit(lone_member, seed, exponent, precision, raises):
    member = lone_member(network(seed % 1000), precision)
    x, target = samples(seed, member.engine.dtype)
    gradient = member.gradient(cross_entropy(member.forward(x), target))  # moves the batch-norm statistics
    before, expected = bits(member), [p.detach().clone() for p in member.parameters]
    epsilon = 10.0**exponent * unit(gradient)
    added = epsilon.materialised()

    def body() -> None:
        with member.perturbed(epsilon):
            for theta, e, p in zip(expected, added, member.parameters, strict=True):
                rounding = 4 * torch.finfo(p.dtype).eps * (theta.abs() + e.abs())
                assert ((p - (theta + e)).abs() <= rounding).all()
            member.forward(x)
            assert bits(member)["layer1.running_mean"] == before["layer1.running_mean"]
            if raises:
                raise Broken

    if raises:
        with pytest.raises(Broken):
            body()
    else:
        body()
    assert bits(member) == before
    assert bits(member)["layer1.num_batches_tracked"] == torch.tensor(1).numpy().tobytes()


def test_perturbations_one_after_another_and_one_within_another_come_back(lone_member):
    member = lone_member(network(5))
    before, directions = bits(member), [member.random_direction(step) for step in range(3)]
    for direction in directions:
        with member.perturbed(0.1 * unit(direction)):
            assert bits(member) != before
        assert bits(member) == before
    with member.perturbed(0.1 * unit(directions[0])):
        outer = bits(member)
        with member.perturbed(0.1 * unit(directions[1])):
            assert bits(member) not in (before, outer)
        assert bits(member) == outer
    assert bits(member) == before


def test_weights_come_back_from_an_infinite_perturbation(lone_member):
    member = lone_member(network(0))
    before = bits(member)
    epsilon = ParameterVector([torch.full_like(p, float("nan")) for p in member.parameters])
    with member.perturbed(epsilon):
        assert not any(p.isfinite().any() for p in member.parameters)
    assert bits(member) == before


def test_a_perturbation_that_does_not_fit_changes_nothing(lone_member):
    member = lone_member(network(0))
    before = bits(member)
    wrong = ParameterVector([*(torch.ones_like(p) for p in member.parameters[:-1]), torch.ones(2, 2)])
    with pytest.raises(RuntimeError), member.perturbed(wrong):
        pass
    assert bits(member) == before


def test_the_descent_gradient_is_taken_at_the_perturbed_weights(lone_member):
    member = lone_member(network(1), "fp64")
    x, target = samples(1, torch.float64)
    epsilon = 0.3 * unit(member.gradient(cross_entropy(member.forward(x), target)))
    moved = network(1).double()
    trainable = [p for p in moved.parameters() if p.requires_grad]
    with torch.no_grad():
        for p, e in zip(trainable, epsilon.materialised(), strict=True):
            p += e
    cross_entropy(moved(x), target).backward()
    with member.perturbed(epsilon):
        member.backward(cross_entropy(member.forward(x), target))
    for p, expected in zip(member.parameters, trainable, strict=True):
        assert torch.allclose(p.grad, expected.grad, rtol=1e-12, atol=1e-14)


def test_a_gradient_leaves_the_descent_gradient_alone_and_counts_its_share(lone_member):
    member = lone_member(network(2), "fp64", accumulation=4)
    x, target = samples(2, torch.float64)
    found = member.gradient(cross_entropy(member.forward(x), target))
    assert all(p.grad is None for p in member.parameters)
    member.backward(cross_entropy(member.forward(x), target))
    again = lone_member(network(2), "fp64")
    whole = again.gradient(cross_entropy(again.forward(x), target))
    for part, p, full in zip(found.tensors, member.parameters, whole.tensors, strict=True):
        assert torch.allclose(4 * part, full, rtol=1e-12, atol=1e-14)
        assert torch.allclose(4 * p.grad, full, rtol=1e-12, atol=1e-14)


@given(st.integers(0, 2**40), st.integers(0, 1000))
def test_random_directions_repeat_and_differ(lone_member, seed, step):
    member = lone_member(network(0))
    member.seed = seed

    def direction(index: int, at: int) -> Tensor:
        member.index = index
        return torch.cat([t.flatten() for t in member.random_direction(at).tensors])

    state = torch.get_rng_state()
    assert torch.equal(direction(0, step), direction(0, step))
    assert not torch.equal(direction(0, step), direction(1, step))
    assert not torch.equal(direction(0, step), direction(0, step + 1))
    assert torch.equal(torch.get_rng_state(), state)


class Shared(nn.Module):
    """Two parameters whose gradients autograd hands out as one tensor, and one whose gradient is an expanded view."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.change = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.base + self.change)


def test_gradients_that_share_storage_accumulate_once(lone_member):
    member = lone_member(Shared(), "fp64", accumulation=2)
    batches = [samples(seed, torch.float64) for seed in (3, 4)]
    parts = [member.gradient(cross_entropy(member.forward(x), target)) for x, target in batches]
    expected = (parts[0] + parts[1]).tensors
    total = ParameterVector([])
    for x, target in batches:
        total += member.gradient(cross_entropy(member.forward(x), target))
    assert all(torch.allclose(a, b) for a, b in zip(total.tensors, expected, strict=True))


class Counting(nn.Module):
    """A layer of somebody else's that counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


def test_statistics_move_once_per_micro_batch_and_update(lone_member):
    member = lone_member(nn.Sequential(network(2), Counting()), accumulation=2)
    (one, target), (other, _) = samples(1, torch.float32), samples(2, torch.float32)

    def moves(x: Tensor, context: AbstractContextManager[None] | None = None) -> bool:
        before = bits(member)
        with context or nullcontext():
            member.forward(x)
        same = {name: bits(member)[name] == before[name] for name in ("0.layer1.running_var", "1.calls")}
        assert len(set(same.values())) == 1
        return not same["1.calls"]

    somewhere = 0.1 * unit(member.random_direction(0))
    for _ in range(2):
        assert not moves(one, member.perturbed(somewhere))  # also where the first forward is a perturbed one
        assert moves(one)
        assert not moves(one)
        assert moves(other)
        assert not moves(other)
        assert not moves(one[:4])  # a part of a micro-batch is no micro-batch
        assert not moves(other, member.evaluating())
        member.backward(cross_entropy(member.forward(one), target))
        assert member.step()


def test_evaluating_gives_every_module_its_mode_back(lone_member):
    member = lone_member(network(3))
    frozen = member.engine.module.layer1.eval()
    modules = list(member.engine.module.modules())

    def fails() -> None:
        with member.evaluating():
            assert not any(module.training for module in modules)
            raise Broken

    with pytest.raises(Broken):
        fails()
    assert [module for module in modules if not module.training] == [frozen]


def test_parts_and_kinds_of_parameters(lone_member):
    member = lone_member(network(4))
    assert member.names == [
        "layer0.weight",
        "layer0.bias",
        "layer1.weight",
        "layer1.bias",
        "layer4.weight",
        "layer4.bias",
    ]
    assert member.kinds == ["matrix", "bias", "normalisation", "normalisation", "matrix", "bias"]
    headed = Member(member.engine, 0, 1, heads=[None] * 4 + [0] * 2)
    x, target = samples(4, torch.float32)
    loss = cross_entropy(headed.forward(x), target)
    whole, head = headed.gradient(loss, retain_graph=True), headed.gradient(loss, of="head_0")
    for position, (a, b) in enumerate(zip(whole.tensors, head.tensors, strict=True)):
        assert torch.equal(b, a if position >= 4 else torch.zeros_like(a))


def test_masks_reach_gradients_perturbations_and_weights(lone_member):
    member = lone_member(network(6))
    masks = [
        None if p.dim() < 2 else (torch.arange(p.numel()).reshape(p.shape) % 2).to(p.dtype) for p in member.parameters
    ]
    member.set_masks(masks)
    x, target = samples(6, torch.float32)

    def absent() -> list[Tensor]:
        return [p[mask == 0] for p, mask in zip(member.parameters, masks, strict=True) if mask is not None]

    for _ in range(3):
        gradient = member.gradient(cross_entropy(member.forward(x), target))
        dense = member.gradient(cross_entropy(member.forward(x), target), masked=False)
        assert all(not g[m == 0].any() for g, m in zip(gradient.tensors, masks, strict=True) if m is not None)
        assert any(g[m == 0].any() for g, m in zip(dense.tensors, masks, strict=True) if m is not None)
        with member.perturbed(dense):
            assert not any(w.any() for w in absent())
            member.backward(cross_entropy(member.forward(x), target))
        assert member.step()
        assert not any(w.any() for w in absent())


class Scaled(nn.Module):
    """A layer whose graph keeps a constant buffer for the backward, as relative positions and rotary tables do."""

    scale: Tensor
    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(4))
        self.register_buffer("scale", torch.full((6,), 0.5))
        self.register_buffer("index", torch.tensor([0, 1, 2, 3, 2, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * self.table[self.index]


class Checkpointed(nn.Module):
    """Runs its layers again in the backward instead of keeping their activations."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)


def test_constant_buffers_may_be_kept_for_the_backward(lone_member):
    layers = nn.Sequential(nn.Linear(4, 6), Scaled(), nn.Linear(6, 3))
    member = lone_member(layers)
    x, target = samples(7, torch.float32)
    first, second = cross_entropy(member.forward(x), target), cross_entropy(member.forward(x), target)
    with member.perturbed(0.1 * unit(member.gradient(first))):
        member.backward(cross_entropy(member.forward(x), target))
    member.backward(second)
    assert member.step()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_moves_statistics_once(lone_member, precision):
    x, target = samples(8, torch.float32)
    found = []
    for wrap in (Checkpointed, lambda inner: inner):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            inner = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
            member = lone_member(nn.Sequential(wrap(inner), nn.Linear(6, 3)), precision)
        gradient = member.gradient(cross_entropy(member.forward(x), target))
        with member.perturbed(0.1 * unit(gradient)):
            member.backward(cross_entropy(member.forward(x), target))
        assert member.step()
        assert int(inner[1].num_batches_tracked) == 1
        found.append([p.detach().clone() for p in (*member.parameters, *inner.buffers())])
    for ours, plain in zip(*found, strict=True):
        assert torch.equal(ours, plain)


def test_a_frozen_batch_norm_reads_its_own_statistics(lone_member):
    member = lone_member(network(9))
    norm = member.engine.module.layer1.eval()
    norm.running_mean.fill_(3.0)
    x, _ = samples(9, torch.float32)
    first = member.forward(x)
    with member.perturbed(ParameterVector([])):
        assert torch.equal(member.forward(x), first)
    assert bool((norm.running_mean == 3.0).all())


def test_a_pass_between_updates_is_none_of_a_micro_batch(lone_member):
    member = lone_member(network(10))
    x, target = samples(10, torch.float32)
    before = bits(member)
    with member.between_updates():
        for part in x.split(2):
            member.forward(part)
    assert bits(member) == before
    member.backward(cross_entropy(member.forward(x), target))
    assert bits(member) != before
    assert member.step()
    assert member.passes == (2.0, 1.0)
