"""The classes that recipes name: this project's own by their bare name, others by their path."""

from __future__ import annotations

import importlib
import inspect

import torch

from dist_dash.data import Source
from dist_dash.files import find_modules_here, how_to_find
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import Engine, Torch
from dist_dash.methods import Method
from dist_dash.models import Architecture
from dist_dash.runs.choices import OURS, bare
from dist_dash.sparsity import Sparsity
from dist_dash.trajectories import schedules
from dist_dash.trajectories.trajectory import Trajectory

IMPORTED = (DeepSpeed, Torch, schedules)  # so that their names are known
BASES = (Source, Architecture, Engine, Method, Trajectory, Sparsity)


def known(base: type) -> dict[str, type]:
    """This project's classes of a kind by name; the optimizers are those of torch."""
    if base is torch.optim.Optimizer:
        return {name: cls for name, cls in vars(torch.optim).items() if inspect.isclass(cls) and issubclass(cls, base)}
    return {
        cls.__name__: cls
        for cls in _below(base)
        if OURS.fullmatch(f"{cls.__module__}.{cls.__name__}") and not inspect.isabstract(cls)
    }


def class_named(base: type, path: str) -> type:
    """The class that a recipe means.

    Args:
        base: what it must be.
        path: a bare name, or a path that may be imported.

    Raises:
        LookupError: what is wrong with the path, in words that follow it.
    """
    name = bare(path)
    if name in known(base):
        return known(base)[name]
    module, _, attribute = path.rpartition(".")
    find_modules_here()
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        if "." not in path:
            raise LookupError("is not allowed") from error
        raise LookupError(f"cannot be imported ({error}{how_to_find(module, error)})") from error
    if not (isinstance(found, type) and issubclass(found, base)) or inspect.isabstract(found):
        raise LookupError(f"is no {base.__name__}")
    return found


def _below(base: type) -> list[type]:
    direct: list[type] = base.__subclasses__()
    return [cls for sub in direct for cls in [sub, *_below(sub)]]
