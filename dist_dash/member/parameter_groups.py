"""Parameters that are treated in their own way: weight decay, learning rate, and whether ascents move them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch

from dist_dash.errors import BadInput, require, require_non_negative
from dist_dash.member.engine import MakeOptimizer
from dist_dash.member.parameters import Kind


@dataclass
class ParameterGroup:
    """Trainable parameters with an own treatment; a parameter belongs to the first group that it fits.

    Args:
        names: shell patterns of parameters' names, as in `*.bias` or `layer4.*`; one of them must fit.
        kinds: what the parameters are: `matrix`, `bias`, `normalisation` (scale and shift of a norm), `other`.
        weight_decay: in place of the optimizer's; null: the optimizer's own.
        rate: factor on the learning rate.
        perturbed: whether ascents move them (SAM, DASH); the radius is that of the parameters that are moved.
    """

    names: list[str] = field(default_factory=lambda: ["*"])
    kinds: list[Kind] = field(default_factory=lambda: ["matrix", "bias", "normalisation", "other"])
    weight_decay: float | None = None
    rate: float = 1.0
    perturbed: bool = True

    def __post_init__(self) -> None:
        require(bool(self.names), "parameter_groups.names", self.names, "one pattern or more")
        require(bool(self.kinds), "parameter_groups.kinds", self.kinds, "matrix, bias, normalisation or other")
        require_non_negative("parameter_groups.rate", self.rate)
        if self.weight_decay is not None:
            require_non_negative("parameter_groups.weight_decay", self.weight_decay)

    def fits(self, name: str, kind: Kind) -> bool:
        """Whether a parameter belongs to the group, unless an earlier one has it."""
        return kind in self.kinds and any(fnmatchcase(name, pattern) for pattern in self.names)


def group_of_each(
    groups: Sequence[ParameterGroup], names: Sequence[str], kinds: Sequence[Kind]
) -> list[ParameterGroup | None]:
    """For each parameter its group; None where no group has it.

    Args:
        groups: in order.
        names: of the trainable parameters.
        kinds: of them.

    Raises:
        BadInput: a group has no parameter, or ascents would move none.
    """
    found = [next((g for g in groups if g.fits(*one)), None) for one in zip(names, kinds, strict=True)]
    for number, group in enumerate(groups):
        if not any(one is group for one in found):
            some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            raise BadInput(
                f"parameter_groups: number {number} (names {group.names}, kinds {group.kinds}) has no parameter of its "
                f"own; the names are {some}"
            )
    if all(group is not None and not group.perturbed for group in found):
        raise BadInput("parameter_groups.perturbed: false for every parameter; it must be true for one")
    return found


def with_groups(make: MakeOptimizer, group_of: Sequence[ParameterGroup | None]) -> MakeOptimizer:
    """What makes an optimizer with these groups from the parameters in their order.

    Raises (when it makes one):
        BadInput: a group has a weight decay, and the optimizer knows none.
    """
    if not any(group_of):
        return make

    def made(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        members: dict[int, tuple[ParameterGroup | None, list[Any]]] = {}
        for parameter, group in zip(parameters, group_of, strict=True):
            members.setdefault(id(group), (group, []))[1].append(parameter)
        optimizer = make([{"params": own} for _, own in members.values()])
        for settings, (group, _) in zip(optimizer.param_groups, members.values(), strict=True):
            if group is None:
                continue
            settings["lr"] = group.rate * settings["lr"]
            if group.weight_decay is not None:
                known = "weight_decay" in settings
                name = type(optimizer).__name__
                require(known, "parameter_groups.weight_decay", group.weight_decay, f"null: {name} has none")
                settings["weight_decay"] = group.weight_decay
        return optimizer

    return made
