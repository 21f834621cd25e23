"""Weights: read from a file without running what it says, and which of a model's tensors its features depend on."""

from __future__ import annotations

import argparse
import os
import re
import warnings
import zipfile
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .files import atomic_write
from .settings import Declares
from .version import versions

# Beside the tensors, numbers and containers that torch allows: a defaultdict comes back as a dict, and its factory,
# which a loaded state has no use for, is one of these. Checkpoints of self-distillation hold their command line.
_HARMLESS = [argparse.Namespace, (lambda *_factory: {}, "collections.defaultdict"), list, dict, set, int, float]

# The classifiers and queues of the host's own models, which declare nothing.
_HOST_TRAINING_ONLY = (r"heads\.weight", r"b\d+_head\.weight", r"memory\.queue", r"memory\.queue_label")


class CheckpointError(ValueError):
    """A file that cannot be read as weights, or may not be."""


def safe_load(path: str | os.PathLike, map_location: str | torch.device | None = "cpu") -> Any:
    """Read what `torch.save` wrote, if it is made of tensors, numbers, strings and plain containers.

    `collections.OrderedDict` and `Counter` (schedulers keep one) come back as such, a `defaultdict` as a dict.

    Args:
        path: the file.
        map_location: where tensors go.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is cut short, was changed or is no checkpoint, or it asks for a class that weights do
            not need, which the message names.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no weights file '{path}': check MODEL.WEIGHTS or MODEL.BACKBONE.PRETRAIN_PATH, whichever names it"
        )
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive, which is refused below
            _check_records(path)
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a broken file fails in many ways: RuntimeError, EOFError, UnicodeDecodeError ...
        reason = str(error).strip() or "nothing to read"
        if "TorchScript" in reason:
            raise CheckpointError(
                f"{path} is a TorchScript archive, a program and not weights. Save the weights alone: "
                "torch.save(torch.jit.load(path).state_dict(), path)."
            ) from None
        if wanted := re.search(r"GLOBAL ([\w.]+)", reason):
            raise CheckpointError(
                f"{path} is refused: it asks for {wanted.group(1)}, and reading it could run code of whoever wrote it. "
                "If you trust its source, load it there with torch.load(path, weights_only=False) and save the weights "
                "alone: torch.save(model.state_dict(), path)."
            ) from None
        raise CheckpointError(
            f"{path} is cut short or no checkpoint of torch.save ({type(error).__name__}: {reason.splitlines()[0]})"
        ) from error


def _check_records(path: str) -> None:
    """Compare the checksums in an archive, which torch writes and does not look at: one bit is another weight.

    Raises:
        ValueError: one does not fit.
    """
    if zipfile.is_zipfile(path):  # torch before 1.6 wrote none
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it does not match its CRC-32: it was changed after it was written")


def save_weights(model: nn.Module, path: str | os.PathLike, **entries: Any) -> None:
    """Write what a model's features depend on, without its classifiers: all that evaluates it reads such a file.

    Args:
        model: any.
        path: the file.
        **entries: what it carries beside.
    """
    state = model.state_dict()
    weights = {key: state[key] for key in needed_in_evaluation(model, state)}
    atomic_write(path, lambda file: torch.save({"model": weights, **entries, "versions": versions()}, file))


def training_only(model: nn.Module) -> list[str]:
    """List the prefixes of a model's state that its modules declare as training's alone."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, Declares)
        for name in module.training_only
    ]


def needed_in_evaluation(model: nn.Module, keys: Iterable[str]) -> list[str]:
    """List those of a model's tensors that its features depend on: no classifiers, no counters of batches.

    Args:
        model: any.
        keys: names of tensors, as in `model.state_dict()`.
    """
    prefixes = [*map(re.escape, training_only(model)), *_HOST_TRAINING_ONLY]
    pattern = re.compile(rf"(?:{'|'.join(prefixes)})(?:\.|$)")
    return [key for key in keys if not pattern.match(key) and not key.endswith("num_batches_tracked")]
