"""The loss of one network as a function of all its weights: values, gradients, products with the Hessian."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from dist_dash.errors import BadInput, require

MEMORY = 2**31
"""Bytes that the graph behind a gradient may take: so many samples go through the network at once."""


class NotFinite(Exception):
    """A network's loss, or a derivative of it, is NaN or infinite at its own weights: it has no flatness."""


class Surface(Protocol):
    """A loss L over R^P.

    Attributes:
        centre: θ, the weights that everything is measured around, `[P]`.
    """

    centre: Tensor

    def loss(self, at: Tensor) -> float:
        """`L(at)`."""

    def gradient(self, at: Tensor) -> tuple[float, Tensor]:
        """`L(at)` and `∇L(at)` `[P]`."""

    def hessian_times(self, vector: Tensor) -> Tensor:
        """`∇²L(θ) vector` `[P]`."""


class NetworkLoss:
    """Mean cross-entropy of a network in evaluation mode (batch norm with its stored statistics, no dropout).

    Works on a copy: the network is never touched. The weights are one flat vector of its trainable parameters, in the
    order of `parameters()`; the products with the Hessian are exact, by double backward (Pearlmutter 1994).

    Args:
        network: stored samples `[n, *shape]` → logits `[n, C]`.
        x: samples `[N, *shape]`, N ≥ 1.
        y: labels int64 `[N]`.
        dtype: that everything is computed in.
        batch_size: samples at once; by default as many as `MEMORY` holds.

    Raises:
        BadInput: the network has no trainable parameter, there is no sample, or numbers of samples differ.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        dtype: torch.dtype = torch.float64,
        batch_size: int | None = None,
    ) -> None:
        require(len(x) > 0 and len(y) == len(x), "samples", (len(x), len(y)), "equal numbers ≥ 1 of samples and labels")
        self._network = copy.deepcopy(network).to(dtype).eval()
        trained = {name: p for name, p in self._network.named_parameters() if p.requires_grad}
        if not trained:
            raise BadInput("network: it has no trainable parameter; it must have one for its loss to have a shape")
        self._shapes = {name: p.shape for name, p in trained.items()}
        self._sizes = [p.numel() for p in trained.values()]
        self.centre = torch.cat([p.detach().flatten() for p in trained.values()])
        device = self.centre.device
        self._x, self._y = x.to(device), y.to(device)
        self._size = batch_size or self._largest_batch()
        self._kept: list[Tensor] | None = None

    def loss(self, at: Tensor) -> float:
        with torch.no_grad():
            return sum(self._share(at, x, y).item() for x, y in self._batches())

    def gradient(self, at: Tensor) -> tuple[float, Tensor]:
        leaf = at.detach().requires_grad_()
        value, total = 0.0, torch.zeros_like(at)
        for x, y in self._batches():
            share = self._share(leaf, x, y)
            total += torch.autograd.grad(share, leaf)[0]
            value += share.item()
        return value, total

    def hessian_times(self, vector: Tensor) -> Tensor:
        """`∇²L(θ) vector`: the derivative of `∇L(θ) · vector`. Raises `NotFinite`."""
        total = torch.zeros_like(self.centre)
        for leaf, gradient in self._differentiable_gradients():
            total += torch.autograd.grad(gradient, leaf, vector, retain_graph=self._kept is not None)[0]
        if not total.isfinite().all():
            raise NotFinite("a product with the Hessian is not finite")
        return total

    def _differentiable_gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        """θ and each batch's share of `∇L(θ)` with its graph; where one batch holds all samples, the graph is kept."""
        if self._kept is None:
            leaf = self.centre.clone().requires_grad_()
            for x, y in self._batches():
                gradient = torch.autograd.grad(self._share(leaf, x, y), leaf, create_graph=True)[0]
                if self._size >= len(self._x):
                    self._kept = [leaf, gradient]
                yield leaf, gradient
        else:
            yield self._kept[0], self._kept[1]

    def _share(self, at: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """What these samples contribute to the mean over all."""
        parts = zip(self._shapes.items(), at.split(self._sizes), strict=True)
        weights = {name: part.view(shape) for (name, shape), part in parts}
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
            logits = functional_call(self._network, weights, (x,))
        return nn.functional.cross_entropy(logits, y, reduction="sum") / len(self._x)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self._x.split(self._size), self._y.split(self._size), strict=True)

    def _largest_batch(self) -> int:
        """How many samples' graphs fit into `MEMORY`, by what two of them keep."""
        few, kept = min(2, len(self._x)), 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        leaf = self.centre.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            torch.autograd.grad(self._share(leaf, self._x[:few], self._y[:few]), leaf, create_graph=True)
        return max(1, min(len(self._x), MEMORY * few // max(1, kept)))
