"""A data loader that needs no GPU and uses one where there is one, and that says at which image a worker was lost."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.utils import comm
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..cpus import usable_cpus
from ..seeding import kept_generators, seed_generators

logger = logging.getLogger(__name__)

_LOOK_EVERY = 2.0  # seconds; how soon it shows that a worker died
_DYING = 2.0  # seconds; from a connection that broke to the end of the process that broke it


def loader_workers(cfg: CfgNode) -> int:
    """Take DATALOADER.NUM_WORKERS, but no more than the processors that each process of this machine may use."""
    # Processes that extract have no process group, and torchrun says how many they are
    processes = max(comm.get_local_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    asked, usable = cfg.DATALOADER.NUM_WORKERS, max(1, usable_cpus() // processes)
    if asked > usable:
        _tell(asked, usable)
    return min(asked, usable)


@functools.cache
def _tell(asked: int, usable: int) -> None:
    logger.info(f"DATALOADER.NUM_WORKERS is {asked}; a process may use {usable} of the processors: {usable} workers")


class LoaderError(OSError):
    """A process that reads images died, or has given nothing for too long."""


class Batch(list):
    """The indices of a batch and the seed that its images are read with, whichever process reads them.

    Args:
        indices: of the images.
        seed: of their augmentation.
    """

    def __init__(self, indices: Sequence[int] = (), seed: int | None = None) -> None:
        super().__init__(indices)
        self.seed = seed


def read_batch(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Read the items of a batch in order; a dataset's `__getitems__`, which torch calls in its workers too.

    Args:
        dataset: of items; a `DeviceLoader` told it where workers note what they read.
        indices: of the items; a `Batch` has a seed.
    """
    worker = get_worker_info()
    notes = None if worker is None else getattr(dataset, "being_read", None)
    seed = getattr(indices, "seed", None)
    # Without a seed of its own a batch draws on from the last one, and would draw the same again from kept generators
    with kept_generators() if worker is None and seed is not None else contextlib.nullcontext():
        if seed is not None:
            seed_generators(seed)
        items = []
        for index in indices:
            if notes is not None:
                notes[worker.id, 0], notes[worker.id, 1] = os.getpid(), int(index)
            items.append(dataset[index])
        if notes is not None:
            notes[worker.id, 1] = -1
        return items


class _Watched(_MultiProcessingDataLoaderIter):
    """torch's iterator, which with a timeout looks for dead workers only when that is over."""

    _allowed = 0.0

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader)
        self._allowed, self._timeout = loader.timeout, 0  # then torch asks again and again, and looks each time

    def _get_data(self) -> Any:
        self._until = time.monotonic() + self._allowed
        return super()._get_data()

    def _try_get_data(self, timeout: float = _LOOK_EVERY) -> tuple[bool, Any]:
        left = self._until - time.monotonic() if self._allowed else timeout
        found = super()._try_get_data(min(timeout, max(left, 0.0)))
        if self._allowed and not found[0] and time.monotonic() >= self._until:
            raise RuntimeError(f"DataLoader timed out after {self._allowed} seconds")
        return found


class DeviceLoader(DataLoader):
    """`torch.utils.data.DataLoader` whose batches are on the GPU of this process, if it has one.

    It takes what the host's `DataLoaderX` takes. For another device, and on a machine without CUDA, it is a plain
    loader: no stream, no pinned memory, and so none of PyTorch's warnings about it. With CUDA, a batch is copied from
    pinned memory without blocking, in the order of the work queued on the device.

    Args:
        local_rank: number of the process on its machine, which is the number of its GPU unless `device` has one.
        device: of the model; batches for another device than a GPU stay where they are. None: the process's GPU.
        **kwargs: as for `torch.utils.data.DataLoader`.
    """

    def __init__(self, local_rank: int, device: torch.device | None = None, **kwargs: Any) -> None:
        self.local_rank = local_rank if device is None or device.index is None else device.index
        self.uses_gpu = torch.cuda.is_available() and (device is None or device.type == "cuda")
        self.notes: torch.Tensor | None = None
        kwargs["pin_memory"] = bool(kwargs.get("pin_memory")) and self.uses_gpu
        if kwargs.get("num_workers"):
            kwargs.setdefault("worker_init_fn", _leave_signals_to_the_parent)
            self.notes = torch.full((kwargs["num_workers"], 2), -1).share_memory_()
        else:
            kwargs["timeout"] = 0  # nobody to wait for
        super().__init__(**kwargs)

    def __iter__(self) -> Iterator[Any]:
        # torch raises from a signal handler, anywhere in a training step, when a worker dies. Without the handler it
        # raises when the next batch is asked for and none comes.
        has_signal = hasattr(signal, "SIGCHLD")  # Windows has not, and torch sets no handler there
        handler = (signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL) if has_signal else None
        with contextlib.suppress(AttributeError):  # a dataset without a place for it
            # Now, as workers start with what the dataset has: another loader of it has notes of its own
            self.dataset.being_read = self.notes
        batches = super().__iter__()
        if has_signal and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        return self._checked(batches)

    def _get_iterator(self) -> Any:
        return _Watched(self) if self.num_workers else super()._get_iterator()

    def _checked(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        device = torch.device("cuda", self.local_rank) if self.uses_gpu else None
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, EOFError, ConnectionError) as error:
                raise self._named(error, getattr(batches, "_workers", ())) from error
            if device is not None:
                batch = {
                    key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                    for key, value in batch.items()
                }
            yield batch

    def _named(self, error: Exception, workers: Sequence[Any]) -> Exception:
        """Name the images at which workers were lost."""
        text = str(error)
        dead: list[int] = []
        if text.startswith("DataLoader worker (pid"):
            dead = [int(pid) for pid in re.findall(r"\d+", text)]
        elif not text.startswith("DataLoader timed out"):
            # What a worker had read is lost with it, and whoever takes that, torch's thread too, finds nobody
            if not isinstance(error, (EOFError, ConnectionError)) and "Pin memory thread exited" not in text:
                return error
            gone = wait([worker.sentinel for worker in workers], _DYING) if workers else []
            dead = [worker.pid for worker in workers if worker.sentinel in gone]
            if not dead:
                return error
        notes = [] if self.notes is None else self.notes.tolist()
        at = [index for pid, index in notes if index >= 0 and (pid in dead or not dead)]
        items = getattr(self.dataset, "img_items", None)
        images = ", ".join(str(items[i][0]) if items else f"item {i}" for i in at) or "an image that is not known"
        if not dead:
            return LoaderError(
                f"no batch for {self.timeout:g} s (DATALOADER.TIMEOUT): a worker still reads {images}. Look at that "
                "file and at the disk that it is on, or wait longer."
            )
        return LoaderError(
            f"a worker (process {', '.join(map(str, dead))}) died while it read {images}. Out of memory, or of shared "
            "memory (docker: --shm-size), ask for fewer DATALOADER.NUM_WORKERS; a file that crashes its decoder shows "
            "with DATALOADER.NUM_WORKERS 0."
        )

    def shutdown(self) -> None:
        """Does nothing: the host's loader stops its background thread here, and this one has none."""


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent finishes its iteration and then stops its workers.

    So does SIGTERM of torchrun, which it sends to the group of each process that it started. A worker cannot ignore
    that, as its parent may end it so, and has a group of its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
