"""Average query expansion with weights (Radenovic et al., 2018; Chum et al., 2007), as fast-reid has it."""

from __future__ import annotations

import numpy as np
import torch

from .exact import Matrix, check_features
from .neighborhoods import find_neighborhoods

# Images whose neighbors are averaged at once
_ROWS = 1024


def expand_queries(
    features: Matrix,
    times: int = 1,
    k: int = 10,
    alpha: float = 3.0,
    device: torch.device | str = "cpu",
    newcomers: int = 0,
) -> np.ndarray:
    """Replace every feature, of queries and gallery alike, by a weighted mean of its k nearest, itself included.

    A neighbor's weight is its cosine to the power of alpha.

    Args:
        features: (N, D), queries and gallery.
        times: how often.
        k: number of neighbors; with fewer images, all of them.
        alpha: the higher, the less do far neighbors weigh. Where it is no whole number, a neighbor of a negative
            cosine has no weight.
        device: where neighbors are searched.
        newcomers: how many of the images, the first ones, are in the mean of no other: queries that see the gallery
            alone.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: k below 1, or features that are not finite.
    """
    features = check_features(features, "query and gallery")
    for _ in range(times):
        found = find_neighborhoods(features, k, "cosine", device, newcomers)
        nearest, weights = found.nearest, power(1 - found.distances, alpha)
        expanded = np.empty_like(features)
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            expanded[rows] = np.einsum("nk,nkd->nd", weights[rows], features[nearest[rows]]) / nearest.shape[1]
        features = expanded
    return features


def power(cosines: np.ndarray, alpha: float) -> np.ndarray:
    """Take cosines to a power; those below 0 have none where it is no whole number, and give 0.

    Args:
        cosines: of any shape.
        alpha: the power.
    """
    return (cosines if alpha == int(alpha) else np.maximum(cosines, 0)) ** np.float32(alpha)
