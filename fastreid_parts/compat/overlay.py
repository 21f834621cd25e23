"""Ways to replace a name of the host: for one module that looks it up, or wherever it is bound, or to wrap it there."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


class Overlay(types.ModuleType):
    """Stands in for a module (or a config object): some names are replaced, every other one is looked up in it live.

    The host writes `torch.load(...)`; giving one host module an overlay of torch changes what that module loads
    with, and nothing for anyone else. It is a module type, so tracers that look names up in modules accept it.

    Args:
        base: what to stand in for.
        **names: the replacements.
    """

    def __init__(self, base: Any, **names: Any) -> None:
        super().__init__(getattr(base, "__name__", type(base).__name__), base.__doc__)
        self.__dict__.update(names, overlaid=base)

    def __getattr__(self, name: str) -> Any:
        # Python asks here only for what the overlay does not hold itself.
        if name == "overlaid":  # not set yet: an overlay that is being unpickled or copied
            raise AttributeError(name)
        return getattr(self.overlaid, name)


def replace(owner: Any, name: str, replacement: Any) -> None:
    """Put `replacement` in the place of `owner.name`; its `__wrapped__` is what stood there.

    For a module's global, every loaded module that holds the same object under the same name gets the replacement
    too: a script that wrote `from fastreid.data.data_utils import read_image` before it imported the plugin has a
    binding of its own, which replacing the host's alone would miss.

    Args:
        owner: a module or a class of the host.
        name: the attribute; it must be there, a class's own or inherited.
        replacement: a function or class to bind in its place.
    """
    original = inspect.getattr_static(owner, name)
    # Of a classmethod, the function below it: it holds attributes, and `inspect` follows it on every Python
    getattr(replacement, "__func__", replacement).__wrapped__ = getattr(original, "__func__", original)
    setattr(owner, name, replacement)
    if isinstance(owner, types.ModuleType):
        for module in list(sys.modules.values()):
            namespace = getattr(module, "__dict__", None)
            if isinstance(namespace, dict) and namespace.get(name) is original:
                namespace[name] = replacement


def wrap(owner: Any, name: str, wrapper: Callable) -> None:
    """Put `wrapper` around `owner.name`, as `replace` does: it is given what stood there, then what a call is given.

    Args:
        owner: a module or a class of the host.
        name: the attribute; it must be there, a class's own or inherited.
        wrapper: (original, *arguments) -> result. For a class method it is given the class as well.
    """
    bound = inspect.getattr_static(owner, name)
    original = getattr(bound, "__func__", bound)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    replace(owner, name, wrapped if bound is original else type(bound)(wrapped))
