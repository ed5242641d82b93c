"""The logarithm of every sample's partition function, `F(β) = log Σ_c exp(β d_c)` with `d_c = log p_c − max log p ≤ 0`.

By its definition, or by polynomials about one β, which cost one pass over all classes however many β are asked for.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from dist_dash.metrics.accuracy import Doubles, Floats
from dist_dash.metrics.blocks import in_blocks

ORDER, RADIUS = 10, 0.04
"""Of the polynomials, and of the circle that they are exact in, relative to its centre."""

_NO_CLASS = -2e4  # d of a class of probability 0: exp(β d) is exactly 0, and no product with it is NaN, for β ≥ 0.05


class Partition(Protocol):
    """`F` of N samples."""

    reach: tuple[float, float]
    """Between these β it makes sense to look for the best one."""

    def covers(self, beta: Doubles) -> bool:
        """Whether the values at all these β are exact but for rounding."""

    def slopes(self, beta: Doubles) -> tuple[Doubles, Doubles]:
        """`F′` and `F″` at β, all `[k, N]`: mean and variance of d under the scaled prediction."""

    def logs(self, beta: Doubles) -> tuple[Doubles, Doubles]:
        """`F(β)` and `F(2β)`, all `[k, N]`."""


class Direct:
    """`F` by its definition.

    Args:
        log_probs: `[N, C]`.
        top: the largest of each sample `[N]`.
    """

    reach = (0.0, np.inf)

    def __init__(self, log_probs: Floats, top: Doubles) -> None:
        self._log_probs, self._top = log_probs, top

    def covers(self, beta: Doubles) -> bool:
        return True

    def slopes(self, beta: Doubles) -> tuple[Doubles, Doubles]:
        mean, variance = np.empty_like(beta), np.empty_like(beta)

        def work(_: int, rows: slice) -> None:
            d = _differences(self._log_probs, self._top, rows)
            weights = np.exp(beta[:, rows, None] * d)
            total = weights.sum(-1)
            mean[:, rows] = np.einsum("knc,nc->kn", weights, d) / total
            squares = np.einsum("knc,nc->kn", weights, d * d) / total
            variance[:, rows] = np.maximum(squares - mean[:, rows] ** 2, 0)

        in_blocks(beta.shape[1], len(beta) * self._log_probs.shape[1], work)
        return mean, variance

    def logs(self, beta: Doubles) -> tuple[Doubles, Doubles]:
        single, double = np.empty_like(beta), np.empty_like(beta)

        def work(_: int, rows: slice) -> None:
            weights = np.exp(beta[:, rows, None] * _differences(self._log_probs, self._top, rows))
            single[:, rows] = np.log(weights.sum(-1))
            double[:, rows] = np.log(np.einsum("knc,knc->kn", weights, weights))

        in_blocks(beta.shape[1], len(beta) * self._log_probs.shape[1], work)
        return single, double


class Expanded:
    """`F` from the Taylor polynomials of `Σ_c exp(β d_c)` and `Σ_c exp(2β d_c)` about one β.

    With x = centre · d and s = β / centre − 1, the terms are `Σ_c e^x x^k / k! · s^k`. Since `e^x |x|^k / k!` is at
    most `1 / √(2πk)`, what is cut off is below `C · RADIUS^(ORDER + 1) / 8`: 6e-14 of a sum ≥ 1, for 1000 classes.

    Args:
        log_probs: `[N, C]`.
        top: the largest of each sample `[N]`.
        centre: the β to expand about.
    """

    def __init__(self, log_probs: Floats, top: Doubles, centre: float) -> None:
        self._centre = centre
        # Further out there are digits enough to see where the best β is, though not to score with it.
        self.reach = (centre * (1 - 4 * RADIUS), centre * (1 + 4 * RADIUS))
        self._single = np.empty((ORDER + 1, len(top)))
        self._double = np.empty((ORDER + 1, len(top)))

        def work(_: int, rows: slice) -> None:
            x = _differences(log_probs, top, rows)
            x *= centre
            weights = np.exp(x)
            squares = weights * weights
            for order in range(ORDER + 1):
                if order:
                    weights *= x
                    squares *= x
                self._single[order, rows] = weights.sum(-1)
                self._double[order, rows] = squares.sum(-1)

        in_blocks(len(top), log_probs.shape[1], work)
        factor = 1.0
        for order in range(1, ORDER + 1):
            factor /= order
            self._single[order] *= factor
            self._double[order] *= factor * 2**order

    def covers(self, beta: Doubles) -> bool:
        return bool(np.all(np.abs(beta / self._centre - 1) <= RADIUS))

    def slopes(self, beta: Doubles) -> tuple[Doubles, Doubles]:
        s = beta / self._centre - 1
        value, first, second = np.zeros_like(s), np.zeros_like(s), np.zeros_like(s)
        for coefficient in self._single[::-1]:  # Horner's rule, and its derivatives
            second = second * s + 2 * first
            first = first * s + value
            value = value * s + coefficient
        mean = first / value
        return mean / self._centre, np.maximum(second / value - mean**2, 0) / self._centre**2

    def logs(self, beta: Doubles) -> tuple[Doubles, Doubles]:
        s = beta / self._centre - 1
        single, double = np.zeros_like(s), np.zeros_like(s)
        for own, squared in zip(self._single[::-1], self._double[::-1], strict=True):
            single = single * s + own
            double = double * s + squared
        return np.log(single), np.log(double)


def _differences(log_probs: Floats, top: Doubles, rows: slice) -> Doubles:
    """`d` of the samples in `rows`, `[n, C]`."""
    d = np.array(log_probs[rows], dtype=np.float64, order="C")
    d -= top[rows, None]
    return np.maximum(d, _NO_CLASS, out=d)
