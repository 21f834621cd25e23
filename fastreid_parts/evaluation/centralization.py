"""Neighbor feature centralization (NFC; Yuan et al., CVPR 2025, arXiv 2503.00938): features move towards their group.

The idea is that the features of an identity lie around a center and differ from it by noise, which a sum of several
lessens. To each feature are added those of its mutual neighbors: of the k1 nearest others those that have it among
their k2 nearest others. The authors' code (yuanc3/Pose2ID, NFC.py) does so with features of unit length, for the
queries among the queries and for the gallery among the gallery, and does not bring the sums back to unit length.
"""

from __future__ import annotations

import numpy as np
import torch

from ..settings import Settings, key
from .exact import Matrix, check_features
from .neighborhoods import Neighborhoods, find_neighborhoods
from .reranker import check_division

# Images whose neighbors are added at once
_ROWS = 1024


class CentralizationSettings(Settings, section="TEST.NFC", role="procedure"):
    """Neighbor feature centralization, before query expansion and re-ranking."""

    enabled: bool = key(False, "add to each feature those of its mutual neighbors", "Pose2ID, NFC")
    k1: int = key(2, "nearest other images that may be added", "k1", low=1)
    k2: int = key(2, "nearest others of such an image that the first has to be among; at most K1", "k2", low=1)

    def check(self) -> None:
        """Check that no more neighbors of a neighbor are asked for than are found.

        Raises:
            ValueError: they are.
        """
        if self.k2 > self.k1:
            raise ValueError(
                f"centralization needs k2 <= k1, got k1 {self.k1} and k2 {self.k2} (TEST.NFC.K1, TEST.NFC.K2)"
            )


def centralize(
    features: Matrix,
    num_query: int,
    k1: int = 2,
    k2: int = 2,
    device: torch.device | str = "cpu",
    alone: bool = False,
) -> np.ndarray:
    """Add to every feature those of its mutual neighbors by the Euclidean distance.

    Args:
        features: (N, D), queries first; of unit length where the metric is the cosine.
        num_query: how many of them are queries.
        k1: how many nearest others may be added; with fewer, all of them.
        k2: among how many nearest others of such an image the first has to be.
        device: where neighbors are searched.
        alone: queries are given neighbors of the gallery instead of other queries; the gallery's stay its own.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: no query or no gallery, a k below 1, k2 above k1, or features that are not finite.
    """
    CentralizationSettings(enabled=True, k1=k1, k2=k2)
    features = check_features(features, "query and gallery")
    check_division(len(features), num_query)
    if alone:
        return _added(features, find_neighborhoods(features, 1 + k1, "euclidean", device, num_query), k2)
    parts = (features[:num_query], features[num_query:])
    return np.concatenate([_added(part, find_neighborhoods(part, 1 + k1, "euclidean", device), k2) for part in parts])


def _added(features: np.ndarray, found: Neighborhoods, k2: int) -> np.ndarray:
    mutual = found.mutual(1 + k2)[:, 1:].astype(np.float32)  # the first is the image itself
    result = np.empty_like(features)
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        others = features[found.nearest[rows, 1:]]
        result[rows] = features[rows] + np.einsum("nk,nkd->nd", mutual[rows], others)
    return result
