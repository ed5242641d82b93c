"""Networks of torchvision and timm by name. Neither is imported before a user names one of its models."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from torch import nn

from dist_dash.errors import BadInput, require
from dist_dash.models.architecture import Architecture, one_line, require_images


class Torchvision(Architecture):
    """A classification network of torchvision, freshly initialised (`init` loads weights).

    Args:
        name: Its name in torchvision, such as `efficientnet_b0`.
        kwargs: Further keyword arguments for it.

    Raises:
        BadInput: `kwargs` sets `num_classes`, which the data decides, or `weights`, which would be downloaded.
    """

    def __init__(self, name: str, kwargs: dict[str, Any] | None = None) -> None:
        self.name = name
        self.kwargs = checked_kwargs(kwargs, ("num_classes", "weights", "weights_backbone"))

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """`[n, 3, H, W]` → `[n, classes]`.

        Raises `BadInput` if torchvision cannot be imported, does not know the name or the keyword arguments, or if the
        data is not images with three channels.
        """
        require_images(self, shape)
        if shape[0] != 3:
            raise BadInput(
                f"model Torchvision needs images with 3 channels, the data has shape {list(shape)}; "
                "use ResNet or Timm, which take any number"
            )
        models = import_zoo("Torchvision", "torchvision.models")
        # Only classifiers: detection and segmentation models live in submodules.
        require_name(self.name, models.list_models(module=models))
        net = call(self.name, models.get_model, num_classes=classes, weights=None, **self.kwargs)
        if getattr(net, "aux_logits", False):
            raise BadInput(f"model.kwargs: {self.name} has auxiliary outputs; set model.kwargs.aux_logits to false")
        return net


class Timm(Architecture):
    """A network of timm (pytorch-image-models), freshly initialised (`init` loads weights).

    Args:
        name: Its name in timm, such as `vit_small_patch16_224`.
        kwargs: Further keyword arguments for it, such as `img_size` where a transformer's images are of another size.

    Raises:
        BadInput: `kwargs` sets `num_classes` or `in_chans`, which the data decides, or asks for a download.
    """

    def __init__(self, name: str, kwargs: dict[str, Any] | None = None) -> None:
        self.name = name
        # The last four name files and addresses of weights; timm unpickles some of them.
        files = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
        self.kwargs = checked_kwargs(kwargs, ("num_classes", "in_chans", "pretrained", *files))

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """`[n, C, H, W]` → `[n, classes]`.

        Raises `BadInput` if timm cannot be imported, does not know the name or the keyword arguments, or if the data is
        not images.
        """
        require_images(self, shape)
        timm = import_zoo("Timm", "timm")
        if not timm.is_model(self.name):  # also takes a name with a tag: resnet50.a1_in1k
            require_name(self.name, timm.list_models())
        return call(self.name, timm.create_model, num_classes=classes, in_chans=shape[0], **self.kwargs)


def checked_kwargs(kwargs: dict[str, Any] | None, fixed: Iterable[str]) -> dict[str, Any]:
    """A copy of `kwargs`; raises `BadInput` if it sets what is `fixed`."""
    kwargs = dict(kwargs or {})
    for key in fixed:
        allowed = f"without {key}: the data decides the size of the network, `init` its pretrained weights"
        require(key not in kwargs, "model.kwargs", kwargs, allowed)
    return kwargs


def import_zoo(model: str, package: str) -> ModuleType:
    """Import `package`; raises a one-line `BadInput` that says how to install it."""
    try:
        return importlib.import_module(package)
    except Exception as error:  # an installed torchvision without its operators ends in a RuntimeError
        name = package.partition(".")[0]
        raise BadInput(
            f"model {model} needs the package {name}, which cannot be imported ({one_line(error)}); "
            "install one that matches torch: pip install dist-dash[models]"
        ) from error


def require_name(name: str, known: list[str]) -> None:
    """Raise `BadInput`, with the nearest names, unless `name` is one of the `known`."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise BadInput(f"model.name: {name!r} is not known{hint}")


def call(name: str, make: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
    """`make(name, **arguments)`; what the library says against the arguments becomes a `BadInput`."""
    try:
        return make(name, **arguments)
    except (TypeError, ValueError) as error:
        raise BadInput(f"model.kwargs: {name} cannot be built ({one_line(error)})") from error
