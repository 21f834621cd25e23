"""Sparse k-reciprocal re-ranking against fast-reid's, which fills N x N matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fastreid.utils import compute_dist

from fastreid_parts.evaluation import KReciprocal, topk
from fastreid_parts.evaluation.exact import Similarity

from .random_features import random_features


def _host(features: np.ndarray, queries: int, k1: int, k2: int) -> np.ndarray:
    distances = compute_dist.compute_jaccard_distance(torch.from_numpy(features), k1=k1, k2=k2, search_option=3)
    return distances[:queries, queries:]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (10, 1), (7, 3), (1, 1), (30, 30), (5, 2), (400, 6)])
@pytest.mark.parametrize("unit", [True, False])
def test_equals_the_host(seed: int, k1: int, k2: int, unit: bool) -> None:
    people, queries = random_features(seed, gallery=150, spread=1.5)
    features = people.features.copy()
    features[3], features[7] = features[100], features[8]  # images that are there twice
    if unit:
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    got = KReciprocal(features, queries, k1, k2).jaccard(slice(None))
    want = _host(features, queries, k1, k2)
    assert got.shape == want.shape and got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert k1 == 1 or got.min() < 0.9  # there is something to compare


def test_some_queries_at_a_time() -> None:
    features, queries = random_features(0, queries=90)
    reranking = KReciprocal(features.features, queries)
    assert len(reranking) == queries
    whole = reranking.jaccard(slice(None))
    np.testing.assert_array_equal(reranking.jaccard(slice(60, 75)), whole[60:75])
    similarity = Similarity(*(part.features for part in features.split(queries)), "euclidean")
    parts = [scores for _, scores in reranking.blocks(similarity, weight=0.3, rows=40)]
    assert [len(part) for part in parts] == [40, 40, 10]
    distances = torch.cdist(*(torch.from_numpy(part.features) for part in features.split(queries)))
    np.testing.assert_allclose(-torch.cat(parts), 0.7 * whole + 0.3 * distances.numpy(), atol=1e-5)


def test_neighbors_are_searched_once_for_several_settings() -> None:
    features, queries = random_features(1)
    neighbors = topk(features.features, features.features, 30)
    for k1, k2 in ((30, 6), (20, 6), (8, 2)):
        want = KReciprocal(features.features, queries, k1, k2).jaccard(slice(None))
        got = KReciprocal(features.features, queries, k1, k2, neighbors=neighbors).jaccard(slice(None))
        np.testing.assert_allclose(got, want, atol=1e-6)
    with pytest.raises(ValueError, match="not the 40 nearest"):
        KReciprocal(features.features, queries, 40, 6, neighbors=neighbors)


@pytest.mark.parametrize(
    ("num_query", "k1", "k2", "message"),
    [
        (0, 20, 6, "leave the query set or the gallery empty"),
        (190, 20, 6, "leave the query set or the gallery empty"),
        (30, 0, 1, "1 <= k2 <= k1"),
        (30, 5, 6, "k1 5 and k2 6"),
    ],
)
def test_bad_settings(num_query: int, k1: int, k2: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KReciprocal(random_features(0)[0].features, num_query, k1, k2)
