"""Activation checkpointing that leaves batch norm's running statistics as one pass does."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_checkpointed(module: nn.Module, x: Any, forward: Callable[..., Any] | None = None) -> Any:
    """`module(x)`, which keeps x alone for the backward pass and computes there again what else it needs.

    Output, gradients and running statistics are those of `module(x)`: the second computation does not move the
    statistics. Where no gradients are computed this is `module(x)`.

    Args:
        module: any module of one input and one output, batch norms of any kind included.
        x: its input.
        forward: (module, x) -> its output, where calling the module would lead here again; None: the call.
    """
    call = module if forward is None else functools.partial(forward, module)
    if not torch.is_grad_enabled():
        return call(x)
    passes = itertools.count()

    def run(x: Any) -> Any:
        if next(passes) == 0:
            return call(x)
        with _still_statistics(module):
            return call(x)

    return checkpoint(run, x, use_reentrant=False)


@contextlib.contextmanager
def _still_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms in training normalize as ever in here, and their running statistics do not move."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    # Copies move instead. With `track_running_stats` off fewer tensors are saved than in the first pass, which PyTorch
    # refuses
    for norm, name, buffer in before:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in before:
            setattr(norm, name, buffer)
