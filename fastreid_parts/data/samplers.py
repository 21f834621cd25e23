"""A sampler that fast-reid lacks: every identity as often as any other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from fastreid.data.samplers import NaiveIdentitySampler
from fastreid.data.samplers.triplet_sampler import reorder_index


class EqualIdentitySampler(NaiveIdentitySampler):
    """Every identity once a round, with NUM_INSTANCE of its images, however many it has; rounds follow one another.

    fast-reid's NaiveIdentitySampler draws an identity the more often the more images it has, and its
    BalancedIdentitySampler leaves out the identities that fill no last batch and prefers images of other cameras. Here
    those of a last batch that is not full open the next round. An identity with fewer images than NUM_INSTANCE repeats
    some.
    """

    def _infinite_indices(self) -> Iterator[int]:
        np.random.seed(self._seed)
        wanted = self.batch_size // self.num_instances
        left: list = []  # of the last round
        while True:
            order = np.random.permutation(self.pids).tolist()
            # Once more those that are left: not in the batch that they open
            order = left + [pid for pid in order if pid not in left] + [pid for pid in order if pid in left]
            full = len(order) - len(order) % wanted
            for first in range(0, full, wanted):
                images = [i for pid in order[first : first + wanted] for i in self._images(pid)]
                yield from reorder_index(images, self._world_size)
            left = order[full:]

    def _images(self, pid: int) -> list[int]:
        own = self.pid_index[pid]
        return np.random.choice(own, self.num_instances, replace=len(own) < self.num_instances).tolist()
