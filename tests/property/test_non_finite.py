import pytest
import torch
from torch import Tensor, nn

from dist_dash.member.losses import cross_entropy
from dist_dash.member.member import Member


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def update(member: Member, seed: int, spoil: float | None = None, part: int = 0) -> None:
    """One update; `spoil` multiplies the loss, or reaches a single weight's gradient where `part` is not 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 4, generator=generator)
    target = torch.softmax(torch.randn(8, 3, generator=generator), -1)
    loss = cross_entropy(member.forward(x), target)
    member.backward(loss if spoil is None or part else loss * spoil)
    if spoil is not None and part:
        member.parameters[part].grad.view(-1)[-1] = spoil
    member.step()


def everything(member: Member) -> list[bytes]:
    state = member.engine.optimizer.state
    kept: list[Tensor] = [*member.engine.module.state_dict().values()]
    kept += [value for p in member.parameters for value in state[p].values() if isinstance(value, Tensor)]
    return [t.detach().numpy().tobytes() for t in kept]


@pytest.mark.parametrize("spoil", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", [0, 1, -1])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_non_finite_gradient_moves_nothing(lone_member, spoil, part, clip):
    member = lone_member(network(), clip=clip)
    for seed in range(3):  # momentum and statistics exist
        update(member, seed)
    before = everything(member)
    assert len(before) > len(member.engine.module.state_dict())
    update(member, 3, spoil, part)
    assert everything(member) == before
    assert all(p.grad is None for p in member.parameters)


def test_skipped_updates_in_a_row_are_counted(lone_member):
    member, counts = lone_member(network()), []
    for seed, spoil in enumerate([None, float("nan"), float("inf"), None, float("nan")]):
        update(member, seed, spoil)
        counts.append(member.skipped_in_a_row)
    assert counts == [0, 1, 2, 0, 1]


def test_skipped_updates_leave_no_trace(lone_member):
    sick, healthy = lone_member(network()), lone_member(network())
    for seed in range(4):
        update(sick, 100 + seed, float("nan"))
        update(sick, seed)
        update(healthy, seed)
    assert everything(sick) == everything(healthy)


def test_a_finite_gradient_does_move_everything(lone_member):
    """The control: what the comparisons above compare does change in a step."""
    member = lone_member(network())
    update(member, 0)
    before = everything(member)
    update(member, 1)
    same = [a == b for a, b in zip(before, everything(member), strict=True)]
    assert not any(same)


def test_clipping_shortens_the_step_to_its_length(lone_member):
    free, clipped = lone_member(network()), lone_member(network(), clip=1e-3)
    start = [p.detach().clone() for p in free.parameters]
    for member in (free, clipped):
        update(member, 0)
    steps = [
        torch.cat([(p.detach() - s).flatten() for p, s in zip(m.parameters, start, strict=True)])
        for m in (free, clipped)
    ]
    assert abs(steps[1].norm() - 0.1 * 1e-3) < 1e-7
    assert abs(torch.cosine_similarity(steps[0], steps[1], dim=0) - 1) < 1e-3
