"""DeepSpeed as the engine of one independent member per data-parallel group."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_dash.errors import BadInput, RunFailed, require
from dist_dash.member.engine import LOW, Engine, MakeOptimizer, Precision, ReduceIn, linear_loss
from dist_dash.member.loss_scale import LossScale, LossScaling
from dist_dash.ranks.exchange import Exchange

BUCKET = 200_000_000  # elements


class DeepSpeed(Engine):
    """DeepSpeed with ZeRO 0, 1 or 2 over the replicas of each member.

    bf16 and fp16 are its `torch_autocast` over fp32 masters. Its own modes for them lose the fp32 initial values at
    ZeRO 0 (bf16) or do not run on a CPU (fp16). The loss scaling of its `torch_autocast` never lowers the scale at
    ZeRO 1 and 2, clips the scaled gradient there, and is in no checkpoint: the scale is this project's, handed to
    DeepSpeed where it asks for one (docs/precision.md).

    Args:
        precision: fp32, or bf16 or fp16 (autocast over fp32 masters). fp8 is refused: its scales live in the layers,
            where an ascent would change them.
        clip: largest global norm of the descent gradient; 0 does not clip.
        zero: ZeRO stage. 1 shards the optimizer state over a member's replicas, 2 the gradients too. 3 is refused: it
            shards the parameters that the ascent must move.
        bucket_mb: megabytes of gradient that replicas average together; at ZeRO 0 while the backward computes the next.
        reduce_in: type in which the descent gradient is averaged over replicas: that of the `master` weights, or that
            in which kernels `compute`, for half the traffic.
        scaling: how the loss scale of fp16 is found; of no effect otherwise.
        offload: `optimizer` keeps its state, and updates, in host memory; with ZeRO 1 alone, because with ZeRO 2
            DeepSpeed 0.19.8 gives wrong gradients as soon as there are several buckets.
    """

    def __init__(
        self,
        precision: Precision = "fp32",
        clip: float = 0.0,
        zero: Literal[0, 1, 2, 3] = 0,
        bucket_mb: float = 25.0,
        reduce_in: ReduceIn = "master",
        scaling: LossScaling = LossScaling(),  # noqa: B008  # it is frozen
        offload: Literal["none", "optimizer"] = "none",
    ) -> None:
        super().__init__(precision, clip, bucket_mb, reduce_in, scaling)
        if precision == "fp64":
            raise BadInput("engine.precision: fp64 is not supported by DeepSpeed; use engine Torch for it")
        if zero == 3:
            raise BadInput("engine.zero: 3 shards the parameters that the ascent must move; it must be 0, 1 or 2")
        require(zero in (0, 1, 2), "engine.zero", zero, "0, 1 or 2")
        require(offload in ("none", "optimizer"), "engine.offload", offload, "none or optimizer")
        allowed = "none unless engine.zero is 1 (0 shards no optimizer; with 2, DeepSpeed 0.19.8 mixes up its buckets)"
        require(offload == "none" or zero == 1, "engine.offload", offload, allowed)
        self.zero, self.offload = zero, offload

    def attach(self, module: nn.Module, make_optimizer: MakeOptimizer, exchange: Exchange) -> None:
        """Build the DeepSpeed engine on this member's replicas alone.

        Raises:
            RunFailed: DeepSpeed would average over another group than this member's replicas.
        """
        super().attach(module, make_optimizer, exchange)
        self.decides_on_device = self.decides_on_device and not self.zero  # ZeRO decides itself, on the host
        deepspeed = _import_deepspeed(exchange.layout.device)
        layout = exchange.layout
        os.environ.setdefault("LOCAL_RANK", str(layout.local_rank))  # DeepSpeed insists on it
        # Left alone, DeepSpeed takes the local rank for the device, of which there may be fewer.
        device = SimpleNamespace(device_rank=layout.device.index) if layout.device.type == "cuda" else None
        ranks = layout.member_ranks(layout.member)
        size = sum(p.numel() for p in self.parameters)
        mixed, offload = self._mixed_precision(), {}
        if self.offload == "optimizer":
            offload = {"offload_optimizer": {"device": "cpu", "pin_memory": layout.device.type == "cuda"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._engine, *_ = deepspeed.initialize(
                args=device,
                model=self.module,
                optimizer=self.optimizer,
                mpu=OneMember(exchange.replica_group, ranks, layout.rank),
                dist_init_required=False,
                config={
                    "train_micro_batch_size_per_gpu": 1,  # bookkeeping only: the loader owns the batch
                    "managed_gradient_accumulation": False,  # step() is the boundary after any number of backwards
                    "gradient_clipping": self.clip,
                    "steps_per_print": 2**62,
                    "timers": {"throughput": {"enabled": False}},  # it waits for the device three times an update
                    **mixed,
                    "zero_allow_untested_optimizer": True,
                    "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own is compiled, and rounds otherwise
                    "zero_optimization": {
                        "stage": self.zero,
                        **offload,
                        "overlap_comm": False,
                        # ZeRO allocates its bucket anew at every step: the default of 2 GB takes seconds on a CPU.
                        "reduce_bucket_size": min(int(250_000 * self.bucket_mb), size),
                        "allgather_bucket_size": min(BUCKET, size + size % 2),  # an odd one is refused
                    },
                },
            )
        group = dist.get_process_group_ranks(self._engine.data_parallel_group)
        if group != ranks:
            raise RunFailed(f"DeepSpeed averages over ranks {group}, not over this member's replicas {ranks}")
        self.module = self._engine.module
        self._engine.enable_backward_allreduce = not self.averages
        if self.loss_scale is not None and self.zero:
            self._engine.optimizer.torch_autocast_gradscaler = None
            self._engine.optimizer.override_loss_scale(self.loss_scale.value)
        elif self.loss_scale is not None:
            self._engine.torch_autocast_z0_gradscaler = Scaler(self.loss_scale)

    def _mixed_precision(self) -> dict[str, Any]:
        """What DeepSpeed's configuration says of types."""
        from deepspeed.runtime import torch_autocast

        torch_autocast.TORCH_AUTOCAST_INITIALIZED = False  # by an earlier engine of this process
        low = LOW.get(self.precision)
        if low is None:
            return {}
        if self.reduce_in == "compute":
            for parameter in self.parameters:  # the configuration can name classes of modules only
                setattr(parameter, torch_autocast.PARAM_COMM_DTYPE_ATTR_NAME, low)
        name = str(low).removeprefix("torch.")
        return {"torch_autocast": {"enabled": True, "dtype": name, "lower_precision_safe_modules": []}}

    def _autocast(self) -> AbstractContextManager[Any]:
        from deepspeed.runtime.torch_autocast import autocast_if_enabled

        context: AbstractContextManager[Any] = autocast_if_enabled(self._engine)
        return context

    @property
    def averages(self) -> bool:
        # At ZeRO 0 DeepSpeed would do it in `step`, when nothing is left to hide it behind.
        return self.zero == 0

    def backward(self, loss: Tensor) -> None:
        if self.zero and self.exchange.layout.replicas > 1:
            # ZeRO fills its buckets as the backward comes by: with another size or order where a replica's samples use
            # other parameters. Through the linear loss it comes by all of them, in one order.
            scale = 1.0 if self.loss_scale is None else self.loss_scale.value
            found = torch.autograd.grad(scale * loss, self.parameters, allow_unused=True, materialize_grads=True)
            loss = linear_loss(self.parameters, found if scale == 1 else torch._foreach_mul(found, 1 / scale))
        self._engine.backward(loss, scale_wrt_gas=False)  # ZeRO 2 averages it at once, the others in `step`

    def step(self) -> None:
        super().step()
        if self.loss_scale is not None and self.zero:
            self._engine.optimizer.override_loss_scale(self.loss_scale.value)

    def _step(self) -> None:
        self.skipped = False
        if self.loss_scale is not None and self.zero and self.loss_scale.ascent_overflowed:
            # On all replicas: ZeRO finds a gradient that is not finite, and skips.
            nothing = torch.stack([p.sum() for p in self.parameters]).sum()
            self._engine.backward(torch.nan * nothing, scale_wrt_gas=False)
        if self.averages:
            for p in self.parameters:  # one that no sample has used decays all the same
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self._engine.step()
        if self.zero:  # it checks the norm of the whole gradient before any shard's optimizer runs
            self.skipped = self.skipped or bool(self._engine.optimizer.overflow)

    def state(self) -> dict[str, Any]:
        """Weights of the first replica; the optimizer's state of each replica where ZeRO shards it."""
        module = {} if self.exchange.layout.replica else self.module.state_dict()
        if self.zero:
            # Its objects (loss scaler, slice addresses) are made anew; a checkpoint holds tensors and numbers only.
            shard = self._engine.optimizer.state_dict()
            kept = {k: v for k, v in shard.items() if k not in ("loss_scaler", "param_slice_mappings")}
            optimizer = {**kept, "zero_stage": int(kept["zero_stage"])}
        else:
            optimizer = {} if self.exchange.layout.replica else self.optimizer.state_dict()
        return {"module": module, "optimizer": optimizer, **self._state_of_scale()}

    def load_state(self, states: list[dict[str, Any]]) -> None:
        self.module.load_state_dict(states[0]["module"])
        if self.zero:
            shards = [state["optimizer"] for state in states]
            self._engine.optimizer.load_state_dict(shards, load_optimizer_states=True, load_from_fp32_weights=True)
        else:
            self.optimizer.load_state_dict(states[0]["optimizer"])
        self._load_scale(states)
        if self.loss_scale is not None and self.zero:
            self._engine.optimizer.override_loss_scale(self.loss_scale.value)


class Scaler:
    """What DeepSpeed asks of its loss scaler at ZeRO 0: unscale before clipping, then step.

    Args:
        scale: the member's.
    """

    def __init__(self, scale: LossScale) -> None:
        self._scale, self._unscaled = scale, False

    def scale(self, loss: Tensor) -> Tensor:
        return self._scale.value * loss

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._scale.unscale_(gradients)
        self._unscaled = True

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._unscaled:  # DeepSpeed does so for clipping only
            self.unscale_(optimizer)
        self._unscaled = False
        optimizer.step()

    def update(self) -> None:
        """The engine does, once it knows whether the update was skipped."""


class OneMember:
    """The `mpu` that confines DeepSpeed to one member: without it, it averages all members into one network.

    The data-parallel group is the member's replicas; no parameter is split, so the model-parallel group is this rank.
    """

    def __init__(self, group: dist.ProcessGroup, ranks: Sequence[int], rank: int) -> None:
        self._group, self._ranks, self._rank = group, list(ranks), rank
        self._alone = [dist.new_group([r]) for r in range(dist.get_world_size())][rank]

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._group

    def get_data_parallel_group_ranks(self) -> list[int]:
        return self._ranks

    def get_data_parallel_world_size(self) -> int:
        return len(self._ranks)

    def get_data_parallel_rank(self) -> int:
        return self._ranks.index(self._rank)

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self._alone

    def get_model_parallel_world_size(self) -> int:
        return 1

    def get_model_parallel_rank(self) -> int:
        return 0

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_rank = get_model_parallel_rank

    def get_tensor_model_parallel_src_rank(self) -> int:
        return self._rank


def _import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed without its banner, and on the CPU without compiling an extension that gloo does not need."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
        import deepspeed.ops
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__ = {}
    return deepspeed
