"""Import fast-reid 1.4.0 where its own import statements no longer work, or where they cost what few programs need.

Two of its modules ask for names that newer stacks dropped. They are lent only while fast-reid is imported and
taken away afterwards, so that no other library mistakes this interpreter for an old one. Two import scikit-learn,
SciPy's statistics and matplotlib for their ROC curves and drawings: a third of the time of the whole import. They are
lent `Deferred` ones. So is torchvision the function for which it imports torch's compiler, a third of what is left.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import importlib
import importlib.machinery
import importlib.util
import pkgutil
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

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
    "fastreid.utils.visualizer",
)


class Deferred:
    """Stand in for a module, or for something of one, that is imported when something of it is asked for.

    Args:
        name: as `pkgutil.resolve_name` takes it, `package.module` or `package.module:name`.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked by whoever copies it or looks through a module
            raise AttributeError(name)
        return getattr(pkgutil.resolve_name(self._name), name)

    def __call__(self, *args: Any) -> Any:
        return pkgutil.resolve_name(self._name)(*args)


class _LentModule(types.ModuleType):
    """Names of a module that stands in for another; who asks for more than these has the other one imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # asked by whoever looks through all modules
            raise AttributeError(name)
        for lent in [key for key, module in sys.modules.items() if isinstance(module, _LentModule)]:
            del sys.modules[lent]
        return getattr(importlib.import_module(self.__name__), name)


def _module(name: str, **names: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(names, __spec__=importlib.machinery.ModuleSpec(name, None))
    return module


# What evaluation/reid_evaluation.py and utils/visualizer.py import at their top -> what they are lent: where the first
# one of each row is imported already, nothing
_pyplot = Deferred("matplotlib.pyplot")
_DEFERRED: tuple[dict[str, Any], ...] = (
    {"sklearn": _module("sklearn", metrics=Deferred("sklearn.metrics"))},
    {"scipy.stats": _module("scipy.stats", norm=Deferred("scipy.stats:norm"))},
    {"matplotlib.pyplot": _pyplot, "matplotlib": _module("matplotlib", pyplot=_pyplot)},
)
# Likewise what torchvision/ops/roi_align.py imports; another version may ask for other names
_COMPILER = {name: _LentModule(name) for name in ("torch._dynamo", "torch._dynamo.utils")}
vars(_COMPILER["torch._dynamo.utils"]).update(
    is_compile_supported=Deferred("torch._dynamo.utils:is_compile_supported"),
    __path__=[],  # which the import statement asks every module for
)


@contextlib.contextmanager
def _lent_names() -> Iterator[None]:
    """data/build.py, evaluation/testing.py: `torch._six` is gone in torch 2, `collections.Mapping` in Python 3.10.

    Both are lent while the host is imported.
    """
    collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]
    try:
        with _lent_modules({"torch._six": _module("torch._six", string_classes=(str, bytes))}):
            yield
    finally:
        del collections.Mapping  # type: ignore[attr-defined]


@contextlib.contextmanager
def _lent_modules(modules: dict[str, Any]) -> Iterator[None]:
    """Have `import` find these; afterwards it finds what it did before."""
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        sys.modules.update(before)


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
        importlib.import_module("torch")  # looks for packages that are installed
        with _lent_modules({} if "torch._dynamo" in sys.modules else _COMPILER):
            importlib.import_module("torchvision")
        importlib.import_module("fastreid.modeling")
        deferred = [row for row in _DEFERRED if next(iter(row)) not in sys.modules]
        with _lent_modules({name: module for row in deferred for name, module in row.items()}):
            for name in _HOST_MODULES:
                importlib.import_module(name)
