"""Under bf16 the perturbation that was asked for is the one that the weights get and the forward sees."""

from __future__ import annotations

import torch

from benchmarks.costs import Problem, member
from benchmarks.gpu.part import Part, run
from benchmarks.gpu.two_members import TwoMembers
from dist_dash.member.engine import Torch
from dist_dash.member.losses import cross_entropy
from dist_dash.member.vector import sam_perturbation
from dist_dash.methods import SGD
from dist_dash.models import ResNet, SmallCNN
from tests.support.ranks import on_ranks


def realised(problem: Problem, steps: int) -> dict[str, float]:
    """‖realised ε‖ / ‖ε‖, the loss rise that the precision sees, and the rise that fp32 sees at the same weights."""
    with TwoMembers() as exchange:
        owner = member(Torch(problem.precision), exchange, problem)
        for number in range(steps):
            SGD().update(owner, problem.batch(number), exchange)
        (micro,) = problem.batch(0)

        def losses() -> list[float]:
            with torch.no_grad():
                full = owner.engine.module(micro.x).float()
                return [float(cross_entropy(z, micro.target)) for z in (owner.forward(micro.x), full)]

        epsilon = sam_perturbation(owner.gradient(cross_entropy(owner.forward(micro.x), micro.target)), 0.05, 2.0)
        before, low, high = [p.detach().clone() for p in owner.parameters], *losses()
        with owner.perturbed(epsilon):
            moved = [(p.detach() - b).double().norm() for p, b in zip(owner.parameters, before, strict=True)]
            low_moved, high_moved = losses()
        same = all(torch.equal(p, b) for p, b in zip(owner.parameters, before, strict=True))
        length = float(torch.stack(moved).norm() / epsilon.norm())
        return {
            "length": length,
            problem.precision: low_moved - low,
            "fp32": high_moved - high,
            "restored": float(same),
        }


def perturbation(part: Part) -> None:
    network, size = (SmallCNN(), 4) if part.tiny else (ResNet(18), 128)
    problem = Problem(network, size=size, device=part.device, precision="bf16")
    with part.section("perturbation under bf16"):
        (found,) = on_ranks(1, realised, problem, 2 if part.tiny else 60, deadline=part.within(27))
        off = abs(found["length"] - 1)
        part.add("|‖realised ε‖ / ‖ε‖ − 1|, bf16", off, most=1e-3, note="ρ = 0.05", ok=off <= 1e-3)
        note = f"{found['bf16']:.4f} in bf16, {found['fp32']:.4f} in fp32 at the same weights"
        part.add("loss rise in bf16 / in fp32", found["bf16"] / found["fp32"], note=note)
        part.add("weights restored to the bit", found["restored"], ok=found["restored"] == 1)


if __name__ == "__main__":
    run(perturbation)
