"""Checkpoints of the host: written in one piece, read without running code, refused where they do not fit."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from fastreid.utils import checkpoint as host_checkpoint
from torch import nn

from ..checkpoints import needed_in_evaluation
from ..files import atomic_write, remove_leftovers, write_bytes
from ..version import versions
from .overlay import wrap

logger = logging.getLogger(__name__)

#: The checkpoint of a run that was asked to stop
STOPPED = "model_stopped"


def apply() -> None:
    """Patch `Checkpointer` in place."""
    checkpointer = host_checkpoint.Checkpointer
    checkpointer.entries = {}  # what all checkpoints of a run carry
    checkpointer.save = _save
    checkpointer.tag_last_checkpoint = _tag_last_checkpoint
    checkpointer.get_checkpoint_file = _get_checkpoint_file
    wrap(checkpointer, "load", _checked_load)
    wrap(checkpointer, "_load_model", _counted_load_model)
    wrap(checkpointer, "_log_incompatible_keys", _log_what_matters)


def _save(self: Any, name: str, **kwargs: Any) -> None:
    """utils/checkpoint.py, `save`: opens the final file and writes into it: a kill leaves half a checkpoint."""
    if not self.save_dir or not self.save_to_disk:
        return
    data: dict[str, Any] = {"model": self.model.state_dict()}
    data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
    data.update({**self.entries, **kwargs}, versions=versions())
    path = os.path.join(self.save_dir, f"{name}.pth")
    os.makedirs(self.save_dir, exist_ok=True)
    remove_leftovers(self.save_dir)
    atomic_write(path, lambda file: torch.save(data, file))
    self.logger.info(f"Saved checkpoint {path}")
    self.tag_last_checkpoint(os.path.basename(path))
    if name != STOPPED:  # what comes after it replaces it
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.save_dir, f"{STOPPED}.pth"))


def _tag_last_checkpoint(self: Any, last_filename_basename: str) -> None:
    write_bytes(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename.encode())


def _get_checkpoint_file(self: Any) -> str:
    """utils/checkpoint.py: the file that `last_checkpoint` names is not checked to be there."""
    with open(os.path.join(self.save_dir, "last_checkpoint")) as file:
        path = os.path.join(self.save_dir, file.read().strip())
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{self.save_dir}/last_checkpoint names {os.path.basename(path)}, which is not there. Put the file back, "
            "write another checkpoint's name into last_checkpoint, or put all aside and begin anew (--overwrite; in a "
            "script resume=False, overwrite=True)."
        )
    return path


def _counted_load_model(original: Callable, self: Any, checkpoint: Any) -> Any:
    """utils/checkpoint.py, `_load_model`: a bare state dict, as other toolkits write it, is a KeyError.

    How much of the model a file brought is remembered, for the check in `load`.
    """
    if not isinstance(checkpoint, dict):
        raise ValueError(f"this file holds a {type(checkpoint).__name__}, not a dictionary of weights")
    if "model" not in checkpoint:
        # A bare state dict, as other toolkits write it.
        if not checkpoint or not all(isinstance(v, torch.Tensor) for v in checkpoint.values()):
            raise ValueError("this file holds no weights: neither an entry 'model' nor a plain state dict")
        checkpoint = {"model": checkpoint}
    if examine := getattr(self, "examine", None):  # a trainer that resumes
        examine(checkpoint)
    self.last_incompatible = original(self, checkpoint)
    return self.last_incompatible


def _log_what_matters(original: Callable, self: Any, incompatible: Any) -> None:
    """utils/checkpoint.py: a model that is only evaluated is told of every classifier that does not fit.

    A checkpointer without an optimizer loads a model to evaluate it.
    """
    if not self.checkpointables:
        shapes = {key: (key, *others) for key, *others in incompatible.incorrect_shapes}
        incompatible = incompatible._replace(
            missing_keys=needed_in_evaluation(self.model, incompatible.missing_keys),
            unexpected_keys=needed_in_evaluation(self.model, incompatible.unexpected_keys),
            incorrect_shapes=[shapes[key] for key in needed_in_evaluation(self.model, shapes)],
        )
    original(self, incompatible)


def _checked_load(original: Callable, self: Any, path: str, checkpointables: list[str] | None = None) -> Any:
    """utils/checkpoint.py, `load`: skips what does not fit and goes on with random weights, whatever the share."""
    self.last_incompatible = None
    if path and "://" not in path and not os.path.isfile(path):
        raise FileNotFoundError(f"no weights file '{path}' (MODEL.WEIGHTS, or the checkpoint of a run)")
    self.last_extra = original(self, path, checkpointables)  # the epoch, metrics and config that came with the weights
    if self.last_incompatible is not None:
        # The host's trainer passes [] when MODEL.WEIGHTS only starts a training: a part may be missing then.
        _check_fit(self.model, path, self.last_incompatible, partial=checkpointables == [])
    return self.last_extra


def _check_fit(model: nn.Module, path: str, incompatible: Any, partial: bool) -> None:
    unfit = needed_in_evaluation(
        model, [*incompatible.missing_keys, *(key for key, _, _ in incompatible.incorrect_shapes)]
    )
    needed = needed_in_evaluation(model, model.state_dict())
    if not unfit:
        return
    if partial and len(unfit) <= len(needed) / 2:
        logger.warning(
            f"{path} brings {len(needed) - len(unfit)} of {len(needed)} weights; the others start from their initial "
            "values"
        )
        return
    shown = ", ".join(sorted(set(unfit))[:5])
    raise ValueError(
        f"{path} holds the weights of another model: {len(set(unfit))} of {len(needed)} tensors that "
        f"{type(model).__name__} needs are missing or of another shape ({shown}, ...). Use the config that the file "
        "was trained with; checkpoints of this plugin carry it in their entry 'config'."
    )
