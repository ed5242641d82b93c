"""What a method may do with a member: forward, gradient, perturbed, backward or descend, step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dist_dash.errors import require
from dist_dash.member.averaging import mean_gradient
from dist_dash.member.buffers import Buffers
from dist_dash.member.engine import Engine, linear_loss
from dist_dash.member.late import Late, Not, SkipCount, Truth
from dist_dash.member.parameters import Kind, kinds_of, moved_by_ascent, names_of, parts_of
from dist_dash.member.passes import PassCount, Passes
from dist_dash.member.sketch import Sketch
from dist_dash.member.vector import ParameterVector, own_memory
from dist_dash.seeds import derived_seed


class Member:
    """One network of the ensemble on this rank.

    Under gradient accumulation every micro-batch's loss counts with the share `1 / accumulation`, so that sums over
    micro-batches of what `gradient` and `backward` give are those of one large batch.

    Batch-norm statistics (and whatever else lives in buffers) move in the first unperturbed forward of each
    micro-batch and nowhere else, whatever a method does.

    Args:
        engine: attached to this member's network.
        index: the member's number.
        accumulation: micro-batches per update.
        seed: where the member's own random directions come from.
        heads: for each trainable parameter the head that it belongs to, None where all heads share it; none given: all
            parameters are shared.
        perturbed: for each trainable parameter whether ascents move it; none given: they move all.
    """

    vector: type[ParameterVector] = ParameterVector
    """What its gradients are."""

    def __init__(
        self,
        engine: Engine,
        index: int,
        accumulation: int,
        seed: int = 0,
        heads: Sequence[int | None] | None = None,
        perturbed: Sequence[bool] | None = None,
    ) -> None:
        self.engine, self.index, self.accumulation, self.seed = engine, index, accumulation, seed
        self.parts = parts_of(heads if heads is not None else [None] * len(engine.parameters))
        """Positions in `parameters` of each named part: `trunk`, `head_0`, `head_1`, …"""
        self.perturbable = [i for i in range(len(engine.parameters)) if perturbed is None or perturbed[i]]
        """Positions in `parameters` of those that a perturbation moves."""
        self._ascending = {"all": self.perturbable}
        self.masks: list[Tensor | None] | None = None
        """Which weights exist: one tensor of 0 and 1 per parameter, None for a dense one; None: all weights do."""
        self._skips, self._count = SkipCount(), PassCount(accumulation)
        self.moved: Truth = True
        """What `step` last returned."""
        self.passes = Passes(0.0, 0.0)
        """Of the last update."""
        self.sketch: Sketch | None = None
        """Sees the next update's perturbation, where one is set."""
        self.each: list[Member] = [self]
        """The members that are trained here, each with its engine and its network: this one alone."""
        self._buffers = Buffers(engine.module)
        self._spare: list[Tensor] | None = None
        self._perturbed, self._in_update = False, True  # whether a forward counts as such

    @property
    def networks(self) -> list[nn.Module]:
        """Those of the members that are trained here."""
        return [member.engine.module for member in self.each]

    @property
    def described(self) -> dict[str, Any]:
        """What `environment.json` says of how they are trained."""
        return {}

    # -- parameters ------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The trainable parameters, in the order of every `ParameterVector`."""
        return self.engine.parameters

    @cached_property
    def names(self) -> list[str]:
        """The name of each parameter."""
        return names_of(self.engine.module)

    @cached_property
    def kinds(self) -> list[Kind]:
        """What each parameter is: `matrix`, `bias`, `normalisation` or `other`."""
        return kinds_of(self.engine.module)

    # -- passes ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, C]` of samples `x` `[n, …]`, at the present weights."""
        moves = self._in_update and self.engine.module.training and self._count.meet(x, self._perturbed)
        with contextlib.nullcontext() if moves else self._buffers.held():
            logits = self.engine.forward(x)
        self._count.forward(x, logits)
        return logits

    def gradient(
        self,
        loss: Tensor,
        retain_graph: bool = False,
        *,
        of: str | None = None,
        share: float | None = None,
        masked: bool = True,
        onto: ParameterVector | None = None,
        mean: bool = False,
        create_graph: bool = False,
    ) -> ParameterVector:
        """∇loss at the present weights, of this rank's samples alone; `.grad` is left untouched.

        Args:
            loss: 0-dimensional.
            retain_graph: whether the graph is needed again.
            of: one of `parts`: the gradient with respect to these parameters, 0 for the others; None: all of them.
            share: what the loss counts; by default `1 / accumulation`. 1 for a loss over all micro-batches.
            masked: whether weights that do not exist (see `masks`) get the gradient 0.
            onto: the gradient of the micro-batches before, which is used up: the sum is returned.
            mean: average the sum over this member's replicas while it is computed; all replicas must ask alike. What is
                returned waits for the rest of it when it is first read.
            create_graph: whether the gradient itself will be differentiated; not with `mean`.
        """
        positions = range(len(self.parameters)) if of is None else self.parts[of]
        return self._gradient(loss, positions, retain_graph, share, masked, onto, mean, create_graph)

    def ascent_gradient(
        self,
        loss: Tensor,
        retain_graph: bool = False,
        perturb: str = "all",
        *,
        onto: ParameterVector | None = None,
        mean: bool = False,
    ) -> ParameterVector:
        """`gradient`, but 0 for parameters that the ascent does not move: what a perturbation is made of.

        Args:
            loss: 0-dimensional.
            retain_graph: whether the graph is needed again.
            perturb: which parameters the method's ascent moves, see `ascending`.
            onto: as in `gradient`.
            mean: as in `gradient`.
        """
        return self._gradient(loss, self.ascending(perturb), retain_graph, None, True, onto, mean)

    def ascending(self, perturb: str) -> list[int]:
        """Positions of the parameters that an ascent moves: those of `perturb` that no parameter group leaves out.

        Args:
            perturb: `all`, `norms`, `no_norms` or a pattern of names: `parameters.moved_by_ascent`.

        Raises:
            BadInput: there is none.
        """
        if perturb not in self._ascending:
            asked = moved_by_ascent(perturb, self.names, self.kinds)
            allowed = "a choice of which parameter_groups leave one"
            require(bool({*asked} & {*self.perturbable}), "method.perturb", perturb, allowed)
            self._ascending[perturb] = sorted({*asked} & {*self.perturbable})
        return self._ascending[perturb]

    def restricted(self, vector: ParameterVector, perturb: str = "all") -> ParameterVector:
        """The vector, but 0 for parameters that the ascent does not move; itself where it moves all."""
        moved = {*self.ascending(perturb)}
        if not vector.tensors or len(moved) == len(vector.tensors):
            return vector
        tensors = [t if i in moved else torch.zeros_like(t) for i, t in enumerate(vector.tensors)]
        return ParameterVector(tensors, vector.scale)

    def _gradient(
        self,
        loss: Tensor,
        positions: Sequence[int],
        retain_graph: bool,
        share: float | None,
        masked: bool,
        onto: ParameterVector | None,
        mean: bool,
        create_graph: bool = False,
    ) -> ParameterVector:
        onto = ParameterVector([]) if onto is None else onto
        parameters, loss = [self.parameters[i] for i in positions], self._counted(loss, share)
        with self._buffers.held():  # activation checkpointing runs forwards again
            # fp16's gradients are unscaled, and overflows noticed, before anything is averaged.
            overlapped = mean and self.engine.loss_scale is None
            if overlapped and self.engine.exchange.layout.replicas > 1:
                before, owner = dict(enumerate(onto.give_up())), self.engine
                own = {at: before.pop(i) for at, i in enumerate(positions) if i in before}
                wait = mean_gradient(loss, parameters, retain_graph, own, owner.bucket_mb, owner.exchange)
                vector = self.vector(lambda: self._whole(positions, wait()))
            else:
                if create_graph:
                    found = own_memory(
                        torch.autograd.grad(
                            loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
                        )
                    )
                else:
                    found = self.engine.gradient(loss, parameters, retain_graph)
                vector = self.vector(self._whole(positions, found))
        if masked and self.masks is not None:
            vector = vector.masked(self.masks)
        onto += vector
        return self.mean_over_replicas(onto) if mean and not overlapped else onto

    def _whole(self, positions: Sequence[int], tensors: list[Tensor]) -> list[Tensor]:
        """One tensor per parameter, from those at some positions; 0 elsewhere."""
        if len(positions) == len(self.parameters):
            return tensors
        part = dict(zip(positions, tensors, strict=True))
        return [part[i] if i in part else torch.zeros_like(p) for i, p in enumerate(self.parameters)]

    def backward(self, loss: Tensor, share: float | None = None, *, last: bool = False) -> None:
        """Add ∇loss at the present (perturbed) weights to the descent gradient.

        Args:
            loss: 0-dimensional.
            share: what the loss counts; by default `1 / accumulation`. 1 for a loss over all micro-batches.
            last: nothing is added to the descent gradient after it: replicas average it while it is computed. All of
                them must say so alike. Left out, `step` averages it, which is as right and takes longer.
        """
        loss = self._counted(loss, share)
        with self._buffers.held(), self.engine.averaging(loss, last):
            self.engine.backward(loss)

    def descend(self, vector: ParameterVector) -> None:
        """Add `vector` itself to the descent gradient: for rules that combine gradients before they descend.

        It is the gradient of the linear loss `⟨θ, vector⟩`, which every engine can take, sharded or not.
        """
        loss = linear_loss(self.parameters, vector.materialised())
        with self.engine.averaging(loss, last=False):
            self.engine.backward(loss)

    def _counted(self, loss: Tensor, share: float | None) -> Tensor:
        if share is None:
            return loss if self.accumulation == 1 else loss / self.accumulation
        return loss if share == 1 else share * loss

    # -- directions ------------------------------------------------------------------------------------------------

    def mean_over_replicas(self, vector: ParameterVector) -> ParameterVector:
        """The vector averaged over this member's replicas: with it, r replicas ascend like one large batch."""
        if not vector.tensors or self.engine.exchange.layout.replicas == 1:
            return vector
        mean = self.vector(vector.materialised())
        self.engine.exchange.mean_over_replicas_(mean.tensors, self.engine.bucket_mb)
        return mean

    def generator(self, purpose: str, step: int) -> torch.Generator:
        """Random numbers for one purpose, a function of (seed, member, step): equal on the member's replicas."""
        seed = derived_seed(purpose, self.seed, self.index, step)
        return torch.Generator(self.parameters[0].device).manual_seed(seed)

    def random_direction(self, step: int, perturb: str = "all") -> ParameterVector:
        """A fresh standard normal vector, see `generator`; 0 where the ascent moves no parameter."""
        generator = self.generator("direction", step)
        fresh = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in self.parameters]
        drawn = ParameterVector([tensor.normal_(generator=generator) for tensor in fresh])
        drawn = self.restricted(drawn, perturb)
        return drawn if self.masks is None else drawn.masked(self.masks)

    @contextmanager
    def perturbed(self, epsilon: ParameterVector, only_forward: bool = False) -> Iterator[None]:
        """Weights at θ + ε inside; afterwards, also after an exception, θ to the bit.

        Args:
            epsilon: ε.
            only_forward: whether the update has no other forward: its batch-norm statistics then move here.
        """
        if self.sketch is not None:
            self.sketch.see(epsilon)
        weights = [p.data for p in self.parameters]
        # Kept for the next step: on a CPU fresh memory costs five times the copy itself.
        saved, self._spare = self._spare or [torch.empty_like(w) for w in weights], None
        torch._foreach_copy_(saved, weights)
        outer, self._perturbed = self._perturbed, not only_forward
        try:
            if epsilon.tensors:
                some = weights
                if len(self.perturbable) < len(weights):
                    epsilon = self.vector([epsilon.tensors[i] for i in self.perturbable], epsilon.scale)
                    some = [weights[i] for i in self.perturbable]
                epsilon.add_to(some)
                self._mask(weights)
            del epsilon  # one copy of the weights and one gradient is all that SAM may cost
            yield
        finally:
            torch._foreach_copy_(weights, saved)
            self._spare, self._perturbed = saved, outer

    @contextmanager
    def between_updates(self) -> Iterator[None]:
        """Inside, no forward counts as that of a micro-batch: buffers stay; the passes count for the next update."""
        self._in_update = False
        try:
            yield
        finally:
            self._in_update = True

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The network in evaluation mode inside; afterwards, also after an exception, every module's mode as before."""
        modes = [(module, module.training) for module in self.engine.module.modules()]
        self.engine.module.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    # -- the update ------------------------------------------------------------------------------------------------

    def step(self) -> Truth:
        """Update the weights by the descent gradient, and clear it.

        Returns:
            Whether the weights moved: a non-finite gradient moves nothing, and is counted unless it only lowers the
            loss scale of fp16. Whatever a method keeps from one update to the next changes only where they did. Where
            the device decides, to ask for the truth of it (`if member.step():`) is to wait for the device: only methods
            that keep something do.
        """
        self.engine.finish_average()
        if self.masks is not None:
            self._mask([p.grad for p in self.parameters])
        # Replicas see different samples; averaged every step, their running statistics stay equal to the bit.
        # Other buffers are left alone: the mean of equal numbers may be off by a rounding.
        self.engine.exchange.mean_over_replicas_(self._buffers.statistics)
        self._buffers.note()  # before the engine's look at the gradient, for which the host waits
        self.engine.step()
        skipped = self.engine.skipped
        if isinstance(skipped, Late):
            self._buffers.settle(skipped.on_device)
        elif skipped:
            self._buffers.restore()
        else:
            self._buffers.keep()
        if isinstance(skipped, Late) or not skipped:
            self._mask([p.data for p in self.parameters])
        if not self.engine.searching:  # for the loss scale, which says nothing of the member
            self._skips.add(skipped)
        self.moved = Not(skipped) if isinstance(skipped, Late) else not skipped
        self.passes = self._count.end()
        return self.moved

    @property
    def skipped_in_a_row(self) -> int:
        """Updates in a row that were skipped, the last one among them; waits for it where the device decides."""
        return self._skips.look()

    @property
    def known_skipped_in_a_row(self) -> int:
        """The same without a wait: where the device decides, without the last update."""
        return self._skips.known

    def set_masks(self, masks: Sequence[Tensor | None] | None) -> None:
        """Say which weights exist; those that do not become 0.

        Args:
            masks: one tensor of 0 and 1 per parameter, of its shape, type and device; None for a dense one.
        """
        self.masks = None if masks is None else list(masks)
        self._mask([p.data for p in self.parameters])

    def restart(self, network: nn.Module) -> None:
        """Start anew from the weights of a network of the same architecture; the optimizer forgets all."""
        self.engine.restart(network)
        self._skips = SkipCount()
        self._buffers.remember()

    def after_resume(self, skipped_in_a_row: int, masks: Sequence[Tensor | None] | None) -> None:
        """Go on from the state that the engine has just loaded."""
        self._skips = SkipCount(skipped_in_a_row)
        if masks is not None:
            pairs = zip(masks, self.parameters, strict=True)
            self.masks = [mask if mask is None else mask.to(p.device) for mask, p in pairs]
        self._buffers.remember()

    def _mask(self, tensors: Sequence[Tensor | None]) -> None:
        """Set to 0, in place, what belongs to weights that do not exist."""
        for tensor, mask in zip(tensors, self.masks or [], strict=self.masks is not None):
            if tensor is not None and mask is not None:
                tensor.mul_(mask)
