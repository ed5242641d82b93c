"""Float64 loops for two rules that look at the other members: SharpBalance, and DASH with other ascents or less often.

Written from the formulas alone, as ``family_oracle`` says; "§ n" is a section of ALGORITHMS-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from tests import oracle
from tests.distributed.family_oracle import (
    Adapt,
    Moved,
    blended,
    of_chosen,
    orthogonal,
    restricted,
    stretch,
    stretched,
    together,
)
from tests.distributed.proof_oracle import Batches, Members, OneMember, Outcome, Replicas, Settings
from tests.oracle import Vector, add, dot, mean, norm, scale, unit, zeros

Split = tuple[Tensor, Tensor, Tensor]  # inputs [N, …], targets [N, C], ids [N]
Identities = list[list[list[Tensor]]]  # ids of the samples of a batch: [step][replica][micro-batch] of [n]


# ------------------------------------------------------------------------------------------------- SharpBalance


def sample_norms(member: OneMember, x: Tensor, target: Tensor) -> list[float]:
    """s: ‖∇ℓ‖² of every sample alone, at the member's weights, in evaluation mode."""
    training, scores = member.module.training, []
    member.module.eval()
    for s in range(len(x)):
        at = oracle.leaves(member.theta)
        logits = oracle.forward(member.module, at, oracle.copies(member.buffers), x[s : s + 1])
        g = oracle.gradient(member.settings.losses(logits, target[s : s + 1]).sum(), at)
        scores.append(dot(g, g))
    member.module.train(training)
    return scores


def sharp(scores: list[float], ids: list[int], share: float, sharpest: Literal["high", "low"]) -> set[int]:
    """S: the ids of the ⌊κN⌋ largest (``low``: smallest) scores; of equal ones the smaller ids."""
    sign = -1 if sharpest == "high" else 1
    order = sorted(range(len(ids)), key=lambda s: (sign * scores[s], ids[s]))
    return {ids[s] for s in order[: math.floor(share * len(ids))]}


def sam_sets(
    found: list[set[int]], ids: list[int], rest: Literal["split", "all_but_split"], part: int
) -> list[set[int]]:
    """The SAM set of every member i: ∪_{j≠i} S_j and a share of the ids in no S_j at all.

    Of those, in ascending order, positions i mod part, + part, + 2 part, … are the split: ``split`` takes them,
    ``all_but_split`` takes all others.
    """
    free = sorted(set(ids) - set().union(*found))
    result = []
    for i in range(len(found)):
        split = set(free[i % part :: part])
        others = set().union(*[s for j, s in enumerate(found) if j != i])
        result.append(others | (split if rest == "split" else set(free) - split))
    return result


def sharpbalance(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho: float,
    from_step: int,
    train: Split,
    ids: Identities,
    share: float = 0.5,
    sharpest: Literal["high", "low"] = "high",
    rest: Literal["split", "all_but_split"] = "split",
    part: int = 3,
) -> Outcome:
    """SharpBalance (Lu et al. 2024, arXiv 2407.12996; § 8), every ascent local.

    Before ``from_step``: SAM. At its start, before anybody moves, every member scores all samples of ``train``
    (``sample_norms``, ``sharp``, ``sam_sets``); the sets stay. From then on, with n samples in the replica's update and
    n_s of them in the member's set: one forward at θ of whole micro-batches moves the statistics; ε = ρ unit(∇ of the
    loss summed over the set); descend (1/n) [Σ_plain ∇ℓ(θ) + Σ_set ∇ℓ(θ+ε)], then the mean over replicas. The forward
    at θ+ε sees the set's samples of a micro-batch only, a single one with its whole micro-batch. A replica without any
    of them descends its plain part.

    Args:
        members: As in ``proof_oracle``.
        batches: As in ``proof_oracle``.
        settings: As in ``proof_oracle``.
        rho: Radius of both stages.
        from_step: The first update of the second stage.
        train: The whole training split, without augmentation, with the ids of its samples.
        ids: Which samples the batches hold.
        share: κ.
        sharpest: Whether S holds the largest or the smallest scores.
        rest: What goes to SAM of the samples that are sharp to nobody.
        part: Into how many parts those are split.

    Records add ``sam``: per replica the positions in the update that take SAM; from ``from_step`` on also ``set``.
    """
    settings = replace(settings, ascent_sync="local")
    sets: list[set[int]] = []
    names = [int(s) for s in train[2]]

    def update(step: int, own: list[OneMember], replicas: Replicas) -> None:
        if step == from_step:
            found = [sharp(sample_norms(member, *train[:2]), names, share, sharpest) for member in own]
            sets.extend(sam_sets(found, names, rest, part))
        here = [[int(s) for micro in replica for s in micro] for replica in ids[step]]
        for i, member in enumerate(own):
            g, _ = member.differentiate(replicas)
            picked = [[s for s, name in enumerate(some) if step < from_step or name in sets[i]] for some in here]
            if step < from_step:
                descent, _ = member.differentiate(replicas, [scale(rho, unit(one)) for one in g])
            else:
                plain = [[s for s in range(len(a)) if s not in b] for a, b in zip(here, picked, strict=True)]
                nowhere, per_sample = [zeros(one) for one in g], [1 / len(some) for some in here]
                ascent = of_chosen(member, replicas, nowhere, picked, per_sample, alone=False)
                shifts = [scale(rho, unit(one)) for one in ascent]
                at_rest = of_chosen(member, replicas, nowhere, plain, per_sample, alone=False)
                perturbed = of_chosen(member, replicas, shifts, picked, per_sample, alone=True)
                descent = [add(a, b) for a, b in zip(at_rest, perturbed, strict=True)]
            member.step(mean(descent), settings.factor(step))
            member.record |= {"sam": picked, **({"set": sets[i]} if sets else {})}

    return together(members, batches, settings, update)


# ------------------------------------------------------------------------------------------------- DASH


def diversity_gradients(own: list[OneMember], replicas: Replicas, i: int, options: oracle.Options) -> list[Vector]:
    """∇L_div,i at θ per replica, the mean over micro-batches; averaged over replicas under ``mean``."""
    result = []
    for r, micros in enumerate(replicas):
        each = []
        for x, target in micros:
            at = [oracle.leaves(member.theta) for member in own]
            z = [
                oracle.forward(member.module, leaf, oracle.copies(member.on_replicas[r]), x)
                for member, leaf in zip(own, at, strict=True)
            ]
            others = [logits for j, logits in enumerate(z) if j != i]
            each.append(oracle.gradient(oracle.diversity_loss(z[i], others, target, options), at[i]))
        result.append(mean(each))
    return own[i].agreed(result)


def dash(
    members: Members,
    batches: Batches,
    settings: Settings,
    *,
    rho_loss: float,
    rho_div: float,
    every: int = 1,
    alpha: float = 0.7,
    ascent_by: Literal["SAM", "ASAM", "FSAM", "MSAM"] = "SAM",
    moved: Sequence[int] | None = None,
    eta: float = 0.01,
    adapt: Adapt = "weights",
    sigma: float = 1.0,
    decay: float = 0.6,
    peers: Literal["mean_logits", "mean_probs"] = "mean_logits",
    classes: Literal["non_target", "all"] = "non_target",
    temperature: float = 1.0,
) -> Outcome:
    """DASH, separate, by another ascent, every k-th update, on some parameters only.

    A full update, where step mod k = 0 (k = ``every``): ε = ρ₁ u + ρ₂ unit(∇L_div) at θ, g_s = ∇L(θ+ε) averaged over
    replicas, descend g_s. With g = ∇L(θ) averaged over replicas, whole (not restricted), g_v = the part of g_s
    orthogonal to g is kept for the updates between, which descend g + α‖g‖ unit(g_v); g alone while no full update
    has moved.

    u is the ascent of radius 1 of ``ascent_by``: SAM unit(g); ASAM T²g/‖Tg‖; FSAM unit(g − σm), the first time unit(g),
    then m ← λm + (1−λ)g, in full updates that move only, one m per replica under ``local``; MSAM −unit(v) with the
    optimizer's momentum v, 0 at first. Unlike MSAM alone it moves the statistics at θ.

    ``moved`` are the positions of the parameters that are perturbed: g, g − σm, v and ∇L_div are 0 elsewhere before
    their norms are taken. Without peers the second term is 0. Records add ``kept``, g_v after
    the step, ``along``, g, and in full updates ``eps`` per replica.
    """
    options = oracle.Options(peers=peers, classes=classes, temperature=temperature)
    kept: list[Vector | None] = [None for _ in members]
    friendly: list[list[Vector] | None] = [None for _ in members]
    positions: Moved = moved

    def ascent(member: OneMember, g: list[Vector], m: list[Vector] | None) -> list[Vector]:
        if ascent_by == "ASAM":
            t = stretch(member, eta, adapt)
            return [stretched(restricted(one, positions), t) for one in g]
        if ascent_by == "MSAM":
            return [scale(-1, unit(restricted(member.velocity, positions))) for _ in g]
        if ascent_by == "FSAM" and m is not None:
            g = [add(a, scale(-sigma, b)) for a, b in zip(g, m, strict=True)]
        return [unit(restricted(one, positions)) for one in g]

    def update(step: int, own: list[OneMember], replicas: Replicas) -> None:
        g = [member.differentiate(replicas)[0] for member in own]
        if step % every:
            for i, member in enumerate(own):
                whole, old = mean(g[i]), kept[i]
                descent = whole if old is None else add(whole, scale(alpha * norm(whole), unit(old)))
                member.step(descent, settings.factor(step))
                member.record |= {"kept": old, "along": whole}
            return
        apart = [
            diversity_gradients(own, replicas, i, options) if len(own) > 1 else [zeros(one) for one in g[i]]
            for i in range(len(own))
        ]
        for i, member in enumerate(own):
            first = [scale(rho_loss, u) for u in ascent(member, g[i], friendly[i])]
            second = [scale(rho_div, unit(restricted(d, positions))) for d in apart[i]]
            shifts = [add(a, b) for a, b in zip(first, second, strict=True)]
            descent = mean(member.differentiate(replicas, shifts)[0])
            if member.step(descent, settings.factor(step)):
                kept[i] = orthogonal(descent, mean(g[i]))
                friendly[i] = blended(friendly[i], g[i], decay)
            member.record |= {"kept": kept[i], "along": mean(g[i]), "eps": shifts}

    return together(members, batches, settings, update)
