"""Distances of a few queries to the whole gallery, for the lists that a person looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from fastreid.config import CfgNode
from torch.nn import functional as F

from .exact import Similarity
from .features import Features
from .query_expansion import expand_queries
from .reranking import KReciprocal

__all__ = ["query_distances"]


def query_distances(features: Features, num_query: int, rows: Sequence[int], cfg: CfgNode) -> np.ndarray:
    """The distances that `rank_features` ranks by, of some queries only.

    Args:
        features: query images first, then the gallery.
        num_query: how many of them are queries.
        rows: of the queries.
        cfg: TEST.METRIC, TEST.AQE and TEST.RERANK say how.

    Returns:
        (len(rows), G) float32; with re-ranking, the weighted sum of the distance and the Jaccard distance.

    Raises:
        ValueError: as `rank_features`.
    """
    test, chosen = cfg.TEST, np.asarray(rows, dtype=np.int64)
    if test.AQE.ENABLED:
        expanded = expand_queries(features.features, test.AQE.QE_TIME, test.AQE.QE_K, test.AQE.ALPHA)
        features = replace(features, features=expanded)
    query, gallery = features.split(num_query)
    similarity = Similarity(query.features[chosen], gallery.features, test.METRIC)
    distances = similarity.distances(slice(0, len(chosen))).numpy()
    if test.RERANK.ENABLED:
        everything = torch.from_numpy(features.features)
        if test.METRIC == "cosine":
            everything = F.normalize(everything)
        reranking = KReciprocal(everything, num_query, test.RERANK.K1, test.RERANK.K2)
        jaccard = np.concatenate([reranking.jaccard(slice(row, row + 1)) for row in chosen.tolist()])
        distances = test.RERANK.LAMBDA * distances + (1 - test.RERANK.LAMBDA) * jaccard
    return distances.astype(np.float32, copy=False)
