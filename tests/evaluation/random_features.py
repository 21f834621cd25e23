"""Random features of people under cameras, for tests of evaluation."""

from __future__ import annotations

import numpy as np

from fastreid_parts.evaluation import Features


def random_features(
    seed: int, queries: int = 30, gallery: int = 160, identities: int = 20, dimensions: int = 24, spread: float = 0.5
) -> tuple[Features, int]:
    """Queries and then the gallery, and how many are queries; some queries' identities are not in the gallery."""
    random = np.random.default_rng(seed)
    pids = np.concatenate((random.integers(0, identities + 2, queries), random.integers(0, identities, gallery)))
    centers = spread * random.standard_normal((identities + 2, dimensions))
    features = (random.standard_normal((len(pids), dimensions)) + centers[pids]).astype(np.float32)
    camids = random.integers(0, 4, len(pids))
    return Features(features, pids, camids, [f"{i}.jpg" for i in range(len(pids))]), queries
