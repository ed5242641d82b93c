"""Whether members ascend in the same direction: cosines between their perturbations, from sketches of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor

from dist_dash.member.vector import ParameterVector, Stacked
from dist_dash.ranks.exchange import Exchange
from dist_dash.seeds import derived_seed

SIZE = 2**16


class Sketch:
    """A linear map of a perturbation to at most `SIZE` numbers that keeps inner products; the same on all ranks.

    A vector that is small enough is kept whole. A larger one goes through a count sketch (Charikar, Chen,
    Farach-Colton 2002): each coordinate, with a random sign, is added to a random one of `SIZE` numbers. Inner products
    are then unbiased, cosines off by about 1/√SIZE = 0.004.
    """

    def __init__(self) -> None:
        self._values: Tensor | None = None  # of this rank's member; of k members `[k, …]`

    def see(self, perturbation: ParameterVector) -> None:
        """Take the first perturbation of an update; later ones of the same update are passed over."""
        if self._values is None and perturbation.tensors:
            if isinstance(perturbation, Stacked):
                self._values = torch.stack([_sketched(own) for own in perturbation.each])
            else:
                self._values = _sketched(perturbation)

    def cosines(self, exchange: Exchange) -> list[list[float]] | None:
        """Cosines `[members][members]` of this exchange group; None where no member perturbed its weights.

        One collective of fixed size on every rank, whether or not this member perturbed anything.
        """
        device = exchange.layout.device
        here = exchange.layout.members_per_rank
        own = torch.zeros(*[here] * (here > 1), SIZE, dtype=torch.float64, device=device)
        if self._values is not None:
            own[..., : self._values.shape[-1]] = self._values
        everyones = exchange.stack(own).wait().values
        lengths = everyones.norm(dim=1)
        if not bool(lengths.any()):
            return None
        directions = everyones / lengths.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        found: list[list[float]] = (directions @ directions.T).tolist()
        return found


def _sketched(vector: ParameterVector) -> Tensor:
    # Part by part, in the end scaled: a copy of the whole vector would count in the peak memory that runs report.
    parts = [part.detach().flatten() for part in vector.tensors]
    if sum(map(len, parts)) <= SIZE:
        return torch.cat([part.double() for part in parts]) * vector.scale
    sums = torch.zeros(SIZE, dtype=torch.float64, device=parts[0].device)
    # Drawn on the host: the same on every rank, whatever its device.
    generator = torch.Generator().manual_seed(derived_seed("sketch"))
    for part in parts:
        drawn = torch.randint(2 * SIZE, part.shape, generator=generator).to(part.device)
        sums.index_add_(0, drawn // 2, part.double() * (2 * (drawn % 2) - 1))
    return sums * vector.scale
