"""Nearest neighbors among queries and gallery, and how two images have each other among theirs.

Re-ranking, query expansion and feature centralization all begin with them. Queries are either images like all others,
so that each also sees the other queries (TEST.QUERIES `together`), or newcomers to a gallery that has settled without
them (`alone`): a newcomer's neighbors are itself and gallery images, and no other image has it in its list. What
follows for one query is then the same whichever other queries there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .search import topk


class Neighborhoods(NamedTuple):
    """The k nearest of N images, each its own first.

    Attributes:
        distances: (N, k) float32, ascending in each row.
        nearest: (N, k) integers, rows of the images.
        newcomers: how many of the images, the first ones, are in no list but their own.
    """

    distances: np.ndarray
    nearest: np.ndarray
    newcomers: int = 0

    def first(self, k: int) -> Neighborhoods:
        """Take the k nearest of more; row numbers become int32."""
        return Neighborhoods(self.distances[:, :k], self.nearest[:, :k].astype(np.int32), self.newcomers)

    def mutual(self, k: int | None = None) -> np.ndarray:
        """Tell whether image i is among the k nearest of its neighbor: (N, columns) bool.

        A newcomer is, where it is no farther from the neighbor than that one's k-th.

        Args:
            k: by default all columns.
        """
        images = np.arange(len(self.nearest), dtype=self.nearest.dtype)[:, None]
        nearest = self.nearest if k is None else self.nearest[:, :k]
        mutual = np.zeros(self.nearest.shape, dtype=bool)
        for column in np.ascontiguousarray(nearest.T):  # short enough to stay in a cache while it is looked up
            mutual |= column[self.nearest] == images
        if self.newcomers:
            own = slice(self.newcomers)
            farthest = self.distances[:, nearest.shape[1] - 1]
            mutual[own, 1:] = self.distances[own, 1:] <= farthest[self.nearest[own, 1:]]
        return mutual


def find_neighborhoods(
    features: np.ndarray, k: int, metric: str, device: torch.device | str = "cpu", newcomers: int = 0
) -> Neighborhoods:
    """Find the k nearest of every image.

    Args:
        features: (N, D) float32, newcomers first.
        k: how many, itself included; with fewer images to find, their number.
        metric: `cosine` or `euclidean`.
        device: where to search.
        newcomers: how many of the images are found by no other.

    Raises:
        ValueError: as `topk`.
    """
    if not newcomers:
        return Neighborhoods(*topk(features, features, k, metric, device))
    settled = features[newcomers:]
    distances, nearest = topk(settled, settled, k, metric, device)
    own = np.arange(newcomers)[:, None]
    of_own, others = np.zeros((newcomers, 1), dtype=np.float32), np.empty((newcomers, 0), dtype=np.int64)
    if metric == "cosine":
        of_own += (features[:newcomers] == 0).all(axis=1, keepdims=True)  # no direction: as `topk` has it
    if distances.shape[1] > 1:
        found, others = topk(features[:newcomers], settled, distances.shape[1] - 1, metric, device)
        of_own = np.concatenate((of_own, found), axis=1)
    rows = np.concatenate((own, others + newcomers), axis=1)
    return Neighborhoods(np.concatenate((of_own, distances)), np.concatenate((rows, nearest + newcomers)), newcomers)
