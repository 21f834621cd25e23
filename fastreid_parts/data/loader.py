"""A data loader that needs no GPU, and uses one where there is one."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.utils import comm
from torch.utils.data import DataLoader

from ..cpus import usable_cpus

logger = logging.getLogger(__name__)


def loader_workers(cfg: CfgNode) -> int:
    """Take DATALOADER.NUM_WORKERS, but no more than the processors that each process of this machine may use."""
    asked, usable = cfg.DATALOADER.NUM_WORKERS, max(1, usable_cpus() // comm.get_local_size())
    if asked > usable:
        _tell(asked, usable)
    return min(asked, usable)


@functools.cache
def _tell(asked: int, usable: int) -> None:
    logger.info(f"DATALOADER.NUM_WORKERS is {asked}; a process may use {usable} of the processors: {usable} workers")


class DeviceLoader(DataLoader):
    """`torch.utils.data.DataLoader` whose batches are on the GPU of this process, if it has one.

    It takes what the host's `DataLoaderX` takes. On a machine without CUDA it is a plain loader: no stream, no
    pinned memory, and so none of PyTorch's warnings about it. With CUDA, a batch is copied from pinned memory
    without blocking, in the order of the work queued on the device.

    Args:
        local_rank: number of the process on its machine, which is the number of its GPU.
        **kwargs: as for `torch.utils.data.DataLoader`.
    """

    def __init__(self, local_rank: int, **kwargs: Any) -> None:
        self.local_rank = local_rank
        kwargs["pin_memory"] = bool(kwargs.get("pin_memory")) and torch.cuda.is_available()
        super().__init__(**kwargs)

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()
        return self._on_gpu(batches) if torch.cuda.is_available() else batches

    def _on_gpu(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        device = torch.device("cuda", self.local_rank)
        for batch in batches:
            yield {
                key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()
            }

    def shutdown(self) -> None:
        """Does nothing: the host's loader stops its background thread here, and this one has none."""
