"""A small ensemble problem for real ranks and for the oracle: networks, batches, and the loop over steps."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dist_dash.member.batch import Batch, MicroBatch, Progress, micro_batch
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import Engine, Torch
from dist_dash.member.member import Member
from dist_dash.methods import Method
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.sparsity import Dense, Sparsity
from dist_dash.trajectories.schedules import Constant
from dist_dash.trajectories.trajectory import Trajectory

CLASSES, FEATURES, MICRO = 4, 6, 8
Batches = list[list[list[tuple[Tensor, Tensor]]]]


def network(member: int, batch_norm: bool, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(100 + member)
    middle = [nn.BatchNorm1d(10)] if batch_norm else []
    return nn.Sequential(nn.Linear(FEATURES, 10), *middle, nn.Tanh(), nn.Linear(10, CLASSES)).to(dtype)


def batches(steps: int, replicas: int, accumulation: int, dtype: torch.dtype, mixed: bool = False) -> Batches:
    """`[step][replica][micro]` of inputs and class probabilities."""
    draw = torch.Generator().manual_seed(7)

    def one() -> tuple[Tensor, Tensor]:
        x = torch.randn(MICRO, FEATURES, generator=draw, dtype=torch.float64)
        y = torch.randint(CLASSES, (MICRO,), generator=draw)
        target = nn.functional.one_hot(y, CLASSES).double()
        if mixed:
            target = 0.7 * target + 0.3 * target.roll(1, 0)
        return x.to(dtype), target.to(dtype)

    return [[[one() for _ in range(accumulation)] for _ in range(replicas)] for _ in range(steps)]


BUCKET_MB = 4e-4
"""So small that the networks here need several buckets, some of them with several parameters."""


def engine_named(name: str, clip: float, dtype: torch.dtype, bucket_mb: float = BUCKET_MB, **settings: Any) -> Engine:
    """`torch`, `zero0`, `zero1`, `zero2`, each also with `-bf16` or `-fp16`; `offload1`, too."""
    name, _, low = name.partition("-")
    settings["bucket_mb"] = bucket_mb
    if name.startswith("offload"):
        settings, name = {**settings, "offload": "optimizer"}, name.replace("offload", "zero")
    if name == "torch":
        return Torch(low or ("fp64" if dtype == torch.float64 else "fp32"), clip, **settings)  # type: ignore[arg-type]
    return DeepSpeed(low or "fp32", clip, zero=int(name.removeprefix("zero")), **settings)  # type: ignore[arg-type]


def run_member(
    method: Method,
    members: int,
    all_batches: Batches,
    *,
    engine: str = "torch",
    precision: dict[str, Any] | None = None,
    batch_norm: bool = False,
    clip: float = 0.0,
    smoothing: float = 0.0,
    optimizer: dict[str, float] | None = None,
    mode: str = "gather",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    build: Callable[[int, torch.dtype], nn.Module] | None = None,
    heads: tuple[int, ...] | None = None,
    trajectory: Trajectory | None = None,
    sparsity: Sparsity | None = None,
    part: tuple[int, int] | None = None,
    states: list[bytes] | None = None,
    train: tuple[Tensor, Tensor, Tensor] | None = None,
    ids: list[list[list[Tensor]]] | None = None,
    joined: Exchange | None = None,
    kept_at: tuple[int, ...] = (),
    bucket_mb: float = BUCKET_MB,
) -> dict[str, Any]:
    """Train this rank's member on its replica's share; returns its weights, buffers and what was measured.

    `build` makes the network of a member in place of `network`; a `trajectory` scales the rate and says which weights
    are kept as `saves`. `part`: only the steps from one to before the other; `states`: what all ranks ended the steps
    before it with. `train`: inputs, targets and ids of a training split, which the method sees before every epoch;
    `ids` `[step][replica][micro]`: which of its samples the batches hold. `joined`: an exchange that is open already.
    `kept_at`: after how many steps the state is kept, beside the one at the end.
    """
    layout = layout_from_environment(members)
    settings = optimizer or {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    opened = Exchange(layout, mode, deadline=300)  # type: ignore[arg-type]
    with opened if joined is None else contextlib.nullcontext(joined) as exchange:
        owner = engine_named(engine, clip, dtype, bucket_mb, **(precision or {}))
        net = build(layout.member, dtype) if build else network(layout.member, batch_norm, dtype)
        owner.attach(net, lambda p: torch.optim.SGD(p, **settings), exchange)
        member = Member(owner, layout.member, len(all_batches[0][0]), seed)
        (sparsity or Dense()).start(member)
        measured, saves, kept, scales, total = [], [], {}, list[tuple[bool, float]](), len(all_batches)
        trajectory, epoch = trajectory or Constant(), max(1, total // 2)
        first, last = part or (0, total)
        if states:
            own = [torch.load(io.BytesIO(states[rank])) for rank in layout.member_ranks(layout.member)]
            owner.load_state([state["engine"] for state in own])
            member.after_resume(own[layout.replica]["skipped"], own[layout.replica]["masks"])
            method.load_state_dict(own[layout.replica]["method"])

        def samples(split: str) -> Iterator[MicroBatch]:
            assert train is not None
            assert split == "train"
            for one in range(layout.replica, len(train[0]), layout.replicas):
                x, target, numbers = (part[one : one + 1] for part in train)
                yield micro_batch(x, target, numbers, None, 0.0, layout.device, dtype)

        for step, replicas in list(enumerate(all_batches))[first:last]:
            if train is not None and step % epoch == 0:
                method.before_epoch(step // epoch, member, samples, exchange)
            own_ids = ids[step][layout.replica] if ids else [torch.arange(len(x)) for x, _ in replicas[layout.replica]]
            micro = [
                micro_batch(x, target, numbers, None, smoothing, layout.device, dtype, heads)
                for (x, target), numbers in zip(replicas[layout.replica], own_ids, strict=True)
            ]
            rate = trajectory.factor(step, epoch, total)
            owner.scale_learning_rate(rate)
            progress = Progress(step, total, epoch, rate, trajectory.rate_range(epoch, total))
            found = method.update(member, Batch(micro, progress), exchange)
            measured.append({name: float(value) for name, value in found.items()})
            if owner.loss_scale is not None:
                scales.append((owner.skipped, owner.loss_scale.value))
            if step + 1 in trajectory.members(epoch, total):
                saves.append(state_of(owner.module))
            if step + 1 in kept_at:
                kept[step + 1] = dumped(owner, method, member)
        weights = state_of(owner.module)
        state = dumped(owner, method, member)
    found = {"weights": weights, "measured": measured, "saves": saves, "scales": scales, "state": state, "kept": kept}
    return {"member": layout.member, "replica": layout.replica, **found}


def dumped(engine: Engine, method: Method, member: Member) -> bytes:
    """What a rank keeps to go on, as bytes: tensors themselves would be shared with a process that has ended."""
    own = {"skipped": member.skipped_in_a_row, "masks": member.masks}
    file = io.BytesIO()
    torch.save({"engine": engine.state(), "method": method.state_dict(), **own}, file)
    return file.getvalue()


def state_of(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.detach().clone().cpu().numpy() for name, tensor in module.state_dict().items()}


def random_direction(seed: int, step: int, member: int, like: list[Tensor]) -> list[Tensor]:
    """The control's direction, as the member itself draws it."""
    from dist_dash.seeds import derived_seed

    generator = torch.Generator().manual_seed(derived_seed("direction", seed, member, step))
    return [torch.empty_like(p).normal_(generator=generator) for p in like]
