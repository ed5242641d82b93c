"""What every model config promises: arguments checked when it is made, the network made by `build`."""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod

from torch import nn

from dist_dash.errors import BadInput


class Architecture(ABC):
    """Base class of the model configs: cheap to construct, `build` makes the network.

    The constructor arguments of a subclass are its configuration (`--model ResNet --model.depth 50`); they are
    range-checked there, so that a wrong recipe ends before any data is read.
    """

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Make a freshly initialised network for samples of `shape` ([C, H, W] or [F]) and `classes` classes.

        The network maps floats `[n, *shape]` to logits `[n, classes]`. The initialisation draws from torch's global
        generator, which the caller seeds: equal seeds give equal networks. Raises `BadInput` where the data's shape
        does not suit the architecture.
        """

    def head_of(self, name: str) -> int | None:
        """The head that a parameter of the network belongs to; None where all heads share it: part of the trunk."""
        return None


def require_images(model: Architecture, shape: tuple[int, ...]) -> None:
    """Raise `BadInput` unless `shape` is that of an image, [C, H, W]."""
    if len(shape) != 3 or min(shape) < 1:
        name = type(model).__name__
        raise BadInput(f"model {name} needs images [C, H, W], the data has shape {list(shape)}; use MLP")


def one_line(error: BaseException) -> str:
    """The type and message of `error`, on one line of bounded length, to be quoted in a `BadInput`."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 240, placeholder=' …')}"
