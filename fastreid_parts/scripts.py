"""Run a script of fast-reid's with the plugin loaded, in this process and in those that the script starts."""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types
from typing import Any

from . import compat

_SCRIPT = "FASTREID_PARTS_SCRIPT"


def run_script(path: str, arguments: list[str]) -> dict[str, Any]:
    """Run `path` as the main script.

    Processes that are spawned from it (several GPUs, loader workers) import the main script first, before anything of
    the plugin's. They are led to `fastreid_parts._spawned_main` instead, which loads the plugin and then the script.

    Args:
        path: the script.
        arguments: its command line.

    Returns:
        The script's names, after it ran to its end.
    """
    path = os.path.abspath(path)
    os.environ[_SCRIPT] = path
    compat.lend_script_names()
    sys.argv = [path] + list(arguments)
    sys.path.insert(0, os.path.dirname(path))
    main = types.ModuleType("__main__")
    main.__file__ = path
    main.__spec__ = importlib.machinery.ModuleSpec("fastreid_parts._spawned_main", loader=None)
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    return _execute(path, main.__dict__)


def run_in_spawned_process(namespace: dict[str, Any]) -> None:
    """Give a spawned process the names of the main script, so that what was pickled by name is found.

    Args:
        namespace: of the module that stands for the main script; filled in place.
    """
    path = os.environ[_SCRIPT]
    compat.lend_script_names()
    if os.path.dirname(path) not in sys.path:
        sys.path.insert(0, os.path.dirname(path))
    namespace["__file__"] = path
    _execute(path, namespace)


def _execute(path: str, namespace: dict[str, Any]) -> dict[str, Any]:
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    exec(code, namespace)
    return namespace
