"""Float64 loops for the six small systems that prove the interfaces, written from the formulas alone.

Nothing of ``dist_dash`` is imported. Every function takes what ``tests.oracle.train`` takes: the members as float64
modules that hold the initial weights, and ``batches[step][replica][micro-batch] = (x, target)``. The modules stay as
they are; the ``Outcome`` holds the final weights. "§ n" is a section of ALGORITHMS-2. Rules that all share (§ 0):

- Every gradient is the mean over the samples of a micro-batch, over micro-batches and over replicas. Whatever is not
  linear (norm, unit, projection, gate, selection) is applied to the mean over micro-batches, never to one of them.
- ``unit(0) = 0``. A norm runs over all trainable parameters of one member. Members do not see each other.
- ``ascent_sync``: with ``mean``, gradients are averaged over replicas before anything that is not linear; with
  ``local``, each replica perturbs by its own gradient.
- The averaged descent gradient is clipped (if asked), then SGD adds weight decay on every parameter and momentum.
- Batch-norm statistics move in the unperturbed pass only, on every replica from the same start, and are averaged.
- A step whose descent gradient is not finite is skipped: weights, momentum and the rule's state stay (statistics move).
- The target is the distribution to be fitted: whoever wants label smoothing smooths it first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from tests import oracle
from tests.oracle import Batch, Vector, add, average, dot, mean, norm, scale, unit, zeros

Replicas = list[list[Batch]]  # the batches of one step: [replica][micro-batch]
Members = list[nn.Module]
Batches = list[Replicas]
Range = tuple[float, float]
State = dict[str, Tensor]
Losses = Callable[[Tensor, Tensor], Tensor]  # logits [n, C], target [n, C] -> losses of the samples [n]


def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """Losses of the samples [n]: -Σ_c t_c log softmax(z)_c."""
    return -(target * torch.log_softmax(logits, dim=1)).sum(dim=1)


def of_heads(classes: Sequence[int]) -> Losses:
    """The loss of several heads: logits and targets [n, ΣC_t] → Σ_t cross-entropy on the slice of head t [n]; § 18.13.

    L = Σ_t mean cross-entropy of head t: a sum over heads, not their mean. SAM then has one ε for all parameters.
    """

    def losses(logits: Tensor, target: Tensor) -> Tensor:
        slices = zip(logits.split(list(classes), dim=1), target.split(list(classes), dim=1), strict=True)
        return torch.stack([cross_entropies(z, t) for z, t in slices]).sum(dim=0)

    return losses


@dataclass(kw_only=True)
class Settings:
    """The loss and the optimizer. The learning rate is ``lr · factors[step]``, without factors constant."""

    losses: Losses = cross_entropies
    lr: float = 0.1
    factors: Sequence[float] | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 0.0
    ascent_sync: Literal["mean", "local"] = "mean"

    def factor(self, step: int) -> float:
        return 1.0 if self.factors is None else self.factors[step]


@dataclass
class Outcome:
    """What a run leaves: per member weights with buffers, and momentum; records as ``[step][member]``.

    Every record has ``loss`` (mean over all samples, at θ), ``loss_perturbed`` (at θ + ε, if any), ``factor``,
    ``squared`` (‖∇L(θ)‖², of the averaged gradient under ``mean``, the mean of the replicas' under ``local``),
    ``descent_norm`` (before clipping and weight decay) and ``moved`` (False for a skipped step).
    """

    weights: list[State]
    momentum: list[Vector]
    records: list[list[dict]]
    saves: list[list[State]] = field(default_factory=list)  # [member][snapshot]


class OneMember:
    """One member on all of its replicas, which hold equal weights: so the weights exist once."""

    def __init__(self, module: nn.Module, settings: Settings):
        if any(p.dtype != torch.float64 for p in module.parameters()):
            raise ValueError("members must be float64")
        self.module, self.settings = module, settings
        self.theta: Vector = [p.detach().clone() for p in oracle.trainable(module).values()]
        self.velocity: Vector = zeros(self.theta)
        self.buffers = oracle.copies(dict(module.named_buffers()))
        self.on_replicas: list[State] = []
        self.record: dict = {}  # of the present step

    def differentiate(
        self, replicas: Replicas, shifts: list[Vector] | None = None, weights: list[Tensor] | None = None
    ) -> tuple[list[Vector], list[Tensor]]:
        """Per replica ∇Σ_s w_s ℓ_s at θ + shift, and its losses ℓ [samples of the update], micro-batches in order.

        Without shifts it is the unperturbed pass: statistics move, and ``mean`` averages the gradients over replicas.
        Without weights Σ_s w_s ℓ_s is the mean over micro-batches of their means.
        """
        if shifts is None:
            self.on_replicas = [oracle.copies(self.buffers) for _ in replicas]
        gradients, losses = [], []
        for r, micros in enumerate(replicas):
            total, seen = zeros(self.theta), torch.empty(0, dtype=torch.float64)
            for x, target in micros:
                at = oracle.leaves(self.theta if shifts is None else add(self.theta, shifts[r]))
                buffers = self.on_replicas[r] if shifts is None else oracle.copies(self.on_replicas[r])
                value = self.settings.losses(oracle.forward(self.module, at, buffers, x), target)
                share = 1 / (len(micros) * len(x)) if weights is None else weights[r][len(seen) :][: len(x)]
                total = add(total, oracle.gradient((share * value).sum(), at))
                seen = torch.cat([seen, value.detach()])
            gradients.append(total)
            losses.append(seen)
        loss = float(torch.cat(losses).mean())
        if shifts is None:
            gradients = self.agreed(gradients)
            self.record = {"loss": loss, "squared": average([dot(g, g) for g in gradients])}
        else:
            self.record["loss_perturbed"] = loss
        return gradients, losses

    def agreed(self, gradients: list[Vector]) -> list[Vector]:
        """What each replica goes on with: the mean, or its own."""
        return [mean(gradients) for _ in gradients] if self.settings.ascent_sync == "mean" else gradients

    def step(self, descent: Vector, factor: float) -> bool:
        """Clip, decay, momentum, move; False and no weight moved where the gradient is not finite."""
        for name, old in self.buffers.items():
            each = [buffers[name] for buffers in self.on_replicas]
            self.buffers[name] = torch.stack(each).mean(dim=0) if old.is_floating_point() else each[0]
        s, moved = self.settings, all(bool(torch.isfinite(g).all()) for g in descent)
        self.record |= {"factor": factor, "descent_norm": norm(descent), "moved": moved}
        if moved:
            options = oracle.Options(lr=s.lr * factor, momentum=s.momentum, weight_decay=s.weight_decay, clip=s.clip)
            self.theta, self.velocity = oracle.sgd(self.theta, descent, self.velocity, options)
        return moved

    def state(self) -> State:
        """Weights and buffers, under the names of ``state_dict``."""
        own = dict(zip(oracle.trainable(self.module), self.theta, strict=True))
        return oracle.copies({**self.module.state_dict(), **own, **self.buffers})


def loop(members: Members, batches: Batches, settings: Settings, update: Callable[..., None]) -> Outcome:
    own, records = [OneMember(module, settings) for module in members], []
    for step, replicas in enumerate(batches):
        for i, member in enumerate(own):
            update(step, member, i, replicas)
        records.append([member.record for member in own])
    return Outcome([member.state() for member in own], [member.velocity for member in own], records)


def decomposed(g: Vector, g_p: Vector, alpha: float) -> Vector:
    """g_p − α (g − ⟨g,u⟩u) with u = unit(g_p); 0 where g_p = 0; § 2."""
    orthogonal = add(g, scale(-dot(g, unit(g_p)), unit(g_p)))
    return zeros(g_p) if norm(g_p) == 0 else add(g_p, scale(-alpha, orthogonal))


def gsam(
    members: Members, batches: Batches, settings: Settings, *, rho: Range, alpha: float, factors: Range = (1.0, 1.0)
) -> Outcome:
    """GSAM (Zhuang et al. 2022, arXiv 2203.08065; § 2), ρ by the factor of this very update.

    g = ∇L(θ), ε = ρ_t unit(g), g_p = ∇L(θ + ε), descend ``decomposed(g, g_p, α)``; ``rho`` = (ρ_min, ρ_max), and
    ρ_t = ρ_min + (ρ_max − ρ_min)(f_t − f_min)/(f_max − f_min), held within [ρ_min, ρ_max], ρ_max where f_max = f_min;
    ``factors`` = (f_min, f_max) of the whole run. Under ``mean``, g and g_p are averaged over replicas before the
    decomposition; under ``local`` each replica decomposes its own two, then the mean. Records add ``rho``, this ρ_t.
    """

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        lowest, highest = factors
        share = 1.0 if highest == lowest else (settings.factor(step) - lowest) / (highest - lowest)
        rho_t = rho[0] + (rho[1] - rho[0]) * min(1.0, max(0.0, share))
        g, _ = member.differentiate(replicas)
        g_p, _ = member.differentiate(replicas, [scale(rho_t, unit(one)) for one in g])
        pairs = zip(g, member.agreed(g_p), strict=True)
        member.step(mean([decomposed(one, perturbed, alpha) for one, perturbed in pairs]), settings.factor(step))
        member.record["rho"] = rho_t

    return loop(members, batches, settings, update)


def ae_sam(
    members: Members, batches: Batches, settings: Settings, *, rho: float, delta: float = 0.9, gate: Range = (1.0, -1.0)
) -> Outcome:
    """AE-SAM (Jiang et al. 2023, arXiv 2304.14647; § 6): a SAM step where ‖g‖² ≥ μ_t + c_t σ_t, else an SGD step.

    μ_t = δ μ_{t−1} + (1−δ)‖g‖², then σ²_t = δ σ²_{t−1} + (1−δ)(‖g‖² − μ_t)² with the new μ_t; the gate reads both new
    numbers. c_t = gate[0] + (gate[1] − gate[0]) t/T with t = 0 at the first update and T = len(batches): c is gate[0]
    at the first update and would be gate[1] one update after the last. The first update that is not skipped sets
    μ = ‖g‖² and σ² = 0 (μ_0 = ‖g_1‖², σ_0 = 0, free of rounding): a SAM step for every finite c. A gate of +∞ or −∞ at
    both ends means never or always SAM. ‖g‖² is the record's ``squared``, one number for all replicas. An SGD step
    descends the mean of the gradients at θ. A skipped step leaves μ and σ² alone and counts in t.
    Records add ``sam`` (decided, also in a step that was then skipped), ``gate`` (c_t), ``mu`` and ``variance`` (as
    they stand after the step; NaN before the first step that moved).
    """
    kept = [(math.nan, math.nan) for _ in members]  # μ and σ²

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        c = gate[0] + (0.0 if gate[1] == gate[0] else (gate[1] - gate[0]) * step / len(batches))
        g, _ = member.differentiate(replicas)
        squared = member.record["squared"]
        mu, variance = squared, 0.0
        if not math.isnan(kept[i][0]):
            mu = delta * kept[i][0] + (1 - delta) * squared
            variance = delta * kept[i][1] + (1 - delta) * (squared - mu) * (squared - mu)
        sam = squared >= (c if math.isinf(c) else mu + c * math.sqrt(variance))
        descent = member.differentiate(replicas, [scale(rho, unit(one)) for one in g])[0] if sam else g
        if member.step(mean(descent), settings.factor(step)):
            kept[i] = mu, variance
        member.record |= {"sam": sam, "gate": c, "mu": kept[i][0], "variance": kept[i][1]}

    return loop(members, batches, settings, update)


def selected(rise: Tensor, gamma: float) -> Tensor:
    """The ascending positions of the ⌈γn⌉, at least 1, largest rises [n]; ties by position, non-finite last; § 4."""
    rise = torch.where(torch.isfinite(rise), rise, -math.inf)
    order = torch.argsort(rise, descending=True, stable=True)
    return order[: max(1, math.ceil(gamma * len(rise)))].sort().values


def esam(members: Members, batches: Batches, settings: Settings, *, rho: float, gamma: float) -> Outcome:
    """ESAM (Du et al. 2022, arXiv 2110.03141; § 4) with β = 1: descend the losses that rose most.

    rise_s = ℓ_s(θ+ε) − ℓ_s(θ) for each sample s of the replica's whole update, B⁺ = ``selected(rise, γ)``, descend
    Σ_s w_s ∇ℓ_s(θ+ε) with w_s = 1/|B⁺| in B⁺ and 0 outside, averaged over replicas. The ascent uses all samples. The
    forward at θ+ε is of whole micro-batches, so that batch norm does not depend on the selection. Records add
    ``selected``: B⁺ per replica, as positions counted through the micro-batches in their order.
    """

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        g, before = member.differentiate(replicas)
        shifts = [scale(rho, unit(one)) for one in g]
        _, after = member.differentiate(replicas, shifts)
        chosen = [selected(b - a, gamma) for a, b in zip(before, after, strict=True)]
        weights = [torch.zeros_like(b).index_fill(0, k, 1 / len(k)) for b, k in zip(after, chosen, strict=True)]
        descent, _ = member.differentiate(replicas, shifts, weights)
        member.step(mean(descent), settings.factor(step))
        member.record["selected"] = [keep.tolist() for keep in chosen]

    return loop(members, batches, settings, update)


def sam(
    members: Members, batches: Batches, settings: Settings, *, rho: float, masks: list[Vector] | None = None
) -> Outcome:
    """SAM (Foret et al. 2021), p = 2: ε = ρ unit(∇L(θ)), descend ∇L(θ+ε); with masks on the kept weights only (§ 13).

    ``masks[member]`` has one tensor of 0 and 1 per trainable parameter, in their order. θ ← m⊙θ at the start and after
    every update, ε = m⊙ρ unit(m⊙g), the averaged descent gradient is masked before clipping. Weight decay then acts
    on 0, and the momentum of an absent weight stays exactly 0.
    """

    def keep(i: int, vector: Vector) -> Vector:
        return vector if masks is None else [m.to(x.dtype) * x for m, x in zip(masks[i], vector, strict=True)]

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        member.theta = keep(i, member.theta)
        g, _ = member.differentiate(replicas)
        descent, _ = member.differentiate(replicas, [keep(i, scale(rho, unit(keep(i, one)))) for one in g])
        member.step(keep(i, mean(descent)), settings.factor(step))
        member.theta = keep(i, member.theta)

    return loop(members, batches, settings, update)


def boundaries(total: int, cycles: int) -> list[int]:
    """The updates after which a cycle ends: Python's round(cT/M), an exact half to the even number, c = 1…M; § 11."""
    return [round(c * total / cycles) for c in range(1, cycles + 1)]


def snapshots(members: Members, batches: Batches, settings: Settings, *, cycles: int = 2) -> Outcome:
    """A snapshot ensemble (Huang et al. 2017; § 11) by SGD: M saves of one chain under a cosine that starts anew.

    T = len(batches), factor = ½(1 + cos(π (step − start)/length)), step from 0: 1 at the start of every cycle, never
    quite 0; ``settings.factors`` is not read. Weights, momentum and batch-norm statistics go on into the next cycle.
    ``saves[member][c]`` is the state after ``boundaries(T, M)[c]`` updates; the last one equals ``weights[member]``.
    """
    ends = boundaries(len(batches), cycles)
    saves: list[list[State]] = [[] for _ in members]

    def update(step: int, member: OneMember, i: int, replicas: Replicas) -> None:
        end = min(e for e in ends if e > step)
        start = max((e for e in ends if e <= step), default=0)
        g, _ = member.differentiate(replicas)
        member.step(mean(g), 0.5 * (1 + math.cos(math.pi * (step - start) / (end - start))))
        if step + 1 == end:
            saves[i].append(member.state())

    return replace(loop(members, batches, settings, update), saves=saves)
