"""Float64 loops for the sharpness family: ASAM, GSAM, GAM, ESAM, LookSAM, AE-SAM, F-SAM, MSAM; from the formulas alone.

Nothing of ``dist_dash`` is imported. The arguments, the ``Outcome`` and the rules that all loops share are those of
``proof_oracle``; "§ n" is a section of ALGORITHMS-2. Rules that look at the other members are in ``peers_oracle`` and
``repulsion_oracle``. What holds here besides:

- A rule commits its state (g_v, m, μ, σ) only where the update moved the weights: a skipped step leaves it alone.
- ESAM ascends locally and LookSAM by the mean over replicas, whatever ``settings.ascent_sync`` says.
- ``moved``: positions of the parameters that are perturbed, None for all. Every gradient that makes an ε is 0 elsewhere
  before its norm is taken; what is descended, kept or decomposed is complete.
- What the product draws at random is an argument here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from tests import oracle
from tests.distributed import proof_oracle
from tests.distributed.proof_oracle import Batches, Members, OneMember, Outcome, Range, Replicas, Settings, decomposed
from tests.oracle import Vector, add, dot, mean, norm, scale, unit, zeros

Moved = Sequence[int] | None
Adapt = Literal["weights", "matrices", "all"]
Update = Callable[[int, list[OneMember], Replicas], None]


def together(members: Members, batches: Batches, settings: Settings, update: Update) -> Outcome:
    """All members at once: ``update(step, members, replicas)`` sees every member before any of them has moved."""
    own, records = [OneMember(module, settings) for module in members], []
    for step, replicas in enumerate(batches):
        update(step, own, replicas)
        records.append([member.record for member in own])
    return Outcome([member.state() for member in own], [member.velocity for member in own], records)


def restricted(vector: Vector, moved: Moved) -> Vector:
    """0 where the position is not among ``moved``."""
    return vector if moved is None else [x if p in moved else 0 * x for p, x in enumerate(vector)]


def orthogonal(vector: Vector, to: Vector) -> Vector:
    """The part of ``vector`` at right angles to ``to``; all of it where ``to`` is 0."""
    return add(vector, scale(-dot(vector, unit(to)), unit(to)))


# ------------------------------------------------------------------------------------------------- ASAM


def stretch(member: OneMember, eta: float, adapt: Adapt) -> Vector:
    """T: |θ| + η where a parameter adapts, 1 elsewhere; § 1."""
    result = []
    for name, value in zip(oracle.trainable(member.module), member.theta, strict=True):
        adaptive = {"weights": "weight" in name, "matrices": value.dim() >= 2, "all": True}[adapt]
        result.append(value.abs() + eta if adaptive else torch.ones_like(value))
    return result


def stretched(g: Vector, t: Vector) -> Vector:
    """T²g / ‖Tg‖, the ascent of radius 1; 0 where Tg = 0."""
    length = norm([a * b for a, b in zip(t, g, strict=True)])
    return zeros(g) if length == 0 else [a * a * b / length for a, b in zip(t, g, strict=True)]


def asam(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho: float,
    eta: float = 0.01,
    adapt: Adapt = "weights",
    moved: Moved = None,
) -> Outcome:
    """ASAM (Kwon et al. 2021, arXiv 2102.11600; § 1): ε = ρ T²g/‖Tg‖ with g = ∇L(θ), descend ∇L(θ+ε).

    T = |θ| + η (at θ) on the parameters that adapt, 1 on all others, which are perturbed as in SAM. ``weights``: those
    with "weight" in their name; ``matrices``: those of at least two dimensions. Records add ``eps`` per replica.
    """

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        g, _ = member.differentiate(replicas)
        t = stretch(member, eta, adapt)
        shifts = [scale(rho, stretched(restricted(one, moved), t)) for one in g]
        descent, _ = member.differentiate(replicas, shifts)
        member.step(mean(descent), settings.factor(step))
        member.record["eps"] = shifts

    return proof_oracle.loop(members, batches, settings, update)


# ------------------------------------------------------------------------------------------------- GSAM, GAM


def gsam(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho: float,
    rho_min: float | None = None,
    alpha: float = 0.1,
    factors: Range = (1.0, 1.0),
) -> Outcome:
    """GSAM (§ 2), as ``proof_oracle.gsam``: ρ_t runs from ``rho_min`` to ``rho`` with the factor; constant without.

    ``factors`` = (lowest, highest) factor of the whole run.
    """
    radii = (rho if rho_min is None else rho_min, rho)
    return proof_oracle.gsam(members, batches, settings, rho=radii, alpha=alpha, factors=factors)


def hessian_product(member: OneMember, replicas: Replicas, shifts: list[Vector], vectors: list[Vector]) -> list[Vector]:
    """Per replica ∇²L(θ + shift) v by a second backward pass, the mean over micro-batches; statistics stay."""
    result = []
    for r, micros in enumerate(replicas):
        products = []
        for x, target in micros:
            at = oracle.leaves(add(member.theta, shifts[r]))
            logits = oracle.forward(member.module, at, oracle.copies(member.on_replicas[r]), x)
            loss = member.settings.losses(logits, target).mean()
            first = torch.autograd.grad(loss, at, create_graph=True, allow_unused=True)
            parts = [(a * v).sum() for a, v in zip(first, vectors[r], strict=True) if a is not None]
            inner = torch.stack(parts).sum()
            products.append(oracle.gradient(inner, at) if inner.requires_grad else zeros(at))
        result.append(mean(products))
    return result


def gam(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho: float,
    r: float = 0.02,
    alpha: float = 0.1,
    form: Literal["difference", "exact", "authors"] = "difference",
    gamma: float = 0.03,
) -> Outcome:
    """GAM (Zhang et al. 2023, arXiv 2303.03108; § 3): first-order flatness ρ‖∇L‖ at its own worst point.

    ``exact``, the paper's rule: f = ∇²L(θ) unit(∇L(θ)), θ_a = θ + ρ unit(f), descend
    ∇L(θ) + αρ ∇²L(θ_a) unit(∇L(θ_a)). The other two use g₀ = ∇L(θ), g₁ = ∇L(θ + r unit(g₀)), θ₂ = θ + ρ unit(g₁ − g₀),
    g₂ = ∇L(θ₂) and g₃ = ∇L(θ₂ + r unit(g₂)). ``difference``: descend g₀ + αρ(g₃ − g₂)/r. ``authors``, with
    β = (1, 1, −1, 1): d = g₁ + g₃, m = g₀ + g₂, descend d − γ(m − ⟨m, unit(d)⟩ unit(d)), 0 where d = 0; α is not read.

    ``local``: every gradient and product is the replica's own, the final direction is averaged. ``mean``: each of them
    is averaged over replicas before it is used. Records add ``direction``, the final direction of every replica.
    """

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        def at(shifts: list[Vector]) -> list[Vector]:
            return member.agreed(member.differentiate(replicas, shifts)[0])

        def curve(shifts: list[Vector], along: list[Vector]) -> list[Vector]:
            return member.agreed(hessian_product(member, replicas, shifts, [unit(v) for v in along]))

        g0, _ = member.differentiate(replicas)
        if form == "exact":
            far = [scale(rho, unit(f)) for f in curve([zeros(one) for one in g0], g0)]
            slope = curve(far, at(far))
            directions = [add(a, scale(alpha * rho, b)) for a, b in zip(g0, slope, strict=True)]
        else:
            g1 = at([scale(r, unit(one)) for one in g0])
            far = [scale(rho, unit(add(b, scale(-1, a)))) for a, b in zip(g0, g1, strict=True)]
            g2 = at(far)
            g3 = at([add(e, scale(r, unit(one))) for e, one in zip(far, g2, strict=True)])
            four = list(zip(g0, g1, g2, g3, strict=True))
            if form == "difference":
                directions = [add(a, scale(alpha * rho / r, add(d, scale(-1, c)))) for a, _, c, d in four]
            else:
                directions = [decomposed(add(a, c), add(b, d), gamma) for a, b, c, d in four]
        member.step(mean(directions), settings.factor(step))
        member.record["direction"] = directions

    return proof_oracle.loop(members, batches, settings, update)


# ------------------------------------------------------------------------------------------------- ESAM


def of_chosen(
    member: OneMember,
    replicas: Replicas,
    shifts: list[Vector],
    chosen: list[list[int]],
    share: list[float],
    alone: bool,
) -> list[Vector]:
    """Per replica share · ∇Σ ℓ_s(θ + shift) over the chosen samples s; 0 where none is chosen. Statistics stay.

    Args:
        member: Whose weights θ are.
        replicas: The samples of this update.
        shifts: ``[replica]``.
        chosen: ``[replica]`` positions, counted through the micro-batches in their order.
        share: ``[replica]`` the weight of every chosen sample.
        alone: The forward sees the chosen samples of a micro-batch only, which matters to batch norm; a single one
            still goes with its whole micro-batch. Otherwise it sees whole micro-batches.
    """
    result = []
    for r, micros in enumerate(replicas):
        total, start = zeros(member.theta), 0
        for x, target in micros:
            inside = [s - start for s in chosen[r] if start <= s < start + len(x)]
            start += len(x)
            if not inside:
                continue
            at = oracle.leaves(add(member.theta, shifts[r]))
            buffers = oracle.copies(member.on_replicas[r])
            if alone and len(inside) > 1:
                logits = oracle.forward(member.module, at, buffers, x[inside])
            else:
                logits = oracle.forward(member.module, at, buffers, x)[inside]
            value = share[r] * member.settings.losses(logits, target[inside]).sum()
            total = add(total, oracle.gradient(value, at))
        result.append(total)
    return result


def risen(rise: Tensor, gamma: float) -> list[int]:
    """Ascending positions of the ⌈γn⌉ largest finite rises of ``rise`` [n], at least 1 if there is any; ties: lower."""
    finite = [s for s in range(len(rise)) if bool(torch.isfinite(rise[s]))]
    order = sorted(finite, key=lambda s: (-float(rise[s]), s))
    return sorted(order[: len(proof_oracle.selected(rise, gamma))])


def esam(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho: float,
    beta: float = 0.6,
    gamma: float = 0.5,
    form: Literal["two_forwards", "three_forwards"] = "two_forwards",
    masks: list[list[Vector]] | None = None,
    moved: Moved = None,
) -> Outcome:
    """ESAM (Du et al. 2022, arXiv 2110.03141; § 4) with a mask per weight; the ascent is local.

    g = ∇L(θ) on all samples of the replica, ε = (ρ/β) m ⊙ unit(g) with the norm of all of g, and m equal on replicas.
    rise_s = ℓ_s(θ+ε) − ℓ_s(θ) over the replica's whole update of n samples; B⁺ = the ⌈γn⌉ largest, a rise that is not
    finite never among them; descend the mean of ∇ℓ_s(θ+ε) over B⁺, then the mean over replicas. A replica without any
    finite rise has no direction: the step is skipped. ``two_forwards`` takes the gradient out of the forward that
    measured the rise, ``three_forwards`` from another one of the chosen samples alone (see ``of_chosen``).

    ``masks[step][member]`` has one tensor of 0 and 1 per trainable parameter; None is 1 everywhere and needs β = 1.
    Records add ``selected``, the positions of B⁺ per replica.
    """
    if masks is None and beta != 1:
        raise ValueError("beta below 1 needs masks")
    settings = replace(settings, ascent_sync="local")

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        g, before = member.differentiate(replicas)
        shifts = [scale(rho / beta, unit(restricted(one, moved))) for one in g]
        if masks is not None:
            shifts = [[m.to(e.dtype) * e for m, e in zip(masks[step][i], one, strict=True)] for one in shifts]
        _, after = member.differentiate(replicas, shifts)
        chosen = [risen(b - a, gamma) for a, b in zip(before, after, strict=True)]
        share = [1 / max(1, len(some)) for some in chosen]
        each = of_chosen(member, replicas, shifts, chosen, share, form == "three_forwards")
        each = [d if some else [x + torch.nan for x in d] for d, some in zip(each, chosen, strict=True)]
        member.step(mean(each), settings.factor(step))
        member.record["selected"] = chosen

    return proof_oracle.loop(members, batches, settings, update)


# ------------------------------------------------------------------------------------------------- LookSAM, AE-SAM


def looksam(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho: float,
    k: int = 5,
    alpha: float = 0.7,
    moved: Moved = None,
) -> Outcome:
    """LookSAM (Liu et al. 2022, arXiv 2203.02714; § 5), global norms, every gradient averaged over replicas first.

    step mod k = 0: g = ∇L(θ), g_s = ∇L(θ + ρ unit(g)), g_v = the part of g_s orthogonal to g, descend g_s. Otherwise
    descend g + α‖g‖ unit(g_v); g alone while no refresh has moved. Records add ``kept``, g_v after the step (or None),
    and ``along``, g.
    """
    settings = replace(settings, ascent_sync="mean")
    kept: list[Vector | None] = [None for _ in members]

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        g, old = member.differentiate(replicas)[0][0], kept[i]
        if step % k == 0:
            shift = scale(rho, unit(restricted(g, moved)))
            descent = mean(member.differentiate(replicas, [shift for _ in replicas])[0])
            if member.step(descent, settings.factor(step)):
                kept[i] = orthogonal(descent, g)
        else:
            member.step(g if old is None else add(g, scale(alpha * norm(g), unit(old))), settings.factor(step))
        member.record |= {"kept": kept[i], "along": g}

    return proof_oracle.loop(members, batches, settings, update)


def aesam(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho: float,
    delta: float = 0.9,
    gate_start: float = 1.0,
    gate_end: float = -1.0,
    ascent_sync: Literal["mean", "local"] | None = None,
) -> Outcome:
    """AE-SAM (§ 6), as ``proof_oracle.ae_sam``; ``ascent_sync`` in place of the one in ``settings``, if given."""
    settings = replace(settings, ascent_sync=ascent_sync or settings.ascent_sync)
    return proof_oracle.ae_sam(members, batches, settings, rho=rho, delta=delta, gate=(gate_start, gate_end))


# ------------------------------------------------------------------------------------------------- F-SAM, MSAM


def fsam(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho: float,
    sigma: float = 1.0,
    decay: float = 0.6,
    moved: Moved = None,
) -> Outcome:
    """Friendly SAM (Li et al. 2024; § 7): ε = ρ unit(g − σm) with the m of before, then m ← λm + (1−λ)g; λ = ``decay``.

    The first update that moves has no m: ε = ρ unit(g), then m = g. Under ``local`` each replica has its own m.
    Descend ∇L(θ+ε).
    """
    kept: list[list[Vector] | None] = [None for _ in members]

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        g, old = member.differentiate(replicas)[0], kept[i]
        noise = g if old is None else [add(a, scale(-sigma, b)) for a, b in zip(g, old, strict=True)]
        descent, _ = member.differentiate(replicas, [scale(rho, unit(restricted(one, moved))) for one in noise])
        if member.step(mean(descent), settings.factor(step)):
            kept[i] = blended(old, g, decay)

    return proof_oracle.loop(members, batches, settings, update)


def blended(old: list[Vector] | None, g: list[Vector], decay: float) -> list[Vector]:
    """F-SAM's next m, one per replica."""
    if old is None:
        return g
    return [add(scale(decay, a), scale(1 - decay, b)) for a, b in zip(old, g, strict=True)]


def msam(members: Members, batches: Batches, settings: Settings, *, rho: float, moved: Moved = None) -> Outcome:
    """Momentum-SAM (Becker et al. 2024, arXiv 2401.12033): ε = −ρ unit(v), descend ∇L(θ+ε); one forward.

    v is the optimizer's momentum, v ← μv + (clipped g + λθ): it points uphill, and the ascent goes against it. The
    first update has v = 0. Statistics move in the one forward, at θ+ε, and the record's ``loss`` is taken there.
    """
    if settings.momentum == 0:
        raise ValueError("without momentum there is no buffer to ascend by")

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        theta = member.theta
        member.theta = add(theta, scale(-rho, unit(restricted(member.velocity, moved))))
        g, _ = member.differentiate(replicas)
        member.theta = theta
        member.step(mean(g), settings.factor(step))

    return proof_oracle.loop(members, batches, settings, update)
