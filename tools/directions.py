"""Where generated features lie, for the tools that measure large galleries."""

from __future__ import annotations

import numpy as np


class Directions:
    """Where features lie: identities in some tens of effective dimensions, and images around them.

    Args:
        random: draws both.
        dimensions: of a feature.
    """

    def __init__(self, random: np.random.Generator, dimensions: int) -> None:
        # Energies that fall with the square root of their number: of 512 dimensions some hundred carry most
        energy = 1 / np.arange(1, dimensions + 1)
        turns = [np.linalg.qr(random.standard_normal((dimensions, dimensions)))[0] for _ in range(2)]
        between, within = (np.sqrt(share * energy / energy.sum()) for share in (1, 0.5))
        self._between, self._turn = between, turns[0]
        self._variation = (within[:, None] * turns[1]).astype(np.float32)

    def centers(self, random: np.random.Generator, identities: int) -> np.ndarray:
        """Draw points of identities, (identities, D) float32."""
        return ((random.standard_normal((identities, len(self._turn))) * self._between) @ self._turn).astype(np.float32)

    def around(self, random: np.random.Generator, centers: np.ndarray) -> np.ndarray:
        """Draw an image of length 1 around each of (N, D) points."""
        features = random.standard_normal(centers.shape, dtype=np.float32) @ self._variation
        features += centers
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        return features
