"""Gradients that replicas average while the backward runs: right whatever it does, and really meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.distributed.small import BUCKET_MB, engine_named
from tests.support.ranks import Ranks, on_ranks

RATE = 0.1


class Fault(torch.autograd.Function):
    """Its backward raises where the replica's samples ask for it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, faulty: bool) -> Tensor:
        ctx.faulty = faulty
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if ctx.faulty:
            raise ArithmeticError("half way")
        return gradients[0], None


class Net(nn.Module):
    """A layer that is used twice, one that only some samples use, one that none does, and a scalar that is spread."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.rare, self.never = (nn.Linear(5, 5) for _ in range(4))
        self.shift, self.last = nn.Parameter(torch.zeros(1)), nn.Linear(5, 3)
        self.reentrant = self.faulty = False
        self.ended: Callable[[], None] = lambda: None

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        z.register_hook(lambda _: self.ended())  # all but the first layer's gradients are there
        z = torch.tanh(Fault.apply(z, self.faulty))
        if self.reentrant:  # two backwards inside the one: each brings its own part of the gradient
            z = checkpoint(self.twice, checkpoint(self.twice, z, use_reentrant=True).sin(), use_reentrant=True)
        else:
            z = self.twice(self.twice(z).sin())
        if x[0, 0] > 0:
            z = z * self.rare(z)
        return self.last(z + self.shift)


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).square().mean()


def data(replica: int, micro: int) -> Tensor:
    """Samples of which only the first replica's use `rare`."""
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(10 * replica + micro), dtype=torch.float64)
    x[0, 0] = 1 - 2 * replica
    return x


def gradients(net: nn.Module, micros: list[int]) -> list[list[Tensor]]:
    """Per replica, the sum over the micro-batches of half their gradients."""
    alone, parameters = copy.deepcopy(net), []
    alone.reentrant = alone.faulty = False
    found = []
    for replica in range(2):
        parameters = list(alone.parameters())
        total = sum((loss_of(alone, data(replica, m)) / 2 for m in micros), torch.zeros((), dtype=torch.float64))
        found.append(torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True))
    return [list(own) for own in found]


def mean(per_replica: list[list[Tensor]]) -> list[Tensor]:
    return [sum(parts[1:], parts[0]) / len(parts) for parts in zip(*per_replica, strict=True)]


Descent = Callable[[Member, Callable[[int], Tensor]], None]


def whole(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.backward(loss(0))
    member.backward(loss(1), last=True)


def at_once(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.backward(loss(0) + loss(1), last=True)


def never_told(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.backward(loss(0))
    member.backward(loss(1))


def told_too_early(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.backward(loss(0), last=True)
    member.backward(loss(1))


def told_twice(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.backward(loss(0), last=True)
    member.backward(loss(1), last=True)


def then_descends(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.backward(loss(0), last=True)
    member.descend(member.gradient(loss(1)))


def descends(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.descend(member.gradient(loss(0)))
    member.descend(member.mean_over_replicas(member.gradient(loss(1))))


def part_by_part(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.engine.module.reentrant = True
    member.backward(loss(0))
    member.backward(loss(1), last=True)
    member.engine.module.reentrant = False


def after_a_fault(member: Member, loss: Callable[[int], Tensor]) -> None:
    member.engine.module.faulty = True
    failing = loss(1)
    member.engine.module.faulty = False
    with pytest.raises(ArithmeticError, match="half way"):
        member.backward(failing, last=True)
    whole(member, loss)


def after_a_skipped_update(member: Member, loss: Callable[[int], Tensor]) -> None:
    nan = torch.nan if member.engine.exchange.layout.replica else 1.0
    member.backward(nan * loss(0), last=True)
    assert not member.step()
    whole(member, loss)


DESCENTS: list[Descent] = [whole, whole, at_once, never_told, told_too_early, told_twice, then_descends, descends]
DESCENTS += [part_by_part, after_a_fault, after_a_skipped_update]


def trained(engine: str, bucket_mb: float, descents: list[Descent]) -> dict[str, Any]:
    """One update after the other; for each the largest error, the collectives, and how many began meanwhile."""
    layout = layout_from_environment(1)
    with Exchange(layout, deadline=300) as exchange:
        exact = engine == "torch"
        owner = engine_named(engine, 0.0, torch.float64 if exact else torch.float32, bucket_mb)
        torch.manual_seed(3)
        owner.attach(Net(), lambda p: torch.optim.SGD(p, RATE), exchange)
        net, member = owner.module, Member(owner, 0, 2)
        sent: list[int] = []
        start = exchange.start_mean_over_replicas_

        def recorded(values: Tensor, travel: torch.dtype | None = None) -> Any:
            sent.append(len(values))
            return start(values, travel)

        exchange.start_mean_over_replicas_ = recorded  # type: ignore[method-assign]
        meanwhile = [0]
        net.ended = lambda: meanwhile.append(len(sent))  # first of all, it learns that some parameters are not used
        rows = []
        for descent in descents:
            sent.clear()
            meanwhile.clear()
            before = copy.deepcopy(net).double()
            before.ended = lambda: None
            descent(member, lambda micro: loss_of(net, data(layout.replica, micro).to(owner.dtype)))
            assert member.step()
            expected = [p - RATE * g for p, g in zip(before.parameters(), mean(gradients(before, [0, 1])), strict=True)]
            error = max(float((p - e).detach().abs().max()) for p, e in zip(net.parameters(), expected, strict=True))
            rows.append({"error": error, "sent": [*sent], "meanwhile": max(meanwhile, default=0)})
            assert all(p.grad is None for p in net.parameters())
        return {"rows": rows, "weights": [p.detach().numpy().copy() for p in net.parameters()]}


@pytest.mark.parametrize(("engine", "bucket_mb"), [("torch", BUCKET_MB), ("torch", 25.0), ("zero0", BUCKET_MB)])
def test_every_way_to_descend_is_the_mean_over_replicas(engine: str, bucket_mb: float) -> None:
    # A backward that raises leaves DeepSpeed's own engine in the middle of it.
    descents = [d for d in DESCENTS if engine == "torch" or d not in (part_by_part, after_a_fault)]
    first, second = on_ranks(2, trained, engine, bucket_mb, descents)
    for descent, one, other in zip(descents, first["rows"], second["rows"], strict=True):
        assert one["error"] < (1e-14 if engine == "torch" else 1e-7), descent.__name__
        assert one["sent"] == other["sent"], descent.__name__
    for a, b in zip(first["weights"], second["weights"], strict=True):
        np.testing.assert_array_equal(a, b)
    by_name = dict(zip([d.__name__ for d in descents], first["rows"], strict=True))
    if bucket_mb == BUCKET_MB:
        assert by_name["whole"]["meanwhile"] >= 1  # not that of the first layer
        assert by_name["never_told"]["meanwhile"] == 0
        assert len(by_name["whole"]["sent"]) >= 2


def ascended() -> list[tuple[float, list[int], int, list[np.ndarray[Any, Any]]]]:
    """Of all parameters and of some: the error of two means on their way at once, the collectives, the vectors."""
    layout, found = layout_from_environment(1), []
    with Exchange(layout, deadline=300) as exchange:
        owner = engine_named("torch", 0.0, torch.float64)
        torch.manual_seed(3)
        owner.attach(Net(), lambda p: torch.optim.SGD(p, RATE), exchange)
        net, sent, meanwhile = owner.module, list[int](), list[int]()
        start = exchange.start_mean_over_replicas_

        def recorded(values: Tensor, travel: torch.dtype | None = None) -> Any:
            sent.append(len(values))
            return start(values, travel)

        exchange.start_mean_over_replicas_ = recorded  # type: ignore[method-assign]
        for moved in ([True] * len(owner.parameters), [name.endswith("weight") for name, _ in net.named_parameters()]):
            member = Member(owner, 0, 2, perturbed=moved)
            sent.clear()
            meanwhile.clear()
            net.ended = lambda: meanwhile.append(len(sent))
            once, g, both = ParameterVector([]), ParameterVector([]), ParameterVector([])
            for micro in (0, 1):
                loss = loss_of(net, data(layout.replica, micro))
                g = member.ascent_gradient(loss, True, onto=g, mean=micro == 1)
                both = member.ascent_gradient(3 * loss, onto=both, mean=micro == 1)
                once = 2.0 * g + both if micro else once
            net.ended = lambda: None
            assert all(p.grad is None for p in net.parameters())
            expected = [5 * t if m else 0 * t for t, m in zip(mean(gradients(net, [0, 1])), moved, strict=True)]
            error = max(float((t - e).abs().max()) for t, e in zip(once.tensors, expected, strict=True))
            found.append((error, [*sent], max(meanwhile), [t.numpy().copy() for t in once.tensors]))
    return found


def test_ascents_are_averaged_meanwhile() -> None:
    first, second = on_ranks(2, ascended)
    for (error, sent, meanwhile, ours), (_, theirs_sent, _, theirs) in zip(first, second, strict=True):
        assert error < 1e-14
        assert sent == theirs_sent
        assert meanwhile > len(sent) // 2  # also of the second backward
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def ends_half_way() -> None:
    """One replica's backward raises when some buckets are on their way and others wait for it."""
    layout = layout_from_environment(1)
    with Exchange(layout, deadline=600) as exchange:
        owner = engine_named("torch", 0.0, torch.float64)
        owner.attach(Net(), lambda p: torch.optim.SGD(p, RATE), exchange)
        member = Member(owner, 0, 2)
        for step in range(2):
            exchange.step, owner.module.faulty = step, bool(step and layout.replica)
            member.backward(loss_of(owner.module, data(layout.replica, 0)), last=True)
            member.step()


def test_a_backward_that_raises_on_one_replica_is_named_by_the_other() -> None:
    results = Ranks(2, ends_half_way).results(200)  # long before the deadline
    assert results == [
        ("error", "RunFailed: ArithmeticError: half way (rank 1, member 0)"),
        ("error", "ArithmeticError: half way"),
    ]
