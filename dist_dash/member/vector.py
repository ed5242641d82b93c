"""One tensor per trainable parameter, used as the single vector that the formulas speak of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ROW = 2**9  # elements whose squares fp32 adds up without losing digits that matter
SHORT = 2**12  # elements that take as long in fp64
SMALLEST, LARGEST = 1e-12, 1e12  # norms between which no square that matters leaves the range of fp32


class ParameterVector:
    """A vector in the space of one member's trainable parameters.

    Scaling is lazy (`scale · tensors`), so that `ρ · unit(g)` neither copies the gradient nor waits for the device.
    `ParameterVector([])` is the zero of a sum: added to, it yields the other summand.

    Args:
        tensors: one tensor per parameter, in the order of the member's parameters; or what waits for them, called when
            they are first read.
        scale: a number or a 0-dimensional tensor on the same device.
    """

    def __init__(self, tensors: Sequence[Tensor] | Callable[[], list[Tensor]], scale: float | Tensor = 1.0) -> None:
        self._tensors = tensors if callable(tensors) else list(tensors)
        self.scale = scale
        self._norms: dict[float, Tensor] = {}

    @property
    def tensors(self) -> list[Tensor]:
        """One per parameter, to be multiplied by `scale`."""
        if callable(self._tensors):
            self._tensors = self._tensors()
        return self._tensors

    def materialised(self) -> list[Tensor]:
        """`scale · tensors`; the tensors themselves, not a copy, where the scale is the number 1."""
        if isinstance(self.scale, float) and self.scale == 1.0:
            return self.tensors
        return self._scaled()

    def _scaled(self) -> list[Tensor]:
        scale = self.scale.to(self.tensors[0].dtype) if isinstance(self.scale, Tensor) else self.scale
        return list(torch._foreach_mul(self.tensors, scale))

    def give_up(self) -> list[Tensor]:
        """`materialised()`; this vector is the zero of a sum afterwards, so that memory can be freed piece by piece."""
        tensors, self._tensors, self.scale = self.materialised(), [], 1.0
        self._norms.clear()
        return tensors

    def add_to(self, tensors: list[Tensor]) -> None:
        """`tensors += self` in place."""
        if isinstance(self.scale, Tensor) and self.scale.device.type != "cpu":
            torch._foreach_add_(tensors, self.materialised())  # a number would have to wait for the device
        else:
            torch._foreach_add_(tensors, self.tensors, alpha=float(self.scale))  # no new memory: it is slow on a CPU

    def __rmul__(self, factor: float | Tensor) -> ParameterVector:
        """`factor · self`, sharing the tensors."""
        return type(self)(self.tensors, factor * self.scale)

    def __add__(self, other: ParameterVector) -> ParameterVector:
        """The sum, in new tensors (or one summand itself where the other is the empty zero)."""
        if not self.tensors or not other.tensors:
            return self if self.tensors else other
        total = self._scaled()
        other.add_to(total)
        return type(self)(total)

    def __sub__(self, other: ParameterVector) -> ParameterVector:
        """The difference, in new tensors."""
        return self + (-1.0) * other

    def __iadd__(self, other: ParameterVector) -> ParameterVector:
        """Add in place: the accumulation over micro-batches needs no third buffer."""
        if not (self.tensors and other.tensors and isinstance(self.scale, float) and self.scale == 1.0):
            return self + other
        other.add_to(self.tensors)
        self._norms.clear()
        return self

    def masked(self, masks: Sequence[Tensor | None]) -> ParameterVector:
        """The vector with each tensor multiplied by its mask of 0 and 1; None leaves a tensor as it is."""
        pairs = zip(self.tensors, masks, strict=True)
        return type(self)([t if mask is None else t * mask for t, mask in pairs], self.scale)

    def times(self, factors: Sequence[Tensor]) -> ParameterVector:
        """The vector with each element multiplied by its own factor; one tensor of factors per parameter."""
        return ParameterVector(list(torch._foreach_mul(self.tensors, list(factors))), self.scale)

    def norm(self, p: float = 2.0) -> Tensor:
        """‖self‖_p over all elements, a 0-dimensional float64 tensor."""
        if not self.tensors:
            return torch.zeros((), dtype=torch.float64)
        if p not in self._norms:
            self._norms[p] = torch.linalg.vector_norm(self._norms_of_parts(p), p) * abs(self.scale)
        return self._norms[p]

    def _norms_of_parts(self, p: float) -> Tensor:
        """Norms of parts of the vector, float64, right for tiny and for huge elements too."""
        if self.tensors[0].device.type == "cpu" and p == 2:
            # In the type of the elements it takes a fifth of the time; but a long sum loses digits, and the squares of
            # tiny or huge elements leave its range.
            short, rows = [], []
            for tensor in self.tensors:
                if tensor.numel() <= SHORT:
                    short.append(tensor)
                else:
                    flat, whole = tensor.reshape(-1), tensor.numel() // ROW * ROW
                    rows.append(torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1).double())
                    short.append(flat[whole:])
            norms = torch.stack(torch._foreach_norm(short, dtype=torch.float64))
            norms = torch.cat([norms, *rows]) if rows else norms
            if SMALLEST < float(norms.max()) < LARGEST:
                return norms
        return torch.stack(torch._foreach_norm(self.tensors, p, dtype=torch.float64))

    def dot(self, other: ParameterVector) -> Tensor:
        """The inner product, a 0-dimensional float64 tensor."""
        products = [torch.dot(a.flatten(), b.flatten()) for a, b in zip(self.tensors, other.tensors, strict=True)]
        return torch.stack(products).double().sum() * self.scale * other.scale


class Stacked(ParameterVector):
    """k vectors of as many members, each tensor `[k, …]`: norms and inner products are `[k]`.

    Args:
        tensors: one per parameter, `[k, …]`.
        scale: a number, or one for each member `[k]`.
    """

    @property
    def each(self) -> list[ParameterVector]:
        """The members' vectors; their tensors are views."""
        places = range(len(self.tensors[0]))
        scales = self.scale if isinstance(self.scale, Tensor) and self.scale.dim() else [self.scale for _ in places]
        return [ParameterVector([t[place] for t in self.tensors], scales[place]) for place in places]

    def _scaled(self) -> list[Tensor]:
        if isinstance(self.scale, Tensor) and self.scale.dim():
            return [t * self._scale_for(t) for t in self.tensors]
        return super()._scaled()

    def add_to(self, tensors: list[Tensor]) -> None:
        if isinstance(self.scale, Tensor) and self.scale.dim():
            for tensor, own in zip(tensors, self.tensors, strict=True):
                tensor.addcmul_(own, self._scale_for(own))
        else:
            super().add_to(tensors)

    def _scale_for(self, tensor: Tensor) -> Tensor:
        assert isinstance(self.scale, Tensor)
        return self.scale.to(tensor.dtype).reshape(-1, *[1] * (tensor.dim() - 1))

    def norm(self, p: float = 2.0) -> Tensor:
        if p not in self._norms:
            norms = [torch.linalg.vector_norm(t.flatten(1), p, 1, dtype=torch.float64) for t in self.tensors]
            self._norms[p] = torch.linalg.vector_norm(torch.stack(norms), p, 0) * abs(self.scale)
        return self._norms[p]

    def dot(self, other: ParameterVector) -> Tensor:
        products = [
            torch.linalg.vecdot(a.flatten(1), b.flatten(1)) for a, b in zip(self.tensors, other.tensors, strict=True)
        ]
        return torch.stack(products).double().sum(0) * self.scale * other.scale


def unit(vector: ParameterVector, norm: Tensor | None = None) -> ParameterVector:
    """`v / ‖v‖₂`, and 0 for v = 0 (never NaN): ALGORITHMS, notation. `norm`: ‖v‖₂ where it is already known."""
    if not vector.tensors:
        return vector
    length = vector.norm() if norm is None else norm
    return _inverse(length, vector) * vector


def _inverse(length: Tensor, vector: ParameterVector) -> float | Tensor:
    """1 / length; 0 where it is 0, or so small that its inverse is no number of the vector's type."""
    smallest = torch.finfo(vector.tensors[0].dtype).tiny
    if length.device.type == "cpu" and not length.dim():  # nothing to wait for, and numbers cost less than tensors
        known = float(length)
        return 1.0 / known if known > smallest else 0.0
    usable = length > smallest
    return torch.where(usable, 1.0 / length, torch.zeros_like(length))


def cosine(a: ParameterVector, b: ParameterVector) -> Tensor:
    """Cosine of the angle between two vectors, 0 where one of them is 0; a 0-dimensional float64 tensor."""
    lengths = a.norm() * b.norm()
    return torch.where(lengths > 0, a.dot(b) / lengths, 0.0).clamp(-1, 1)


def sam_perturbation(gradient: ParameterVector, rho: float, p: float) -> ParameterVector:
    """SAM's ascent step: the maximiser of the linearised loss in the p-ball of radius ρ (Foret et al. 2021, eq. 2).

    `ε = ρ sign(g) |g|^{q−1} / (‖g‖_q^q)^{1/p}` with `1/p + 1/q = 1`, written as `ρ sign(g) (|g| / ‖g‖_q)^{q−1}`, which
    cannot overflow. `p = 2` is `ρ unit(g)`; `p = ∞` is `ρ sign(g)`; 0 for g = 0.
    """
    if p == 2:
        return rho * unit(gradient)
    if math.isinf(p):
        return type(gradient)(torch._foreach_sign(gradient.materialised()), float(rho))
    q = p / (p - 1)
    largest = gradient.norm(math.inf)  # |g| ≤ 1 first: a large q would underflow the norm
    relative = type(gradient)((_inverse(largest, gradient) * gradient).materialised())
    length = relative.norm(q)
    scaled = (_inverse(length, relative) * relative).materialised()
    powers = torch._foreach_pow(torch._foreach_abs(scaled), q - 1)
    return type(gradient)(torch._foreach_mul(torch._foreach_sign(scaled), powers), float(rho))


def own_memory(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The gradients, fit to be added to in place.

    autograd gives two parameters that are added one and the same tensor, and a broadcast parameter an expanded view.
    """
    seen: set[int] = set()
    own = []
    for gradient in gradients:
        place = gradient.untyped_storage().data_ptr()
        expanded = 0 in gradient.stride() and gradient.numel() > 1
        own.append(gradient.clone() if expanded or place in seen else gradient)
        seen.add(place)
    return own


def orthogonal_part(vector: ParameterVector, along: ParameterVector) -> ParameterVector:
    """`v − ⟨v, u⟩ u` with `u = unit(along)`: the part of a vector that is orthogonal to another; v where that is 0."""
    u = unit(along)
    return vector - vector.dot(u) * u
