"""TEST.QUERIES alone: each query sees the gallery and itself; every method against a loop, and for several queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fastreid.config import get_cfg

from fastreid_parts.evaluation import (
    Features,
    GraphReranking,
    GraphSettings,
    KReciprocal,
    Ranking,
    centralize,
    expand_queries,
    find_neighborhoods,
)

from .random_features import random_features

METHODS = {
    "aqe": ("TEST.AQE.ENABLED", True, "TEST.AQE.QE_K", 4, "TEST.AQE.QE_TIME", 2),
    "nfc": ("TEST.NFC.ENABLED", True, "TEST.NFC.K1", 3, "TEST.NFC.K2", 2),
    "k-reciprocal": ("TEST.RERANK.ENABLED", True, "TEST.RERANK.K1", 8, "TEST.RERANK.K2", 3),
    "gnn": (
        *("TEST.RERANK.ENABLED", True, "TEST.RERANK.METHOD", "gnn", "TEST.RERANK.GNN.K1", 8),
        *("TEST.RERANK.GNN.K2", 3, "TEST.RERANK.GNN.LAYERS", 3),
    ),
}


def unit_features(seed: int, queries: int = 6, gallery: int = 40) -> np.ndarray:
    features = random_features(seed, queries, gallery, identities=6, dimensions=12, spread=0.8)[0].features
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def ranking(features: Features, num_query: int, opts: tuple, queries: str, metric: str = "cosine") -> Ranking:
    cfg = get_cfg()
    cfg.merge_from_list(["TEST.METRIC", metric, "TEST.QUERIES", queries, "MODEL.DEVICE", "cpu", *opts])
    return Ranking(features, num_query, cfg)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("name", [*METHODS, "nfc and gnn", "aqe and k-reciprocal"])
def test_a_query_has_its_distances_whichever_others_there_are(name: str, metric: str) -> None:
    opts = tuple(word for method in name.split(" and ") for word in METHODS[method])
    features, number = random_features(3, queries=9, gallery=60)
    alone, together = (
        ranking(features, number, opts, queries, metric).distances(range(9)) for queries in ("alone", "together")
    )
    for query in range(9):
        one = features.take(np.array([query, *range(9, 69)]))
        np.testing.assert_allclose(ranking(one, 1, opts, "alone", metric).distances([0])[0], alone[query], atol=1e-5)
    assert np.abs(alone - together).max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_each_method_finds_more_than_none(name: str) -> None:
    """Where features are such that most neighbors are matches, whichever queries are looked at."""
    there = random_features(0, queries=40, gallery=160, identities=8, spread=0.7)
    none = ranking(*there, (), "together").ranks().results()["mAP"]
    assert 60 < none < 90
    for queries in ("alone", "together"):
        assert ranking(*there, METHODS[name], queries).ranks().results()["mAP"] > none + 1


def squared(features: np.ndarray) -> np.ndarray:
    return np.square(features[:, None].astype(np.float64) - features[None]).sum(axis=2)


def test_neighborhoods_of_newcomers() -> None:
    features = unit_features(0)
    distances = np.sqrt(squared(features))
    found = find_neighborhoods(features, 5, "euclidean", newcomers=6)
    mutual = found.mutual(4)
    for image in range(46):
        others = [image, *range(6, 46)] if image < 6 else range(6, 46)
        nearest = sorted(others, key=lambda other: (distances[image, other], other != image))[:5]
        assert found.nearest[image].tolist() == nearest
        for place, other in enumerate(nearest):
            seen = {image, *range(6, 46)} if image < 6 else set(range(6, 46))
            near = sorted(seen, key=lambda one: distances[other, one])[:4] if other != image else [image]
            assert mutual[image, place] == (image in near)


@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (4, 1), (60, 3)])
def test_centralization_is_the_loop(k1: int, k2: int) -> None:
    features = unit_features(1)
    distances = squared(features)
    expected = features.astype(np.float64)
    for image in range(46):
        near = [other for other in np.argsort(distances[image]) if other >= 6 and other != image][:k1]
        for other in near:
            seen = [one for one in np.argsort(distances[other]) if (one >= 6 or one == image) and one != other]
            if image in seen[:k2]:
                expected[image] += features[other]
    np.testing.assert_allclose(centralize(features, 6, k1, k2, alone=True), expected, atol=1e-5)


@pytest.mark.parametrize("times", [1, 2])
def test_query_expansion_is_the_loop(times: int) -> None:
    before = unit_features(2).astype(np.float64)
    for _ in range(times):
        after = np.zeros_like(before)
        for image, feature in enumerate(before):
            cosines = before @ feature / np.linalg.norm(before, axis=1) / np.linalg.norm(feature)
            seen = [one for one in np.argsort(-cosines) if one >= 6 or one == image][:4]
            after[image] = sum(cosines[one] ** 3 * before[one] for one in seen) / 4
        before = after
    np.testing.assert_allclose(expand_queries(unit_features(2), times, 4, 3.0, newcomers=6), before, atol=1e-5)


@pytest.mark.parametrize(("k1", "k2"), [(8, 3), (6, 1), (90, 2)])
def test_k_reciprocal_is_the_loop(k1: int, k2: int) -> None:
    features = unit_features(4)
    distances, k = squared(features), min(k1, 40)
    half = int(np.around(k / 2)) + 1

    def near(image: int, number: int) -> list[int]:
        seen = [one for one in range(46) if one >= 6 or one == image]
        return sorted(seen, key=lambda one: distances[image, one] if one != image else -1)[: min(number, k)]

    def has(other: int, image: int, number: int) -> bool:
        """Whether a query or gallery image is among those that are nearest to a gallery image."""
        farthest = distances[other, near(other, number)[-1]]
        return image == other or (image in near(other, number) if image >= 6 else distances[other, image] <= farthest)

    def mutual(image: int, number: int) -> list[int]:
        return [other for other in near(image, number) if has(other, image, number)]

    weights = np.zeros((46, 46))
    for image in range(46):
        members = set(mutual(image, k))
        for other in mutual(image, k):
            offered = set(mutual(other, half))
            if len(offered & set(mutual(image, k))) > 2 / 3 * len(offered):
                members |= offered
        for other in members:
            weights[image, other] = np.exp(-distances[image, other])
        weights[image] /= weights[image].sum()
    vectors = np.stack([weights[near(image, k2)].mean(axis=0) for image in range(46)]) if k2 > 1 else weights
    expected = np.ones((6, 40))
    for i, query in enumerate(vectors[:6]):
        for j, image in enumerate(vectors[6:]):
            expected[i, j] = 1 - np.minimum(query, image).sum() / np.maximum(query, image).sum()
    got = KReciprocal(features, 6, k1, k2, alone=True)
    np.testing.assert_allclose(got.jaccard(slice(None)), expected, atol=1e-5)


def graph_of_one_query(features: np.ndarray, settings: GraphSettings) -> np.ndarray:
    """Cosines of the first image with the others, whose graph it joins: sums over lists, images 1 to M the gallery."""
    number = len(features)
    cosines = features.astype(np.float64) @ features.T
    k1, k2 = (min(k, number - 1) for k in (settings.k1, settings.k2))
    near = [[0, *(1 + np.argsort(-cosines[0, 1:]))][:k1]]
    near += [(1 + np.argsort(-cosines[image, 1:]))[:k1].tolist() for image in range(1, number)]
    links = np.zeros((number, number))
    for image, own in enumerate(near):
        links[image, own] = 1
        if image and cosines[image, 0] >= cosines[image, own[-1]]:
            links[image, 0] = 1
    for _ in range(settings.layers if k2 > 1 else 0):
        both = links + links.T
        for image, own in enumerate(near):
            links[image] = sum(cosines[image, other] ** settings.alpha * both[other] for other in own[:k2])
            links[image] /= np.linalg.norm(links[image, 1:])  # the entry for the query counts for nothing
    rows = links[:, 1:] / np.linalg.norm(links[:, 1:], axis=1, keepdims=True)
    return rows[0] @ rows[1:].T


@pytest.mark.parametrize(
    "settings",
    [(8, 3, 2, 2.0), (8, 3, 1, 0.5), (5, 5, 3, 1.0), (6, 1, 2, 2.0), (90, 4, 2, 2.0), (1, 1, 2, 2.0)],
    ids=str,
)
def test_gnn_is_the_loop(settings: tuple) -> None:
    graph = GraphSettings(**dict(zip(("k1", "k2", "layers", "alpha"), settings)))
    features = unit_features(5)
    got = GraphReranking(features, 6, graph, alone=True).distances(slice(None))
    if settings[0] == 1:
        np.testing.assert_allclose(got, 1)  # nothing is linked with anything but itself
        return
    for query in range(6):
        expected = 1 - graph_of_one_query(features[[query, *range(6, 46)]], graph)
        np.testing.assert_allclose(got[query], expected, atol=1e-5)


def test_neighbors_that_were_searched_for_other_queries_are_refused() -> None:
    features = unit_features(6)
    with pytest.raises(ValueError, match="with 0 newcomers are not the 5 nearest of 46 images with 6"):
        KReciprocal(features, 6, 5, 2, neighbors=find_neighborhoods(features, 5, "euclidean"), alone=True)


@pytest.mark.parametrize("name", METHODS)
def test_features_that_are_zero_or_equal(name: str) -> None:
    features, number = random_features(3, queries=9, gallery=60)
    for broken in (np.zeros_like(features.features), np.ones_like(features.features)):
        for queries in ("alone", "together"):
            images = replace(features, features=broken)
            assert np.isfinite(ranking(images, number, METHODS[name], queries).distances([0, 5])).all()
