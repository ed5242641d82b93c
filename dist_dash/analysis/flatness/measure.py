"""Everything that is reported of one network's flatness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_dash.analysis.flatness.ball import ascend, random_rises
from dist_dash.analysis.flatness.curvature import top_eigenvalue, trace
from dist_dash.analysis.flatness.surface import NetworkLoss, NotFinite, Surface
from dist_dash.errors import require, require_count, require_positive
from dist_dash.seeds import derived_seed

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class FlatnessOptions:
    """How flatness is measured.

    Args:
        rho: radius of the ball around the weights, in the 2-norm over all trainable parameters.
        steps: of the ascent to the worst point.
        directions: random directions of length ρ, for comparison.
        tolerance: of the top eigenvalue's residual, relative to the eigenvalue.
        most_steps: of Lanczos; keeps as many vectors of the size of the network.
        trace_error: standard error of the trace at which probing stops, as a share of the trace.
        most_probes: for the trace.
        seed: of everything random.
        dtype: `float64` or `float32`, in which all is computed.
        batch_size: samples at once; None: as many as fit into the memory set aside for them.

    Raises:
        BadInput: a value is out of its range.
    """

    rho: float = 0.05
    steps: int = 5
    directions: int = 10
    tolerance: float = 1e-3
    most_steps: int = 60
    trace_error: float = 0.05
    most_probes: int = 100
    seed: int = 0
    dtype: str = "float64"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("rho", "tolerance", "trace_error"):
            require_positive(name.replace("_", "-"), getattr(self, name))
        for name, least in {"steps": 1, "directions": 1, "most_steps": 1, "most_probes": 2, "seed": 0}.items():
            value = getattr(self, name)
            require(value >= least, name.replace("_", "-"), value, f"a whole number ≥ {least}")
        require_count("batch-size", self.batch_size)
        require(self.dtype in DTYPES, "dtype", self.dtype, " or ".join(DTYPES))


@dataclass(frozen=True)
class Flatness:
    """How flat a loss L is around the weights θ; nats, and nats per squared unit of weight.

    Args:
        loss: `L(θ)`.
        gradient_norm: `‖∇L(θ)‖₂`.
        weight_norm: `‖θ‖₂`.
        parameters: length of θ.
        one_step_rise: `L − L(θ)` after one ascent step of length ρ.
        worst_rise: the largest `L − L(θ)` that the ascent saw within ρ: a lower bound of the true maximum, ≥ 0.
        random_rise: mean `L − L(θ)` over random directions of length ρ.
        random_rises: in each of them.
        eigenvalue: the largest (algebraic) eigenvalue λ of the Hessian at θ.
        eigenvalue_residual: `‖Hv − λv‖ / |λ|` that was reached.
        eigenvalue_products: products with the Hessian that it took.
        eigenvalue_converged: whether the residual is within the tolerance.
        trace: of the Hessian, estimated.
        trace_error: its standard error.
        trace_probes: random vectors that it took.
        trace_converged: whether the error is within the share of the trace that was asked for.
    """

    loss: float
    gradient_norm: float
    weight_norm: float
    parameters: int
    one_step_rise: float
    worst_rise: float
    random_rise: float
    random_rises: list[float]
    eigenvalue: float
    eigenvalue_residual: float
    eigenvalue_products: int
    eigenvalue_converged: bool
    trace: float
    trace_error: float
    trace_probes: int
    trace_converged: bool


def flatness_of(network: nn.Module, x: Tensor, y: Tensor, options: FlatnessOptions | None = None) -> Flatness:
    """The flatness of a network's cross-entropy on given samples; the network is left as it is.

    Args:
        network: stored samples `[n, *shape]` → logits `[n, C]`; measured in evaluation mode, on its own device.
        x: samples `[N, *shape]`.
        y: labels int64 `[N]`.
        options: of the measurement.

    Raises:
        BadInput: there is no sample or no trainable parameter.
        NotFinite: the loss or its curvature is not finite at the network's own weights.
    """
    options = options or FlatnessOptions()
    return flatness_around(NetworkLoss(network, x, y, DTYPES[options.dtype], options.batch_size), options)


def flatness_around(surface: Surface, options: FlatnessOptions) -> Flatness:
    """The same of any loss that can be differentiated twice. Raises `NotFinite`."""
    ascent = ascend(surface, options.rho, options.steps)
    if not (math.isfinite(ascent.loss) and math.isfinite(ascent.gradient_norm)):
        raise NotFinite("the loss or its gradient is not finite")
    seeds = [derived_seed(f"flatness {what}", options.seed) for what in ("directions", "lanczos", "probes")]
    rises = random_rises(surface, ascent.loss, options.rho, options.directions, seeds[0])
    top = top_eigenvalue(surface, options.tolerance, options.most_steps, seeds[1])
    total = trace(surface, top, options.trace_error, options.most_probes, seeds[2])
    return Flatness(
        loss=ascent.loss,
        gradient_norm=ascent.gradient_norm,
        weight_norm=float(surface.centre.norm()),
        parameters=len(surface.centre),
        one_step_rise=ascent.one_step,
        worst_rise=ascent.worst,
        random_rise=math.fsum(rises) / len(rises),
        random_rises=rises,
        eigenvalue=top.value,
        eigenvalue_residual=top.residual,
        eigenvalue_products=top.products,
        eigenvalue_converged=top.converged,
        trace=total.value,
        trace_error=total.error,
        trace_probes=total.probes,
        trace_converged=total.converged,
    )
