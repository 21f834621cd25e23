"""Import fast-reid 1.4.0 where its own import statements no longer work.

Two of its modules ask for names that newer stacks dropped. They are lent only while fast-reid is imported and
taken away afterwards, so that no other library mistakes this interpreter for an old one.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator

INSTALL_COMMAND = "pip install --no-deps fastreid==1.4.0"

# Every host module that binds a name which a later patch replaces, or that needs a lent name to import.
_HOST_MODULES = (
    "fastreid.config",
    "fastreid.data",
    "fastreid.evaluation",
    "fastreid.evaluation.rank",
    "fastreid.evaluation.roc",
    "fastreid.modeling",
    "fastreid.solver.optim",
    "fastreid.engine",
    "fastreid.utils.checkpoint",
)


@contextlib.contextmanager
def _lent_names() -> Iterator[None]:
    """data/build.py, evaluation/testing.py: `torch._six` is gone in torch 2, `collections.Mapping` in Python 3.10.

    Both are lent while the host is imported.
    """
    six = types.ModuleType("torch._six")
    six.string_classes = (str, bytes)  # type: ignore[attr-defined]
    sys.modules["torch._six"] = six
    collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del sys.modules["torch._six"], collections.Mapping  # type: ignore[attr-defined]


def import_host() -> None:
    """Import every fast-reid module that the plugin touches.

    Raises:
        ImportError: fast-reid is not installed; the message is the command that installs it.
    """
    if importlib.util.find_spec("fastreid") is None:
        raise ImportError(
            "fastreid_parts is a plugin for fast-reid, which is not installed here. Install it with\n"
            f"    {INSTALL_COMMAND}\n"
            "(--no-deps, because its own pins hold torch at 1.13.1), or put a checkout of it on PYTHONPATH."
        )
    with _lent_names(), warnings.catch_warnings():
        # The host warns on import that its Cython ranking is not compiled, and its sources hold invalid escapes.
        warnings.filterwarnings("ignore", message="Cython .* evaluation")
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        for name in _HOST_MODULES:
            importlib.import_module(name)
