"""Packages that only some uses of a model need."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: its name.
        extra: the extra of this project that installs it.
        purpose: what needs it, the first words of the message.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.partition('.')[0]}: pip install 'fastreid_parts[{extra}]' ({error})"
        ) from error
