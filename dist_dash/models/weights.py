"""Fine-tuning: start a network from the weights in a safetensors file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dist_dash.errors import BadInput
from dist_dash.files import SEAL, digest_of, read_object
from dist_dash.models.architecture import one_line

LISTED = 3  # names in an error message


def load_pretrained(net: nn.Module, path: str) -> list[str]:
    """Copy the tensors of the safetensors file at `path` into `net`, and return the names left out.

    Every tensor must agree in name and shape, but for the head: the last `nn.Linear` in module order keeps its fresh
    initialisation if the file's differs in the number of classes alone, and its names are returned. A file that this
    project exported (`normalise.*`, `net.*`) is read too; its normalisation is ignored, the run's own data has one.

    Raises `BadInput`, and leaves `net` as it was, if the file cannot be read or anything else does not agree.
    """
    named = {uncompiled(n): n for n in net.state_dict()}
    own = {uncompiled(n): t for n, t in net.state_dict().items()}
    given = unwrap({uncompiled(n): t for n, t in read(path).items()}, own)
    head = set(map(uncompiled, head_names(net)))
    # The counter of a batch norm is absent from older exports and unused at a fixed momentum.
    missing = [n for n in own if n not in given and not n.endswith(".num_batches_tracked")]
    unexpected = [n for n in given if n not in own]
    reshaped = [n for n in given if n in own and given[n].shape != own[n].shape]
    left_out = [n for n in reshaped if n in head and given[n].shape[1:] == own[n].shape[1:]]
    shapes = [f"{n} {list(given[n].shape)} for {list(own[n].shape)}" for n in reshaped if n not in left_out]
    wrong = [
        f"{len(names)} {what}: {', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if wrong:
        raise BadInput(f"init: {path!r} does not fit the network; {'; '.join(wrong)}")
    net.load_state_dict({named[n]: t for n, t in given.items() if n not in left_out}, strict=False)
    return left_out


def uncompiled(name: str) -> str:
    """The name of a parameter or buffer without what `torch.compile` puts before it."""
    return name.replace("_orig_mod.", "")


def read(path: str) -> dict[str, torch.Tensor]:
    """The tensors in the safetensors file at `path`.

    Raises:
        BadInput: it cannot be read, or it belongs to an exported ensemble that notes another checksum.
    """
    try:
        members = read_object(Path(path).with_name("ensemble.json")).get("members")
        for entry in members if isinstance(members, list) else []:
            own = isinstance(entry, dict) and entry.get("file") == Path(path).name and SEAL in entry
            if own and entry[SEAL] != digest_of(Path(path)):
                raise BadInput(f"init: {path!r} has changed since it was written; its checksum is another one")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"init: {path!r} cannot be read as a safetensors file ({one_line(error)})") from error


def unwrap(tensors: dict[str, torch.Tensor], own: Collection[str]) -> dict[str, torch.Tensor]:
    """Drop `normalise.*` and the prefix `net.` where that makes more names agree with the network's `own`."""
    bare = {n.removeprefix("net."): t for n, t in tensors.items() if not n.startswith("normalise.")}
    # Counted, because a user's network may itself have a part called `net`.
    return bare if sum(n in own for n in bare) > sum(n in own for n in tensors) else tensors


def head_names(net: nn.Module) -> set[str]:
    """The parameter names of the last `nn.Linear` in module order; empty if there is none."""
    linear = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return set()
    name, head = linear[-1]
    return {f"{name}.{parameter}" if name else parameter for parameter, _ in head.named_parameters()}
