"""Reading weights without running what the file says: a pickle may build tensors and containers, and nothing else."""

from __future__ import annotations

import codecs
import collections
import contextlib
import os
import pickle
import re
import types
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import _weights_only_unpickler

__all__ = ["CheckpointError", "safe_load"]

# torch 2.5 and newer read a whole training checkpoint with weights_only=True and can be told more harmless classes.
# Older ones cannot: the reader of 1.13 does not even know floating-point numbers.
_TORCH_READS_SAFELY = hasattr(torch.serialization, "safe_globals")


class CheckpointError(ValueError):
    """A file that cannot be read as weights, or may not be."""


def safe_load(path: str | os.PathLike, map_location: str | torch.device | None = "cpu") -> Any:
    """What `torch.save` wrote, if it is made of tensors, numbers, strings and plain containers.

    `collections.OrderedDict` and `Counter` (schedulers keep one) come back as such, a `defaultdict` as a dict.

    Args:
        path: the file.
        map_location: where tensors go.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is cut short or is no checkpoint, or it asks for a class that weights do not need,
            which the message names.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no weights file '{path}': check MODEL.WEIGHTS or MODEL.BACKBONE.PRETRAIN_PATH, whichever names it"
        )
    _refuse_torchscript(path)
    try:
        with _harmless_allowed():
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a broken file fails in many ways: RuntimeError, EOFError, UnicodeDecodeError ...
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise CheckpointError(
                f"{path} is refused: it asks for {wanted.group(1)}, and reading it could run code of whoever wrote it. "
                "If you trust its source, load it there with torch.load(path, weights_only=False) and save the weights "
                "alone: torch.save(model.state_dict(), path)."
            ) from None
        reason = (str(error).strip() or "nothing to read").splitlines()[0]
        raise CheckpointError(
            f"{path} is cut short or no checkpoint of torch.save ({type(error).__name__}: {reason})"
        ) from error


@contextlib.contextmanager
def _harmless_allowed() -> Iterator[None]:
    """Let weights_only=True read all of a training checkpoint."""
    if _TORCH_READS_SAFELY:
        with torch.serialization.safe_globals(_HARMLESS):
            yield
        return
    reader = torch.serialization._weights_only_unpickler
    torch.serialization._weights_only_unpickler = _SAFE_READER
    try:
        yield
    finally:
        torch.serialization._weights_only_unpickler = reader


def _refuse_torchscript(path: str) -> None:
    """Older versions of torch hand such an archive on to torch.jit.load, whatever they were asked for."""
    with contextlib.suppress(zipfile.BadZipFile, OSError):
        with zipfile.ZipFile(path) as archive:
            script = any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
        if script:
            raise CheckpointError(
                f"{path} is a TorchScript archive, a program and not weights. Save the weights alone: "
                "torch.save(torch.jit.load(path).state_dict(), path)."
            )


def _as_dict(*_factory: Any) -> dict[Any, Any]:
    """In the place of `collections.defaultdict`, whose factory a loaded state has no use for."""
    return {}


_as_dict.__module__, _as_dict.__qualname__ = "collections", "defaultdict"  # torch looks a name up by these

# Containers, and what a pickle builds bytes and devices with
_HARMLESS = [
    _as_dict,
    collections.Counter,
    collections.OrderedDict,
    list,
    dict,
    set,
    int,
    float,
    codecs.encode,
    torch.device,
]


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _SafeUnpickler(_PythonUnpickler):
    """The reader behind weights_only=True for a torch whose own cannot: known names only, state only for tensors.

    It is Python's own unpickler in Python, because the one in C gives no say in how an object's state is set.
    """

    dispatch = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{'builtins' if module == '__builtin__' else module}.{name}"
        known = _weights_only_unpickler._get_allowed_globals()
        if full_name in known:
            return known[full_name]
        for harmless in _HARMLESS:
            if full_name == f"{harmless.__module__}.{harmless.__qualname__}":
                return harmless
        raise pickle.UnpicklingError(f"GLOBAL {full_name}")

    def load_build(self) -> None:
        built = self.stack[-2]
        if type(built) not in (torch.Tensor, torch.nn.Parameter, collections.OrderedDict):
            raise pickle.UnpicklingError(f"GLOBAL {type(built).__module__}.{type(built).__qualname__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _load(file: Any, **kwargs: Any) -> Any:
    return _SafeUnpickler(file, **kwargs).load()


_SAFE_READER = types.SimpleNamespace(Unpickler=_SafeUnpickler, load=_load)
