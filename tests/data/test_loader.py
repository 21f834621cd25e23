"""The loader: batches of their own seed whoever reads them, and a worker that is lost is reported with its image."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.data.common import CommDataset
from fastreid.data.samplers import TrainingSampler

from fastreid_parts.data.build import EpochBatchSampler
from fastreid_parts.data.loader import Batch, DeviceLoader, LoaderError, read_batch


class Drawn(CommDataset):
    """Items that are random numbers of all three generators."""

    def __init__(self, count: int = 12) -> None:
        super().__init__([(f"/images/{i}.jpg", f"x_{i}", "c") for i in range(count)])

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return int(index), random.random(), np.random.rand(), torch.rand(()).item()


def loader(dataset: Any, workers: int, batches: Any, **options: Any) -> DeviceLoader:
    options["collate_fn"] = lambda items: {"items": items}
    return DeviceLoader(0, dataset=dataset, num_workers=workers, batch_sampler=batches, **options)


def epoch(workers: int, start: int = 0) -> list[Any]:
    sampler = EpochBatchSampler(TrainingSampler(12, seed=0), batch_size=3)
    sampler.num_batches = 4
    sampler.set_epoch(5, 1, start)
    return [batch["items"] for batch in loader(Drawn(), workers, sampler)]


def test_a_batch_is_the_same_whoever_reads_it_and_whatever_came_before() -> None:
    alone = epoch(0)
    assert len({item[1] for batch in alone for item in batch}) == 12
    assert epoch(2) == alone
    assert epoch(0, start=3) == alone[3:] and epoch(2, start=1) == alone[1:]


def test_reading_in_the_process_itself_leaves_its_generators_alone() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    read_batch(Drawn(), Batch([0, 1], seed=3))
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_batches_without_a_seed_draw_one_after_the_other() -> None:
    """fast-reid's own trainer sets no epoch: without workers every batch would be augmented alike."""
    sampler = EpochBatchSampler(TrainingSampler(12, seed=0), batch_size=3)
    sampler.num_batches = 4
    read = [item for batch in loader(Drawn(), 0, sampler) for item in batch["items"]]
    for draws in list(zip(*read))[1:]:
        assert len(set(draws)) == 12


class Lost(Drawn):
    """The worker that reads image 4 is killed, or hangs."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def __getitem__(self, index: int) -> Any:
        if index == 4:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(30)
        return super().__getitem__(index)


class Tensors(CommDataset):
    """Items whose memory a worker shares, which its parent gets from it by a connection."""

    def __init__(self) -> None:
        super().__init__([(f"/images/{i}.jpg", f"x_{i}", "c") for i in range(12)])

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1000,), float(index))


BATCHES = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_worker_that_dies_is_reported_with_its_image() -> None:
    """pytorch/pytorch#8976, facebookresearch/maskrcnn-benchmark#195: `is killed by signal`, and at which image?"""
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(LoaderError, match=r"died while it read /images/4.jpg\. .*NUM_WORKERS"):
        list(loader(Lost("killed"), 1, BATCHES))
    assert signal.getsignal(signal.SIGCHLD) == before  # nothing is raised within a training step


def test_a_worker_that_dies_is_noticed_long_before_the_timeout() -> None:
    """torch with a timeout looks for its workers when that is over: ten minutes, by DATALOADER.TIMEOUT's default."""
    start = time.monotonic()
    with pytest.raises(LoaderError, match="died while it read /images/4.jpg"):
        list(loader(Lost("killed"), 1, BATCHES, timeout=40))
    assert time.monotonic() - start < 20


def test_a_worker_that_is_just_dying_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection breaks a moment before it is gone: torch sees all workers alive and a bare error."""
    batches = iter(loader(Tensors(), 1, [[i] for i in range(8)], prefetch_factor=6))
    next(batches)
    (worker,) = multiprocessing.active_children()
    time.sleep(1)  # it reads ahead
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    monkeypatch.setattr(type(worker), "is_alive", lambda self: True)
    with pytest.raises(LoaderError, match=f"process {worker.pid}\\) died"):
        list(batches)


def test_a_system_without_the_signal_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no SIGCHLD."""
    without = {name: value for name, value in vars(signal).items() if name != "SIGCHLD"}
    monkeypatch.setattr("fastreid_parts.data.loader.signal", SimpleNamespace(**without))
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._set_SIGCHLD_handler", lambda: None)
    assert len(list(loader(Drawn(), 1, BATCHES))) == 3


def test_a_worker_that_hangs_is_reported_with_its_image() -> None:
    with pytest.raises(LoaderError, match=r"no batch for 2 s \(DATALOADER.TIMEOUT\): .* /images/4.jpg"):
        list(loader(Lost("hangs"), 2, BATCHES, timeout=2))


ASKED = """
import os, signal
from fastreid_parts.engine.stopping import stop_flag
from tests.data.test_loader import Drawn, loader

with stop_flag() as flag:
    batches = iter(loader(Drawn(), 1, [[i] for i in range(12)]))
    next(batches)
    os.killpg(0, signal.SIGTERM)
    print(flag.signum, len(list(batches)))
"""


def test_two_loaders_of_one_dataset_note_apart() -> None:
    dataset = Lost("killed")
    first, second = loader(dataset, 2, BATCHES), loader(dataset, 1, [[0]])
    started = iter(first)
    assert [item[0] for item in next(started)["items"]] == [0, 1, 2]
    assert len(list(second)) == 1
    with pytest.raises(LoaderError, match="died while it read /images/4.jpg"):
        list(started)


def test_a_signal_to_the_group_is_for_the_parent() -> None:
    """torchrun ends its processes by their groups, and a run finishes its iteration for which it needs its batch."""
    command = [sys.executable, "-c", ASKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, start_new_session=True)
    assert done.stdout.split() == [str(int(signal.SIGTERM)), "11"], done.stderr[-2000:]


def test_other_errors_of_workers_stay_what_they_are() -> None:
    class Wrong(Drawn):
        def __getitem__(self, index: int) -> Any:
            raise RuntimeError("of the dataset")

    with pytest.raises(RuntimeError, match="of the dataset") as raised:
        list(loader(Wrong(), 1, BATCHES))
    assert not isinstance(raised.value, LoaderError)


def test_a_dataset_with_no_place_for_notes_is_read(tmp_path: Path) -> None:
    assert [batch["items"] for batch in loader([10, 11, 12], 1, [[0, 1], [2]])] == [[10, 11], [12]]
