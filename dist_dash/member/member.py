"""What a method may do with a member: forward, gradient, perturbed, backward or descend, step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dist_dash.member.engine import Engine
from dist_dash.member.sketch import Sketch
from dist_dash.member.vector import ParameterVector
from dist_dash.seeds import derived_seed


class Member:
    """One network of the ensemble on this rank.

    Under gradient accumulation every micro-batch's loss counts with the share `1 / accumulation`, so that sums over
    micro-batches of what `gradient` and `backward` give are those of one large batch.

    Args:
        engine: attached to this member's network.
        index: the member's number.
        accumulation: micro-batches per update.
        seed: where the member's own random directions come from.
    """

    def __init__(self, engine: Engine, index: int, accumulation: int, seed: int = 0) -> None:
        self.engine, self.index, self.accumulation, self.seed = engine, index, accumulation, seed
        self.skipped_in_a_row = 0
        self.sketch: Sketch | None = None
        """Sees the next update's perturbation, where one is set."""
        self._before_step = self._buffers_copied()
        self._spare: list[Tensor] | None = None

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The trainable parameters, in the order of every `ParameterVector`."""
        return self.engine.parameters

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, C]` of samples `x` `[n, …]`; moves batch-norm statistics unless perturbed."""
        return self.engine.forward(x)

    def gradient(self, loss: Tensor, retain_graph: bool = False) -> ParameterVector:
        """∇loss / accumulation at the present weights, of this rank's samples alone; `.grad` is left untouched."""
        share, parameters = loss / self.accumulation, self.parameters
        found = torch.autograd.grad(
            share, parameters, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
        )
        return ParameterVector(_in_own_memory(found))

    def mean_over_replicas(self, vector: ParameterVector) -> ParameterVector:
        """The vector averaged over this member's replicas: with it, r replicas ascend like one large batch."""
        if not vector.tensors:
            return vector
        mean = ParameterVector(vector.materialised())
        self.engine.exchange.mean_over_replicas_(mean.tensors)
        return mean

    def random_direction(self, step: int) -> ParameterVector:
        """A fresh standard normal vector, a function of (seed, member, step): equal on the member's replicas."""
        device = self.parameters[0].device
        generator = torch.Generator(device).manual_seed(derived_seed("direction", self.seed, self.index, step))
        return ParameterVector([torch.empty_like(p).normal_(generator=generator) for p in self.parameters])

    @contextmanager
    def perturbed(self, epsilon: ParameterVector) -> Iterator[None]:
        """Weights at θ + ε inside; afterwards, also after an exception, θ to the bit.

        Batch-norm statistics (all buffers) are restored too: they move in the unperturbed forward only.
        """
        if self.sketch is not None:
            self.sketch.see(epsilon)
        weights = [p.data for p in self.parameters]
        # Kept for the next step: on a CPU fresh memory costs five times the copy itself.
        saved, self._spare = self._spare or [torch.empty_like(w) for w in weights], None
        torch._foreach_copy_(saved, weights)
        buffers = self._buffers_copied()
        try:
            epsilon.add_to(weights)
            del epsilon  # one copy of the weights and one gradient is all that SAM may cost
            yield
        finally:
            torch._foreach_copy_(weights, saved)
            self._restore_buffers(buffers)
            self._spare = saved

    def backward(self, loss: Tensor) -> None:
        """Add ∇loss / accumulation at the present (perturbed) weights to the descent gradient."""
        self.engine.backward(loss / self.accumulation)

    def descend(self, vector: ParameterVector) -> None:
        """Add `vector` itself to the descent gradient: for rules that combine gradients before they descend.

        It is the gradient of the linear loss `⟨θ, vector⟩`, which every engine can take, sharded or not.
        """
        products = [(p * v).sum() for p, v in zip(self.parameters, vector.materialised(), strict=True)]
        self.engine.backward(torch.stack(products).sum())

    def step(self) -> None:
        """Update the weights by the descent gradient; a non-finite one moves nothing and is counted."""
        self.engine.step()
        if self.engine.skipped:
            self.skipped_in_a_row += 1
            self._restore_buffers(self._before_step)
        else:
            self.skipped_in_a_row = 0
            self._average_buffers()
            self._before_step = self._buffers_copied()

    def after_resume(self, skipped_in_a_row: int) -> None:
        """Go on from the state that the engine has just loaded."""
        self.skipped_in_a_row, self._before_step = skipped_in_a_row, self._buffers_copied()

    def _buffers_copied(self) -> list[Tensor]:
        return [b.clone() for b in self.engine.module.buffers()]

    def _restore_buffers(self, saved: list[Tensor]) -> None:
        if saved:
            torch._foreach_copy_(list(self.engine.module.buffers()), saved)

    def _average_buffers(self) -> None:
        # Replicas see different samples; averaged every step, their running statistics stay equal to the bit. Other
        # buffers are left alone: the mean of equal numbers may be off by a rounding.
        modules = [m for m in self.engine.module.modules() if getattr(m, "track_running_stats", False)]
        statistics = [b for m in modules for b in m.buffers(recurse=False) if b.is_floating_point()]
        self.engine.exchange.mean_over_replicas_(statistics)


def _in_own_memory(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The gradients, fit to be added to in place: autograd gives two parameters that are added one tensor, and a
    broadcast parameter an expanded view."""
    seen: set[int] = set()
    own = []
    for gradient in gradients:
        place = gradient.untyped_storage().data_ptr()
        expanded = 0 in gradient.stride() and gradient.numel() > 1
        own.append(gradient.clone() if expanded or place in seen else gradient)
        seen.add(place)
    return own
