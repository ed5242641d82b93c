import copy

import pytest
import torch
from torch import Tensor, nn

from dist_dash.member.losses import cross_entropy
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, unit


class Wide(nn.Module):
    """Weights that are large beside a perturbation of length 0.05, as they are after training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter *= 5

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) / 25


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Wide(), torch.randn(1024, 16), nn.functional.one_hot(torch.randint(5, (1024,)), 5).float()


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten().float() for t in tensors])


def rise(member: Member, x: Tensor, target: Tensor, epsilon: ParameterVector) -> tuple[float, float]:
    """Rise of the loss at θ + ε, and ‖(θ + ε) − θ‖ / ‖ε‖ as the parameters hold it."""
    loss, before = cross_entropy(member.forward(x), target), flat(member.parameters)  # with a graph, as in a step
    with member.perturbed(epsilon):
        assert all(p.dtype == torch.float32 for p in member.parameters)
        realised = float((flat(member.parameters) - before).norm() / epsilon.norm())
        return (cross_entropy(member.forward(x), target) - loss).item(), realised


@pytest.mark.parametrize("rho", [0.05, 0.1])
def test_bf16_kernels_see_the_whole_perturbation(lone_member, case, rho):
    network, x, target = case
    exact, low = lone_member(copy.deepcopy(network), "fp32"), lone_member(copy.deepcopy(network), "bf16")
    assert low.engine.dtype == torch.float32
    epsilon = rho * unit(exact.gradient(cross_entropy(exact.forward(x), target)))
    true_rise, _ = rise(exact, x, target, epsilon)
    seen_rise, realised = rise(low, x, target, epsilon)
    assert abs(realised - 1) < 0.01
    assert abs(seen_rise / true_rise - 1) < 0.05
    # The bf16 gradient is a usable direction too, and really comes out of bf16 kernels.
    own = rho * unit(low.gradient(cross_entropy(low.forward(x), target)))
    assert all(t.dtype == torch.float32 for t in own.tensors)
    assert not torch.equal(flat(own.materialised()), flat(epsilon.materialised()))
    assert abs(rise(low, x, target, own)[0] / true_rise - 1) < 0.05


def test_bf16_parameters_would_lose_much_of_it(lone_member, case):
    """The control: what the tests above would see if the perturbation were added to bf16 weights in place."""
    network, x, target = case
    exact = lone_member(copy.deepcopy(network), "fp32")
    epsilon = 0.05 * unit(exact.gradient(cross_entropy(exact.forward(x), target)))
    true_rise, _ = rise(exact, x, target, epsilon)
    low = copy.deepcopy(network).bfloat16()
    with torch.no_grad():
        before, loss = flat(list(low.parameters())), cross_entropy(low(x.bfloat16()).float(), target)
        for p, e in zip(low.parameters(), epsilon.materialised(), strict=True):
            p += e.bfloat16()
        realised = (flat(list(low.parameters())) - before).norm() / epsilon.norm()
        seen_rise = cross_entropy(low(x.bfloat16()).float(), target) - loss
    assert abs(realised - 1) > 0.03
    assert seen_rise / true_rise < 0.88


def test_a_step_in_bf16_keeps_fp32_weights_and_momentum(lone_member, case):
    network, x, target = case
    member = lone_member(copy.deepcopy(network), "bf16")
    before = flat(member.parameters)
    member.engine.scale_learning_rate(1e-4)  # far below what bf16 weights could hold
    member.backward(cross_entropy(member.forward(x), target))
    assert all(p.grad.dtype == torch.float32 for p in member.parameters)
    member.step()
    moved = (flat(member.parameters) - before) != 0
    assert moved.float().mean() > 0.2
    state = member.engine.optimizer.state
    assert all(state[p]["momentum_buffer"].dtype == torch.float32 for p in member.parameters)
