"""Names, kinds and parts of a member's trainable parameters, in the order of every `ParameterVector`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from dist_dash.errors import BadInput

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


def moved_by_ascent(perturb: str, names: Sequence[str], kinds: Sequence[Kind]) -> list[int]:
    """Positions of the parameters that a method's ascent moves.

    Args:
        perturb: `all`; `norms`: the scales and shifts of normalisation layers alone (SAM-ON, Mueller et al. 2023);
            `no_norms`: all others; or a shell pattern of names, as in `layer4.*`.
        names: of the trainable parameters.
        kinds: of them.

    Raises:
        BadInput: there is no such parameter.
    """
    if perturb == "all":
        return list(range(len(names)))
    if perturb in ("norms", "no_norms"):
        found = [i for i, kind in enumerate(kinds) if (kind == "normalisation") == (perturb == "norms")]
    else:
        found = [i for i, name in enumerate(names) if fnmatchcase(name, perturb)]
    if not found:
        some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        allowed = "all, norms, no_norms or a pattern of names that this network has"
        raise BadInput(f"method.perturb: {perturb!r} fits no parameter of {some}; it must be {allowed}")
    return found
