"""A network of the user's own, named `module:callable`."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from functools import reduce
from typing import Any

from torch import nn

from dist_dash.errors import BadInput, require
from dist_dash.files import find_modules_here, how_to_find
from dist_dash.models.architecture import Architecture, one_line


class Custom(Architecture):
    """A network of your own: `target` is called as `callable(shape=…, classes=…, **kwargs)` and returns an nn.Module.

    The module is looked for where Python looks, then in the current folder. An exception raised inside your callable is
    not caught, so that you see its traceback.

    Args:
        target: Where the callable is, as `package.module:name`.
        kwargs: Further keyword arguments for it.

    Raises:
        BadInput: `target` is not of that form, or `kwargs` sets `shape` or `classes`, which the data decides.
    """

    def __init__(self, target: str, kwargs: dict[str, Any] | None = None) -> None:
        module, _, name = target.partition(":")
        named = all(part.isidentifier() for part in [*module.split("."), *name.split(".")])
        require(named, "model.target", target, "of the form package.module:callable")
        self.target = target
        self.kwargs = dict(kwargs or {})
        for fixed in ("shape", "classes"):
            require(fixed not in self.kwargs, "model.kwargs", self.kwargs, f"without {fixed}, which the data decides")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Call the target; its network maps `[n, *shape]` → `[n, classes]`.

        Raises `BadInput` if the target cannot be found or imported, does not take these arguments, or returns
        something other than an nn.Module.
        """
        make = self._find()
        arguments = {"shape": tuple(shape), "classes": classes, **self.kwargs}
        try:
            if (signature := _signature(make)) is not None:
                signature.bind(**arguments)
        except TypeError as error:
            raise BadInput(
                f"model.target: {self.target} cannot be called with the arguments {', '.join(arguments)}: {error}"
            ) from error
        net = make(**arguments)
        if not isinstance(net, nn.Module):
            returned = type(net).__name__
            raise BadInput(f"model.target: {self.target} must return a torch.nn.Module, it returned {returned}")
        return net

    def _find(self) -> Callable[..., Any]:
        path, _, name = self.target.partition(":")
        find_modules_here()
        try:
            module = importlib.import_module(path)
        except (ImportError, SyntaxError) as error:
            why = f"{one_line(error)}{how_to_find(path, error)}"
            raise BadInput(f"model.target: {path!r} cannot be imported ({why})") from error
        try:
            found = reduce(getattr, name.split("."), module)
        except AttributeError as error:
            close = difflib.get_close_matches(name, dir(module), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BadInput(f"model.target: {path!r} has no {name!r}{hint}") from error
        if not callable(found):
            raise BadInput(f"model.target: {self.target} is a {type(found).__name__}, not something to call")
        return found


def _signature(make: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(make)
    except ValueError:
        return None  # a callable written in C may have none to check
