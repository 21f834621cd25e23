"""The host's identity samplers, which can hang for ever or never start, patched in place."""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from fastreid.data.samplers import BalancedIdentitySampler, NaiveIdentitySampler, SetReWeightSampler
from fastreid.data.samplers.triplet_sampler import reorder_index
from fastreid.utils import comm
from torch.utils.data import Sampler

from ..data.checks import check_sampler
from .overlay import replace, wrap

logger = logging.getLogger(__name__)


def apply() -> None:
    """Patch the three samplers that build a batch from identities."""
    for sampler in (NaiveIdentitySampler, BalancedIdentitySampler):
        wrap(sampler, "__init__", functools.partial(_init_hanging_sampler, sampler.__name__))
    replace(SetReWeightSampler, "__init__", _init_set_reweight)
    replace(SetReWeightSampler, "_infinite_indices", _set_reweight_indices)


def _init_hanging_sampler(
    name: str,
    original: Callable,
    self: Sampler,
    data_source: Sequence[tuple[Any, ...]],
    mini_batch_size: int,
    num_instances: int,
    seed: int | None = None,
) -> None:
    """data/samplers/triplet_sampler.py: both loop for ever, silently, on a batch that they cannot fill exactly.

    That is a batch that is no multiple of NUM_INSTANCE, or one of more identities than the dataset has. Both become a
    ValueError when the sampler is made.
    """
    check_sampler(data_source, mini_batch_size, num_instances, name, world_size=comm.get_world_size())
    original(self, data_source, mini_batch_size, num_instances, seed)


def _init_set_reweight(
    self: SetReWeightSampler,
    data_source: Sequence[tuple[Any, ...]],
    mini_batch_size: int,
    num_instances: int,
    set_weight: Sequence[int],
    seed: int | None = None,
) -> None:
    """data/samplers/triplet_sampler.py, `SetReWeightSampler`: always a ValueError, and an endless loop after it.

    It looks cameras up by number although training items name them, concatenates a list with an array by `+=`, draws
    an identity once for each of its images, and demands a batch larger than the one that it can ever yield. Patched:
    set s (an item's camera field, in sorted order) gives SET_WEIGHT[s] distinct identities to each group, an identity
    with probability proportional to its images in the set; a batch is as many groups as fill it.
    """
    self._rank = comm.get_rank()
    self._world_size = comm.get_world_size()
    check_sampler(data_source, mini_batch_size, num_instances, "SetReWeightSampler", world_size=self._world_size)
    self.data_source = data_source
    self.num_instances = num_instances
    self.batch_size = mini_batch_size * self._world_size

    self.pid_index = defaultdict(list)
    images: dict[Any, Counter] = defaultdict(Counter)  # set -> identity -> how many of its images are in the set
    for index, item in enumerate(data_source):
        self.pid_index[item[1]].append(index)
        images[item[2]][item[1]] += 1
    self.sets = sorted(images, key=_by_number)
    self.set_pids = [sorted(images[s]) for s in self.sets]
    self.set_pid_prob = []
    for s, pids in zip(self.sets, self.set_pids):
        counts = np.array([images[s][pid] for pid in pids], dtype=np.float64)
        self.set_pid_prob.append(counts / counts.sum())

    _check_set_weight(set_weight, self.sets, self.set_pids, self.batch_size, num_instances)
    self.set_weight = [int(weight) for weight in set_weight]
    logger.info("SET_WEIGHT: %s", ", ".join(f"{s}: {w}" for s, w in zip(self.sets, self.set_weight)))
    self._seed = int(comm.shared_random_seed() if seed is None else seed)


def _by_number(name: Any) -> list[Any]:
    """Sort key under which camera 2 stands before camera 10."""
    parts = re.split(r"(\d+)", str(name))
    return [int(part) if part.isdigit() else part for part in parts]


def _check_set_weight(
    weights: Sequence[int], sets: Sequence[Any], set_pids: Sequence[Sequence[Any]], batch: int, instances: int
) -> None:
    if len(weights) != len(sets):
        raise ValueError(
            f"DATALOADER.SET_WEIGHT has {len(weights)} weights, {list(weights)}, but the training items come from "
            f"{len(sets)} sets: {', '.join(map(str, sets))}. Give one weight a set, in this order."
        )
    if any(int(w) != w or w < 0 for w in weights) or not any(weights):
        raise ValueError(
            f"DATALOADER.SET_WEIGHT is {list(weights)}; a weight is the number of identities that a set gives to each "
            "group: whole numbers, none negative, one at least above 0"
        )
    for name, weight, pids in zip(sets, weights, set_pids):
        if weight > len(pids):
            raise ValueError(
                f"DATALOADER.SET_WEIGHT wants {weight} identities of set {name} at once, but it has {len(pids)}"
            )
    group = sum(weights) * instances
    if batch % group:
        raise ValueError(
            f"a batch of {batch} images is no multiple of {group}, the sum of DATALOADER.SET_WEIGHT {list(weights)} "
            f"times DATALOADER.NUM_INSTANCE {instances}: change SOLVER.IMS_PER_BATCH"
        )


def _set_reweight_indices(self: SetReWeightSampler) -> Iterator[int]:
    np.random.seed(self._seed)
    while True:
        batch: list[list[int]] = []  # one list of images an identity
        while len(batch) * self.num_instances < self.batch_size:
            for pids, weight, prob in zip(self.set_pids, self.set_weight, self.set_pid_prob):
                for k in np.random.choice(len(pids), size=weight, replace=False, p=prob):
                    index = self.pid_index[pids[k]]
                    few = len(index) < self.num_instances
                    batch.append(np.random.choice(index, size=self.num_instances, replace=few).tolist())
        # Whole identities change places, not images: each process must get all images of its identities
        order = np.random.permutation(len(batch))
        yield from reorder_index([image for i in order for image in batch[i]], self._world_size)
