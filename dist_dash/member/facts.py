"""What is known of a run before its first update: what methods, trajectories and sparsity check themselves against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunFacts:
    """A run that is about to start.

    Args:
        members: members that are trained together, hence exchange.
        replicas: ranks per member.
        classes: of the data, over all heads.
        heads: classes of each head.
        mixed: whether mixup gives samples two true classes.
        precision: of the engine: fp32, fp64, bf16, fp16.
        zero: ZeRO stage of the engine; 0 where it shards nothing.
        order: whether members see the same samples in the same order (`shared`) or each its `own`.
        total_steps: updates of the run.
        steps_per_epoch: updates per pass over the training split.
        alike: whether all members have one architecture.
        compiled: whether networks are compiled: a gradient of a gradient cannot be had of them.
    """

    members: int
    replicas: int
    classes: int
    heads: tuple[int, ...]
    mixed: bool
    precision: str
    zero: int
    order: Literal["shared", "own"]
    total_steps: int
    steps_per_epoch: int
    alike: bool = True
    compiled: bool = False

    @property
    def unit_roundoff(self) -> float:
        """Relative error of one rounding in the kernels: differences of gradients that are smaller are noise."""
        return {"fp64": 2.0**-53, "fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}[self.precision]
