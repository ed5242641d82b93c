"""Names, kinds and parts of a member's trainable parameters, in the order of every `ParameterVector`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

Kind = Literal["matrix", "bias", "normalisation", "other"]
TRUNK = "trunk"


def names_of(module: nn.Module) -> list[str]:
    """The names of the trainable parameters; one that is shared by two modules has the first one's name."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def kinds_of(module: nn.Module) -> list[Kind]:
    """What each trainable parameter is.

    `normalisation`: scale or shift of a batch, layer, group or instance norm; `matrix`: any other with two or more
    dimensions (convolutions too); `bias`: any other whose name ends in `bias`; `other`: what is left.
    """
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    of_norms = {id(p) for m in module.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
    found: list[Kind] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain: Kind = "matrix" if parameter.dim() >= 2 else "bias" if name.endswith("bias") else "other"
            found.append("normalisation" if id(parameter) in of_norms else plain)
    return found


def parts_of(heads: Sequence[int | None]) -> dict[str, list[int]]:
    """Positions of the parameters of each part: `trunk`, `head_0`, `head_1`, …

    Args:
        heads: for each parameter the head that it belongs to; None: it is shared by all heads.
    """
    parts: dict[str, list[int]] = {TRUNK: []}
    for position, head in enumerate(heads):
        parts.setdefault(TRUNK if head is None else f"head_{head}", []).append(position)
    return parts
