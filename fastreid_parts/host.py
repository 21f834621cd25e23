"""What fast-reid holds under private names. Beside `compat`, which patches it, no other module knows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.data import build as data_build
from fastreid.data.datasets.bases import Dataset
from fastreid.solver import build as solver_build
from fastreid.utils import comm, events
from fastreid.utils.registry import Registry


def current_storage() -> events.EventStorage | None:
    """Return what the trainer logs to, None outside of one."""
    return events.get_event_storage() if events._CURRENT_STORAGE_STACK else None


#: Logged in a compiled pass, which cannot wait for a value
_deferred: dict[str, torch.Tensor] = {}


def log_scalar(name: str, value: torch.Tensor) -> None:
    """Log one number of the present iteration; a model that is called outside of a trainer has nowhere to log to.

    In a compiled pass it is kept for `write_deferred`.

    Args:
        name: in the log.
        value: a scalar.
    """
    if torch.compiler.is_compiling():
        _deferred[name] = value.detach()
    elif (storage := current_storage()) is not None:
        storage.put_scalar(name, value)


def write_deferred() -> None:
    """Log what a compiled pass kept."""
    kept = dict(_deferred)
    _deferred.clear()
    for name, value in kept.items():
        log_scalar(name, value)


def datasets_root() -> str:
    """Return the folder that holds the datasets: the environment's FASTREID_DATASETS, or `datasets`."""
    return data_build._root


def gradient_clipper(cfg: CfgNode) -> Callable[[torch.Tensor], Any]:
    """Make the function that clips a parameter's gradient in place as SOLVER.CLIP_GRADIENTS says."""
    return solver_build._create_gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS)


def junk_identities(dataset: Dataset) -> list[int]:
    """Return the numbers of a dataset that stand for no person: distractors, false detections."""
    return dataset._junk_pids


def registered_names(registry: Registry) -> list[str]:
    """List what a registry holds, in alphabetical order."""
    return sorted(registry._obj_map)


def register_as(registry: Registry, name: str, entry: Any) -> None:
    """Register something under a name that it does not have itself.

    Args:
        registry: the registry.
        name: to register under.
        entry: what is registered.
    """
    registry._do_register(name, entry)


def seed_sampler(sampler: Any, seed: int) -> None:
    """Set the seed that the next iteration of `sampler`, one of the host's, starts from.

    Args:
        sampler: it keeps the seed.
        seed: any whole number from 0.
    """
    sampler._seed = seed


def set_local_group(group: Any) -> None:
    """Tell fast-reid which processes share this machine; what it remembered of another job is forgotten."""
    comm._LOCAL_PROCESS_GROUP = group
    comm._get_global_gloo_group.cache_clear()
