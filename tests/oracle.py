"""The test oracle: SGD, SAM and DASH ensembles in one process, in float64, written from the formulas alone.

It shares no code with ``dist_dash`` on purpose and is slow on purpose: loops over members, replicas, micro-batches and
(in the diversity loss) samples, gradients from ``torch.autograd.grad`` as plain lists of tensors.

Where the written rules leave something open, this file reads them as follows.

- *Average, not sum.* Every gradient is the average over micro-batches and replicas, which must all have the same size,
  so that it is the gradient of one large batch. (For the unit vectors sum and average are the same.)
- *L_div* is ``KL(softmax(ẑ_i / τ) || q)`` with ẑ = the logits without the true classes (those with a positive share in
  the target as given, before smoothing). ``peers='mean_logits'``: ``q = softmax(mean_j ẑ_j / τ)``. ``'mean_probs'``:
  the combined logits are ``log mean_j softmax(z_j)`` over all classes; the true classes are left out of that, and τ is
  applied to it, just as with mean_logits. There is no τ² factor.
- *m = 1* is SAM with p = 2 and radius ``rho_loss``, whatever ascent, direction, diversity_in and gamma say.
- *Random direction*: one per step and member, the same on every replica, also under ``ascent_sync='local'``.
- *L_ens* on soft targets is ``-mean_B sum_c t_c log mean_j softmax(z_j)_c`` with t smoothed if smoothing is on. With
  ``gamma`` and ``diversity_in='descent'`` the factor 1 - γ is on all of ``∇(L_i - λ L_div,i)``.
- *Clipping* acts on the final averaged gradient (after gamma), before weight decay; weight decay is on every parameter.
- *Warm-up* scales every radius: rho, rho_loss, rho_div and the one of ε_ens.
- *ascent* and *direction* matter only where ``diversity_in='ascent'``. A random direction has no joint form: refused.
- *Unused parameters* have gradient zero (so weight decay still moves them). Frozen parameters are in no norm.

Modules must be deterministic in their input and parameters (no dropout). They keep the train or eval mode they come in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

Vector = list[Tensor]  # one tensor per trainable parameter of one member
Buffers = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]  # inputs, class probabilities [n, C]


@dataclass
class Options:
    method: Literal["SGD", "SAM", "DASH"] = "DASH"
    # SAM
    rho: float = 0.05
    p: float = 2.0
    # DASH
    rho_loss: float = 0.05
    rho_div: float = 0.05
    temperature: float = 1.0
    peers: Literal["mean_logits", "mean_probs"] = "mean_logits"
    ascent: Literal["separate", "joint"] = "separate"
    lam: float = 1.0
    classes: Literal["non_target", "all"] = "non_target"
    diversity_in: Literal["ascent", "descent", "none"] = "ascent"
    direction: Literal["diversity", "random"] = "diversity"
    gamma: float = 0.0
    random_direction: Callable[[int, int, Vector], Vector] | None = None  # (step, member, parameters) -> any length
    # all methods
    ascent_sync: Literal["mean", "local"] = "mean"
    warmup_steps: int = 0
    smoothing: float = 0.0
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0


# ---------------------------------------------------------------------------------------------- vectors


def zeros(like: Vector) -> Vector:
    return [torch.zeros_like(a) for a in like]


def add(a: Vector, b: Vector) -> Vector:
    return [x + y for x, y in zip(a, b, strict=True)]


def scale(factor: float, a: Vector) -> Vector:
    return [factor * x for x in a]


def mean(vectors: list[Vector]) -> Vector:
    total = zeros(vectors[0])
    for vector in vectors:
        total = add(total, vector)
    return scale(1 / len(vectors), total)


def dot(a: Vector, b: Vector) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def norm(a: Vector) -> float:
    return math.sqrt(dot(a, a))


def unit(a: Vector) -> Vector:
    length = norm(a)
    return zeros(a) if length == 0 else [x / length for x in a]


def cosine(a: Vector, b: Vector) -> float:
    return dot(unit(a), unit(b))


def p_norm(a: Vector, p: float) -> float:
    flat = torch.cat([x.reshape(-1) for x in a]).abs()
    return float(flat.max()) if math.isinf(p) else float((flat**p).sum() ** (1 / p))


def sam_perturbation(g: Vector, rho: float, p: float = 2.0) -> Vector:
    """ρ sign(g) |g|^(q-1) / (sum |g|^q)^(1/p) with 1/p + 1/q = 1: the step of p-norm ρ that raises g·ε most."""
    if not p > 1:
        raise ValueError(f"SAM needs p > 1, not {p}")
    if p == 2:
        return scale(rho, unit(g))
    if math.isinf(p):
        return [rho * x.sign() for x in g]
    largest = p_norm(g, math.inf)
    if largest == 0:
        return zeros(g)
    q = p / (p - 1)
    g = [x / largest for x in g]  # the formula does not depend on the length of g; this keeps |g|^q from underflow
    denominator = sum(float((x.abs() ** q).sum()) for x in g) ** (1 / p)
    return [rho * x.sign() * x.abs() ** (q - 1) / denominator for x in g]


# ----------------------------------------------------------------------------------------------- losses


def smooth(target: Tensor, smoothing: float) -> Tensor:
    return (1 - smoothing) * target + smoothing / target.shape[1]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """L_i: the target as it is to be fitted (smooth it first)."""
    return -(target * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()


def log_mean_exp(a: Tensor) -> Tensor:
    """Over dimension 0; exactly 0 for zeros."""
    top = a.max(dim=0).values.detach()
    return top + torch.log(torch.exp(a - top).mean(dim=0))


def diversity_loss(logits: Tensor, others: list[Tensor], target: Tensor, options: Options) -> Tensor:
    """L_div,i, where ``others`` are the other members' logits and ``target`` is not smoothed.

    The value is mean_B sum_c P_c (log P_c - log Q_c). The log-ratio is held constant for the gradient, which is exact
    because sum_c P_c ∇log P_c = ∇ sum_c P_c = 0 and Q is constant. Both this and working with differences to the
    member's own logits make value and gradient exactly 0, not rounding noise, when all members agree: unit() would
    blow noise up to a full-size step.
    """
    tau = options.temperature
    total = torch.zeros((), dtype=logits.dtype)
    for s in range(len(logits)):
        keep = target[s] <= 0 if options.classes == "non_target" else torch.ones_like(target[s], dtype=torch.bool)
        if int(keep.sum()) < 2:
            raise ValueError("fewer than two classes remain for the diversity loss: use classes='all'")
        mine = logits[s]
        theirs = torch.stack([other.detach()[s] for other in others])
        if options.peers == "mean_logits":
            combined = mine + (theirs - mine).mean(dim=0)  # = mean_j theirs_j
        elif options.peers == "mean_probs":
            mine = torch.log_softmax(mine, dim=0)  # the same distribution, and comparable with the peers' to the bit
            combined = mine + log_mean_exp(torch.log_softmax(theirs, dim=1) - mine)  # = log mean_j softmax(theirs_j)
        else:
            raise ValueError(f"peers={options.peers!r}")
        log_p = torch.log_softmax(mine[keep] / tau, dim=0)
        log_ratio = log_p - torch.log_softmax(combined[keep] / tau, dim=0)
        total = total + (torch.exp(log_p) * log_ratio.detach()).sum()
    return total / len(logits)


def ensemble_loss(all_logits: list[Tensor], target: Tensor) -> Tensor:
    """L_ens: the target as it is to be fitted."""
    log_prob = log_mean_exp(torch.stack([torch.log_softmax(z, dim=1) for z in all_logits]))
    return -(target * log_prob).sum(dim=1).mean()


# --------------------------------------------------------------------------------------------- training


def trainable(member: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in member.named_parameters() if p.requires_grad}


def leaves(theta: Vector) -> Vector:
    return [p.detach().clone().requires_grad_(True) for p in theta]


def forward(member: nn.Module, theta: Vector, buffers: Buffers, x: Tensor) -> Tensor:
    """Logits at the parameters ``theta``; batch norm writes to ``buffers``, the module itself does not change."""
    state = dict(zip(trainable(member), theta, strict=True))
    return torch.func.functional_call(member, {**state, **buffers}, (x,))


def gradient(loss: Tensor, theta: Vector) -> Vector:
    grads = torch.autograd.grad(loss, theta, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g.detach() for p, g in zip(theta, grads, strict=True)]


def copies(buffers: Buffers) -> Buffers:
    return {name: b.clone() for name, b in buffers.items()}


def check(members: list[nn.Module], batches: list[list[list[Batch]]], options: Options) -> None:
    if options.method not in ("SGD", "SAM", "DASH"):
        raise ValueError(f"method={options.method!r}")
    if options.ascent_sync not in ("mean", "local"):
        raise ValueError(f"ascent_sync={options.ascent_sync!r}")
    if options.diversity_in not in ("ascent", "descent", "none"):
        raise ValueError(f"diversity_in={options.diversity_in!r}")
    if options.ascent not in ("separate", "joint") or options.classes not in ("non_target", "all"):
        raise ValueError(f"ascent={options.ascent!r}, classes={options.classes!r}")
    if options.direction not in ("diversity", "random"):
        raise ValueError(f"direction={options.direction!r}")
    if options.direction == "random" and (options.random_direction is None or options.ascent == "joint"):
        raise ValueError("direction='random' needs random_direction and ascent='separate'")
    if not 0 <= options.gamma <= 1:
        raise ValueError(f"gamma={options.gamma}")
    for member in members:
        if any(p.dtype != torch.float64 for p in member.parameters()):
            raise ValueError("members must be float64")
    for replicas in batches:
        sizes = {(len(micros), x.shape[0], t.shape[0]) for micros in replicas for x, t in micros}
        if len(sizes) != 1:
            raise ValueError("replicas and micro-batches of a step must be equal in number and size")
        if any(t.dtype != torch.float64 for micros in replicas for _, t in micros):
            raise ValueError("targets must be float64 class probabilities")


def train(members: list[nn.Module], batches: list[list[list[Batch]]], options: Options) -> list[list[dict]]:
    """Train ``members`` in place on ``batches[step][replica][micro-batch]``; returns figures per step and member.

    Keys: loss, loss_perturbed, div, grad_norm, div_norm, cosine (of ∇L_i with the second ascent direction: ∇L_div,i, or
    the random one), cosine_div (with ∇L_div,i always), eps_norm, descent_norm (before clipping and weight decay),
    loss_ens (the same for all members). loss, div and loss_ens are at θ. Norms and cosines are those of the averaged
    gradient under ascent_sync='mean', and averages of the replicas' under 'local'. What L_div does not define (no
    peer, or fewer than two classes remain where L_div is not used) is NaN.
    """
    check(members, batches, options)
    velocity: list[Vector | None] = [None for _ in members]
    return [train_step(members, replicas, options, step, velocity) for step, replicas in enumerate(batches)]


def train_step(
    members: list[nn.Module], replicas: list[list[Batch]], options: Options, step: int, velocity: list[Vector | None]
) -> list[dict]:
    M, R = range(len(members)), range(len(replicas))
    m = len(members)
    dash = options.method == "DASH" and m > 1
    uses_div = dash and (
        options.diversity_in == "descent" or (options.diversity_in == "ascent" and options.direction == "diversity")
    )
    gamma = options.gamma if dash else 0.0
    ramp = min(1.0, (step + 1) / options.warmup_steps) if options.warmup_steps > 0 else 1.0
    rho, rho_loss, rho_div = ramp * options.rho, ramp * options.rho_loss, ramp * options.rho_div

    theta = [[p.detach().clone() for p in trainable(member).values()] for member in members]

    # Is L_div defined on all of this step's samples? If not, it may only be missing where nothing needs it.
    has_div = m > 1
    if options.classes == "non_target":
        has_div = has_div and all(int((t <= 0).sum(dim=1).min()) >= 2 for micros in replicas for _, t in micros)
    if uses_div and not has_div:
        raise ValueError("fewer than two classes remain for the diversity loss: use classes='all'")

    # 1. The unperturbed pass: losses and gradients at θ. Only this pass moves the running statistics, on each replica
    #    from the same start.
    buffers = [[copies(dict(members[i].named_buffers())) for i in M] for _ in R]  # [replica][member]
    loss: list[list[float]] = [[] for _ in M]
    div: list[list[float]] = [[] for _ in M]
    loss_ens: list[float] = []
    grad_loss: list[list[Vector]] = []  # [replica][member], averaged over micro-batches
    grad_div: list[list[Vector]] = []
    grad_ens: list[list[Vector]] = []
    for r in R:
        micro_loss: list[list[Vector]] = [[] for _ in M]
        micro_div: list[list[Vector]] = [[] for _ in M]
        micro_ens: list[list[Vector]] = [[] for _ in M]
        for x, target in replicas[r]:
            t = smooth(target, options.smoothing)
            at = [leaves(theta[i]) for i in M]
            z = [forward(members[i], at[i], buffers[r][i], x) for i in M]
            ens = ensemble_loss(z, t)
            loss_ens.append(ens.item())
            for i in M:
                value = cross_entropy(z[i], t)
                loss[i].append(value.item())
                micro_loss[i].append(gradient(value, at[i]))
                micro_ens[i].append(gradient(ens, at[i]))
                if has_div:
                    value = diversity_loss(z[i], [z[j] for j in M if j != i], target, options)
                    div[i].append(value.item())
                    micro_div[i].append(gradient(value, at[i]))
                else:
                    div[i].append(math.nan)
                    micro_div[i].append(zeros(theta[i]))
        grad_loss.append([mean(micro_loss[i]) for i in M])
        grad_div.append([mean(micro_div[i]) for i in M])
        grad_ens.append([mean(micro_ens[i]) for i in M])
    if options.ascent_sync == "mean":  # every replica ascends by the average over replicas
        grad_loss = [[mean([grad_loss[r][i] for r in R]) for i in M] for _ in R]
        grad_div = [[mean([grad_div[r][i] for r in R]) for i in M] for _ in R]
        grad_ens = [[mean([grad_ens[r][i] for r in R]) for i in M] for _ in R]

    # 2. The perturbations, [replica][member].
    second = grad_div
    if dash and options.diversity_in == "ascent" and options.direction == "random":
        drawn = [options.random_direction(step, i, [p.clone() for p in theta[i]]) for i in M]
        second = [drawn for _ in R]
    eps: list[list[Vector]] = []
    eps_ens: list[list[Vector]] = []
    for r in R:
        eps.append([])
        for i in M:
            g, d = grad_loss[r][i], second[r][i]
            if options.method == "SGD":
                e = zeros(g)
            elif options.method == "SAM":
                e = sam_perturbation(g, rho, options.p)
            elif m == 1 or options.diversity_in in ("none", "descent"):
                e = scale(rho_loss, unit(g))
            elif options.ascent == "joint":
                e = scale(rho_loss, unit(add(g, scale(options.lam, d))))
            else:
                e = add(scale(rho_loss, unit(g)), scale(rho_div, unit(d)))
            eps[r].append(e)
        # unit() over all members of this replica together: one vector, cut into the members' slices again.
        joined = unit([tensor for i in M for tensor in grad_ens[r][i]])
        eps_ens.append([])
        for i in M:
            piece, joined = joined[: len(theta[i])], joined[len(theta[i]) :]
            eps_ens[r].append(scale(rho_loss * math.sqrt(m), piece))

    # 3. The perturbed pass: the same samples again; buffers are copies that are thrown away.
    loss_perturbed: list[list[float]] = [[] for _ in M]
    descent: list[list[Vector]] = [[] for _ in M]  # one entry per replica and micro-batch
    for r in R:
        for x, target in replicas[r]:
            t = smooth(target, options.smoothing)
            at = [leaves(add(theta[i], eps[r][i])) for i in M]
            z = [forward(members[i], at[i], copies(buffers[r][i]), x) for i in M]
            if gamma > 0:
                at_ens = [leaves(add(theta[i], eps_ens[r][i])) for i in M]
                z_ens = [forward(members[i], at_ens[i], copies(buffers[r][i]), x) for i in M]
                ens = ensemble_loss(z_ens, t)
            for i in M:
                value = cross_entropy(z[i], t)
                loss_perturbed[i].append(value.item())
                g = gradient(value, at[i])
                if dash and options.diversity_in == "descent":
                    value = diversity_loss(z[i], [z[j] for j in M if j != i], target, options)
                    g = add(g, scale(-options.lam, gradient(value, at[i])))
                if gamma > 0:
                    g = add(scale(1 - gamma, g), scale(gamma, gradient(ens, at_ens[i])))
                descent[i].append(g)

    # 4. The update, and the running statistics: the average of the replicas'.
    records = []
    for i in M:
        g = mean(descent[i])
        records.append(
            {
                "loss": average(loss[i]),
                "loss_perturbed": average(loss_perturbed[i]),
                "loss_ens": average(loss_ens),
                "div": average(div[i]),
                "grad_norm": average([norm(grad_loss[r][i]) for r in R]),
                "div_norm": average([norm(grad_div[r][i]) for r in R]) if has_div else math.nan,
                "cosine": average([cosine(grad_loss[r][i], second[r][i]) for r in R])
                if has_div or second is not grad_div
                else math.nan,
                "cosine_div": average([cosine(grad_loss[r][i], grad_div[r][i]) for r in R]) if has_div else math.nan,
                "eps_norm": average([norm(eps[r][i]) for r in R]),
                "descent_norm": norm(g),
            }
        )
        new, velocity[i] = sgd(theta[i], g, velocity[i], options)
        with torch.no_grad():
            for parameter, value in zip(trainable(members[i]).values(), new, strict=True):
                parameter.copy_(value)
            for name, buffer in members[i].named_buffers():
                each = [buffers[r][i][name] for r in R]
                buffer.copy_(sum(each) / len(each) if buffer.is_floating_point() else each[0])
    return records


def sgd(theta: Vector, g: Vector, velocity: Vector | None, options: Options) -> tuple[Vector, Vector]:
    """Clip, add weight decay, momentum, step: torch.nn.utils.clip_grad_norm_ and torch.optim.SGD."""
    if options.clip > 0:
        g = scale(min(1.0, options.clip / (norm(g) + 1e-6)), g)
    g = add(g, scale(options.weight_decay, theta))
    velocity = g if velocity is None else add(scale(options.momentum, velocity), g)
    return add(theta, scale(-options.lr, velocity)), velocity


def average(values: list[float]) -> float:
    return sum(values) / len(values)


# ------------------------------------------------------------------------------------------- self-check


def _net(seed: int, bn: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(4, 6), *([nn.BatchNorm1d(6)] if bn else []), nn.Tanh(), nn.Linear(6, 5)]
    return nn.Sequential(*layers).double().train()


def _data(seed: int, n: int, mixed: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    a, b = torch.randint(5, (2, n), generator=generator)
    target = torch.eye(5, dtype=torch.float64)[a]
    return x, 0.7 * target + 0.3 * torch.eye(5, dtype=torch.float64)[b] if mixed else target


def _flat(member: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in member.parameters()])


def _close(a: Tensor | float, b: Tensor | float, what: str, tolerance: float = 1e-11) -> None:
    error = float(torch.as_tensor(a, dtype=torch.float64).sub(torch.as_tensor(b, dtype=torch.float64)).abs().max())
    assert error <= tolerance, f"{what}: off by {error:.2e}"
    print(f"ok  {error:8.1e}  {what}")


def _run(batches: list[list[list[Batch]]], m: int = 3, bn: bool = False, **options) -> tuple[Tensor, list[list[dict]]]:
    members = [_net(10 + i, bn) for i in range(m)]
    records = train(members, batches, Options(**options))
    return torch.cat([_flat(member) for member in members]), records


def _numeric(f: Callable[[Vector], float], theta: Vector, h: float = 1e-5) -> Vector:
    result = zeros(theta)
    for k, p in enumerate(theta):
        for e in range(p.numel()):
            step = torch.zeros_like(p).reshape(-1)
            step[e] = h
            step = step.reshape(p.shape)
            up, down = list(theta), list(theta)
            up[k], down[k] = p + step, p - step
            result[k].reshape(-1)[e] = (f(up) - f(down)) / (2 * h)
    return result


def _gap(a: Vector, b: Vector) -> float:
    return p_norm(add(a, scale(-1, b)), math.inf)


def _random(step: int, member: int, like: Vector) -> Vector:
    generator = torch.Generator().manual_seed(1000 * step + member)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in like]


def _kl_by_definition(z: Tensor, others: list[Tensor], target: Tensor, o: Options) -> float:
    """Scalars only, nothing shared with diversity_loss."""
    total = 0.0
    for s in range(len(z)):
        kept = [c for c in range(z.shape[1]) if o.classes == "all" or float(target[s, c]) == 0]

        def softmax(v: list[float], tau: float = o.temperature) -> list[float]:
            return [math.exp(a / tau) / sum(math.exp(b / tau) for b in v) for a in v]

        p = softmax([float(z[s, c]) for c in kept])
        if o.peers == "mean_logits":
            q = softmax([sum(float(other[s, c]) for other in others) / len(others) for c in kept])
        else:
            each = [softmax([float(a) for a in other[s]], 1.0) for other in others]
            mixed = [math.log(sum(column) / len(others)) for column in zip(*each, strict=True)]
            q = softmax([mixed[c] for c in kept])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(z)


def _check_losses() -> None:
    members = [_net(i) for i in range(3)]
    thetas = [[p.detach() for p in member.parameters()] for member in members]
    x, target = _data(1, 5, mixed=True)
    z = [member(x).detach() for member in members]
    for peers in ("mean_logits", "mean_probs"):
        for classes in ("non_target", "all"):
            o = Options(peers=peers, classes=classes, temperature=1.7)
            at = leaves(thetas[0])
            value = diversity_loss(forward(members[0], at, {}, x), z[1:], target, o)
            _close(value.item(), _kl_by_definition(z[0], z[1:], target, o), f"L_div by definition, {peers}, {classes}")

            def f(theta: Vector, o: Options = o) -> float:
                return _kl_by_definition(forward(members[0], theta, {}, x).detach(), z[1:], target, o)

            _close(_gap(gradient(value, at), _numeric(f, thetas[0])), 0, f"  its gradient, {peers}, {classes}", 1e-8)
            for m in (2, 4, 8):
                own = leaves(thetas[0])
                value = diversity_loss(forward(members[0], own, {}, x), [z[0]] * (m - 1), target, o)
                assert value.item() == 0
                assert norm(gradient(value, own)) == 0
    t = smooth(target, 0.1)
    probability = sum(torch.softmax(a, dim=1) for a in z) / 3
    _close(ensemble_loss(z, t), -(t * probability.log()).sum(1).mean(), "L_ens by definition")
    _close(cross_entropy(z[0], t), nn.functional.cross_entropy(z[0], target, label_smoothing=0.1), "L_i as torch")


def _check_rules() -> None:
    """One step of each rule written out a second time, with parameters moved in place and .backward()."""
    x, target = _data(2, 6)
    theta = [p.detach() for p in _net(10).parameters()]

    def backward(nets: list[nn.Module], loss: Tensor) -> list[Vector]:
        for net in nets:
            net.zero_grad()
        loss.backward()
        return [[p.grad.clone() for p in net.parameters()] for net in nets]

    def move(nets: list[nn.Module], by: list[Vector]) -> None:
        with torch.no_grad():
            for net, vector in zip(nets, by, strict=True):
                for p, v in zip(net.parameters(), vector, strict=True):
                    p.add_(v)

    label = target.argmax(1)
    ce = nn.functional.cross_entropy
    net = _net(10)
    (g,) = backward([net], ce(net(x), label))
    flat = torch.cat([a.reshape(-1) for a in g])
    _close(_run([[[(x, target)]]], m=1, method="SGD")[0], _flat(net) - 0.1 * flat, "SGD, one step")
    (eps,) = [sam_perturbation(g, 0.3)]
    _close(_gap(eps, [0.3 * a / flat.norm() for a in g]), 0, "SAM p=2: ε = ρ g / ‖g‖")
    for p in (1.05, 1.5, 2.0, 3.0, 50.0, math.inf):
        e = sam_perturbation(g, 0.3, p)
        q = 1.0 if math.isinf(p) else p / (p - 1)
        _close(p_norm(e, p), 0.3, f"SAM p={p}: ‖ε‖_p = ρ")
        _close(dot(g, e), 0.3 * p_norm(g, q), f"SAM p={p}: g·ε = ρ ‖g‖_q, the maximum")
    assert all(norm(sam_perturbation(zeros(g), 0.3, p)) == 0 for p in (1.5, 2.0, math.inf))
    move([net], [eps])
    (g,) = backward([net], ce(net(x), label))
    want = torch.cat([(a - 0.1 * b).reshape(-1) for a, b in zip(theta, g, strict=True)])
    _close(_run([[[(x, target)]]], m=1, method="SAM", rho=0.3)[0], want, "SAM, one step")

    # DASH with gamma: m = 3, kl_div from torch, members moved in place.
    o = Options(rho_loss=0.2, rho_div=0.4, gamma=0.3)
    nets = [_net(10 + i) for i in range(3)]
    start = [[p.detach().clone() for p in net.parameters()] for net in nets]
    z = [net(x).detach() for net in nets]
    keep = target == 0
    final = [zeros(v) for v in start]
    for i in range(3):
        (g,) = backward([nets[i]], ce(nets[i](x), label))
        q = (sum(z[j] for j in range(3) if j != i) / 2)[keep].reshape(6, 4).log_softmax(1)
        p = nets[i](x)[keep].reshape(6, 4).log_softmax(1)
        (d,) = backward([nets[i]], nn.functional.kl_div(q, p, log_target=True, reduction="batchmean"))
        e = add(scale(0.2 / norm(g), g), scale(0.4 / norm(d), d))
        move([nets[i]], [e])
        (g,) = backward([nets[i]], ce(nets[i](x), label))
        final[i] = scale(0.7, g)
        move([nets[i]], [scale(-1, e)])

    def nll() -> Tensor:
        return -torch.log((sum(net(x).softmax(1) for net in nets) / 3)[range(6), label]).mean()

    g = backward(nets, nll())
    length = math.sqrt(sum(norm(v) ** 2 for v in g))
    move(nets, [scale(0.2 * math.sqrt(3) / length, v) for v in g])
    final = [add(a, scale(0.3, b)) for a, b in zip(final, backward(nets, nll()), strict=True)]
    want = torch.cat(
        [(a - 0.1 * b).reshape(-1) for s, f in zip(start, final, strict=True) for a, b in zip(s, f, strict=True)]
    )
    _close(_run([[[(x, target)]]], rho_loss=o.rho_loss, rho_div=o.rho_div, gamma=o.gamma)[0], want, "DASH with gamma")

    # The joint ascent, and diversity in the descent, the same way.
    def loss_and_div(net: nn.Module, others: list[Tensor], factor: float) -> Tensor:
        q = (sum(others) / len(others))[keep].reshape(6, 4).log_softmax(1)
        p = net(x)[keep].reshape(6, 4).log_softmax(1)
        return ce(net(x), label) + factor * (p.exp() * (p - q)).sum(1).mean()

    nets = [_net(10 + i) for i in range(3)]
    final = []
    for i in range(3):
        (g,) = backward([nets[i]], loss_and_div(nets[i], [z[j] for j in range(3) if j != i], 0.5))
        move([nets[i]], [scale(0.2 / norm(g), g)])
        (after,) = backward([nets[i]], ce(nets[i](x), label))
        final.append([a - 0.1 * b for a, b in zip(start[i], after, strict=True)])
    want = torch.cat([a.reshape(-1) for v in final for a in v])
    _close(_run([[[(x, target)]]], rho_loss=0.2, lam=0.5, ascent="joint")[0], want, "DASH, joint ascent")
    nets = [_net(10 + i) for i in range(3)]
    for net in nets:
        (g,) = backward([net], ce(net(x), label))
        move([net], [scale(0.2 / norm(g), g)])
    z = [net(x).detach() for net in nets]
    final = []
    for i in range(3):
        (after,) = backward([nets[i]], loss_and_div(nets[i], [z[j] for j in range(3) if j != i], -0.5))
        final.append([a - 0.1 * b for a, b in zip(start[i], after, strict=True)])
    want = torch.cat([a.reshape(-1) for v in final for a in v])
    _close(_run([[[(x, target)]]], rho_loss=0.2, lam=0.5, diversity_in="descent")[0], want, "DASH, in the descent")

    # The optimiser against torch's own.
    for clip in (0.0, 0.05):
        net = _net(10)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        steps = [_data(s, 6) for s in range(4)]
        for a, t in steps:
            optimizer.zero_grad()
            ce(net(a), t, label_smoothing=0.1).backward()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
        settings = {"momentum": 0.9, "weight_decay": 0.01, "clip": clip, "smoothing": 0.1}
        got, _ = _run([[[b]] for b in steps], m=1, method="SGD", **settings)
        _close(got, _flat(net), f"momentum, weight decay, smoothing, clip={clip} as torch")


VARIANTS: list[dict] = [
    {"method": "SGD"},
    {"method": "SAM", "rho": 0.2},
    {"method": "SAM", "rho": 0.2, "p": 1.5},
    {"method": "SAM", "rho": 0.01, "p": math.inf},
    {},
    {"peers": "mean_probs", "temperature": 2.0},
    {"classes": "all", "warmup_steps": 5},
    {"ascent": "joint", "lam": 0.5},
    {"diversity_in": "descent", "lam": 0.1},
    {"diversity_in": "none"},
    {"direction": "random", "random_direction": _random},
    {"gamma": 0.4, "smoothing": 0.1},
    {"diversity_in": "descent", "gamma": 0.4},
]


def _check_batches() -> None:
    common = {"rho_loss": 0.2, "rho_div": 0.2, "momentum": 0.9, "weight_decay": 0.01, "clip": 0.5}
    large = [_data(100 + s, 8, mixed=s == 1) for s in range(3)]

    def cut(batch: Batch, k: int) -> list[Batch]:
        return list(zip(batch[0].chunk(k), batch[1].chunk(k), strict=True))

    one = [[[b]] for b in large]
    two_replicas = [[[half] for half in cut(b, 2)] for b in large]
    two_micros = [[cut(b, 2)] for b in large]
    both = [[cut(half, 2) for half in cut(b, 2)] for b in large]
    ends = {}
    for variant in VARIANTS:
        settings = {**common, **variant}
        name = ", ".join(f"{k}={v}" for k, v in variant.items() if k != "random_direction") or "DASH"
        want, records = _run(one, **settings)
        for what, batches in (("2 replicas", two_replicas), ("2 micro-batches", two_micros), ("2 x 2", both)):
            got, others = _run(batches, **settings)
            _close(got, want, f"{what} = one large batch: {name}", 1e-10)
            pairs = [zip(*rows, strict=True) for rows in zip(records, others, strict=True)]
            for a, b in (pair for row in pairs for pair in row):
                assert all(math.isclose(a[k], b[k], rel_tol=1e-8, abs_tol=1e-10) for k in a), (a, b)
        ends[name] = want
        if variant.get("method", "DASH") == "DASH":
            got, _ = _run(one, m=1, **settings)
            smooth_sam = {k: settings[k] for k in ("smoothing", "warmup_steps") if k in settings}
            sam, _ = _run(one, m=1, **{**common, **smooth_sam}, method="SAM", rho=0.2)
            _close(got, sam, f"m = 1 is SAM: {name}", 0)
        local, _ = _run(two_replicas, ascent_sync="local", **settings)
        changes = float((local - want).abs().max())
        assert changes < 1e-10 if settings.get("method") == "SGD" else changes > 1e-6, (name, changes)
        local, _ = _run(one, ascent_sync="local", **settings)
        _close(local, want, f"local with one replica is mean: {name}", 0)
        # One plain step is linear in the descent gradient, so local = the average of each replica's step on its own.
        plain = {"rho_loss": 0.2, "rho_div": 0.2, **variant}
        local, _ = _run(two_replicas[:1], ascent_sync="local", **plain)
        alone = [_run([[replica]], **plain)[0] for replica in two_replicas[0]]
        _close(local, sum(alone) / 2, f"local = each replica's own step, averaged: {name}")
    names = list(ends)
    for k, a in enumerate(names):
        for b in names[:k]:
            same = {a, b} == {"diversity_in=none", "method=SAM, rho=0.2"}
            assert same or float((ends[a] - ends[b]).abs().max()) > 1e-7, f"{a} and {b} end equal"
    none, _ = _run(one, **common, diversity_in="none")
    sam, _ = _run(one, **common, method="SAM", rho=0.2)
    _close(none, sam, "diversity_in=none is SAM", 0)
    _close(_run(one, **{**common, "rho_div": 0.0})[0], sam, "rho_div=0 is SAM", 0)


def _check_corners() -> None:
    # Members that start equal stay equal and do what SAM does.
    equal = [_net(10) for _ in range(4)]
    train(equal, [[[_data(s, 6)]] for s in range(3)], Options(rho_loss=0.2))
    sam = _net(10)
    train([sam], [[[_data(s, 6)]] for s in range(3)], Options(method="SAM", rho=0.2))
    _close(_flat(equal[3]), _flat(sam), "equal members: unit(0) = 0, DASH is SAM")
    # Running statistics move by the unperturbed pass of each replica, once per micro-batch, then average.
    batches = [_data(s, 6) for s in range(4)]
    members = [_net(10 + i, bn=True) for i in range(2)]
    train(members, [[batches[:2], batches[2:]]], Options(rho_loss=0.2, gamma=0.3))
    for i in range(2):
        seen = []
        for part in (batches[:2], batches[2:]):
            net = _net(10 + i, bn=True)
            for x, _ in part:
                net(x)
            seen.append(net[1])
        for name in ("running_mean", "running_var"):
            want = (getattr(seen[0], name) + getattr(seen[1], name)) / 2
            _close(getattr(members[i][1], name), want, f"batch norm {name}, member {i}")
        assert int(members[i][1].num_batches_tracked) == 2
    # Two classes.
    x = torch.randn(4, 4, dtype=torch.float64)
    two = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]]
    for settings in ({}, {"diversity_in": "descent"}):
        pair = [nn.Linear(4, 2).double() for _ in range(2)]
        with pytest.raises(ValueError, match="classes='all'"):
            train(pair, [[[(x, two)]]], Options(**settings))
        train(pair, [[[(x, two)]]], Options(classes="all", **settings))
    assert math.isnan(train(pair, [[[(x, two)]]], Options(method="SAM"))[0][0]["div"])
    print("ok            two classes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    _check_losses()
    _check_rules()
    _check_batches()
    _check_corners()
