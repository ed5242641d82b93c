"""Lines and planes through members' weights, and the scores of the networks that lie on them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.swa_utils import update_bn

from dist_dash.errors import BadInput


@dataclass(frozen=True)
class Plane:
    """The plane through three points of weight space, with an orthonormal basis.

    Args:
        origin: the first point `[P]`.
        basis: two orthonormal vectors `[2, P]`.
        points: where the three points lie `[3, 2]`; distances are those of weight space.
    """

    origin: Tensor
    basis: Tensor
    points: NDArray[np.float64]

    def at(self, a: float, b: float) -> Tensor:
        """The weights `[P]` at coordinates (a, b)."""
        return self.origin + a * self.basis[0] + b * self.basis[1]


def plane_through(first: Tensor, second: Tensor, third: Tensor) -> Plane:
    """Gram–Schmidt on the two differences to the first point (Garipov et al. 2018, section A.1).

    Raises:
        BadInput: the three lie on a line.
    """
    u, v = (second - first).double(), (third - first).double()
    width = float(u.norm())
    along = float(u @ v) / width if width else 0.0
    rest = v - along * u / width if width else v
    height = float(rest.norm())
    if height <= 1e-6 * max(width, float(v.norm())) or not width:
        raise BadInput("members: three of them lie on a line in weight space; they span no plane")
    basis = torch.stack([u / width, rest / height]).to(first)
    return Plane(first, basis, np.array([[0.0, 0.0], [width, 0.0], [along, height]]))


class TooSlow(Exception):
    """What was asked for would take longer than allowed; `seconds` is the estimate."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.0f} s")
        self.seconds = seconds


class Stopwatch:
    """Estimates how long equal pieces of work take in all, from the first ones.

    By the time that the processor spends on them: what else a machine does must not decide what a report shows.

    Args:
        pieces: how many there are.
        patience: seconds that they may take together.
    """

    def __init__(self, pieces: int, patience: float) -> None:
        self._pieces, self._patience, self._start = pieces, patience, time.process_time()

    def check(self, done: int) -> None:
        """Raise `TooSlow` where all pieces would take longer than allowed, by those that are done."""
        spent = (time.process_time() - self._start) / torch.get_num_threads()
        if (expected := spent / done * self._pieces) > self._patience:
            raise TooSlow(expected)


class BetweenMembers:
    """Scores of networks with given weights, where their batch-norm statistics are not known.

    The statistics are estimated anew for each network, on training samples, as averages over batches (Izmailov et al.
    2018): those of the members do not suit the weights between them. All else that the networks store must be equal.

    Args:
        networks: stored samples → logits, equal but for their weights; never touched.
        batches: training samples for the statistics, each `[n, *shape]`.
        x: samples to score `[N, *shape]`.
        y: their labels int64 `[N]`.

    Raises:
        BadInput: the networks differ in more than weights and batch-norm statistics.
    """

    def __init__(self, networks: Sequence[nn.Module], batches: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
        _check_alike(networks)
        self.weights = [parameters_to_vector(network.parameters()).detach().clone() for network in networks]
        self._network = copy.deepcopy(networks[0]).eval()
        self.batch_norm = any(isinstance(module, _BatchNorm) for module in self._network.modules())
        self.batches, self.x, self.y = batches, x, y

    @torch.no_grad()
    def score(self, weights: Tensor) -> tuple[float, float]:
        """Mean cross-entropy and accuracy of the network with these weights `[P]`."""
        vector_to_parameters(weights, self._network.parameters())
        with torch.random.fork_rng(devices=[]):  # dropout, while the statistics are estimated
            torch.manual_seed(0)
            update_bn(self.batches, self._network)
        logits = torch.cat([self._network(part) for part in self.x.split(512)])
        return nn.functional.cross_entropy(logits, self.y).item(), (logits.argmax(-1) == self.y).double().mean().item()

    def scores(self, points: Sequence[Callable[[], Tensor]], patience: float) -> NDArray[np.float64]:
        """`score` of many networks: losses and accuracies `[len(points), 2]`.

        Args:
            points: each makes its weights.
            patience: seconds that all together may take, judged by the first two.

        Raises:
            TooSlow: they would take longer.
        """
        found = []
        watch = Stopwatch(len(points), patience)
        for point in points:
            found.append(self.score(point()))
            if len(found) == 2:
                watch.check(2)
        return np.array(found, dtype=np.float64)


def barrier(losses: NDArray[np.float64]) -> float:
    """Largest height of a loss over the straight line between its ends; ≥ 0.

    Args:
        losses: at equally spaced points from one end to the other `[n]`, n ≥ 2.
    """
    t = np.linspace(0, 1, len(losses))
    return float(np.max(losses - ((1 - t) * losses[0] + t * losses[-1])))


def _check_alike(networks: Sequence[nn.Module]) -> None:
    first = networks[0]
    shapes = {name: tuple(p.shape) for name, p in first.named_parameters()}
    kept = _other_buffers(first)
    for index, network in enumerate(networks):
        if str(network) != str(first) or {n: tuple(p.shape) for n, p in network.named_parameters()} != shapes:
            raise BadInput(f"members: member {index} has another architecture than member 0; they must be equal")
        others = _other_buffers(network)
        if others.keys() != kept.keys() or any(not torch.equal(kept[name], others[name]) for name in kept):
            raise BadInput(
                f"members: members 0 and {index} store different values beside weights and batch-norm statistics"
            )


def _other_buffers(network: nn.Module) -> dict[str, Tensor]:
    norms = [name for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    return {n: b for n, b in network.named_buffers() if n.rpartition(".")[0] not in norms}
