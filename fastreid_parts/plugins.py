"""A user's own modules, imported for what they register: methods, heads, losses, datasets, augmentations."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

#: Entry points of this group name modules that every command imports.
GROUP = "fastreid_parts.plugins"
# Their names, for the processes that a command starts: a spawned one begins with empty registries
_VARIABLE = "FASTREID_PARTS_IMPORT"


def load(names: Sequence[str]) -> None:
    """Import the modules of `--import` and those that installed packages name as entry points.

    Args:
        names: modules, which may lie in the working directory.

    Raises:
        ImportError: one of them fails; the message names it.
    """
    if os.getcwd() not in sys.path:  # a console script does not look there
        sys.path.append(os.getcwd())
    modules = [*(point.module for point in entry_points(group=GROUP)), *names]
    _import(modules)
    os.environ[_VARIABLE] = " ".join(dict.fromkeys([*os.environ.get(_VARIABLE, "").split(), *modules]))


def import_named() -> None:
    """Import the modules that the environment's FASTREID_PARTS_IMPORT names.

    Raises:
        ImportError: one of them fails; the message names it.
    """
    _import(os.environ.get(_VARIABLE, "").split())


def _import(names: Sequence[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a syntax error in it, or a name that is registered already
            raise ImportError(f"the plugin '{name}' cannot be imported: {type(error).__name__}: {error}") from error
