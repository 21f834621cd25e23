"""Rank lists made of distances: they are in the order that the evaluation counts, with junk and with re-ranking."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fastreid.config import CfgNode, get_cfg

from fastreid_parts.evaluation import Features, Ranking, lists_from_distances, rank_features, rank_lists

QUERIES = 12


@pytest.fixture
def features() -> Features:
    """Random images of seven people and three cameras; some show nobody, and are junk for every query."""
    random = np.random.default_rng(0)
    pids = random.integers(0, 7, 90)
    pids[QUERIES + 3 : QUERIES + 6] = -1
    values = random.normal(size=(90, 8)) + 0.5 * random.normal(size=(8, 8))[pids]
    return Features(values.astype(np.float32), pids, random.integers(0, 3, 90), [f"{row}.jpg" for row in range(90)])


@pytest.fixture
def cfg() -> Callable[..., CfgNode]:
    def make(*overrides: object) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
        return cfg

    return make


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("rerank", [False, True])
@pytest.mark.parametrize("expand", [False, True])
def test_the_order_is_that_of_the_evaluation(
    features: Features, cfg: Callable, metric: str, rerank: bool, expand: bool
) -> None:
    own = cfg("TEST.METRIC", metric, "TEST.RERANK.ENABLED", rerank, "TEST.AQE.ENABLED", expand, "TEST.AQE.QE_TIME", 2)
    query, gallery = features.split(QUERIES)
    rows = [7, 0, 11, 3]
    ranks = rank_features(features, QUERIES, own)
    distances = Ranking(features, QUERIES, own).distances(rows)
    assert distances.shape == (4, len(gallery)) and distances.dtype == np.float32
    for row, found in zip(rows, lists_from_distances(query, gallery, rows, distances, len(gallery), with_junk=True)):
        places = found.places[found.correct & (found.places > 0)]
        assert places.tolist() == ranks.ranks[ranks.offsets[row] : ranks.offsets[row + 1]].tolist()
        assert len(found.gallery) == len(gallery) and (np.diff(found.distances) >= 0).all()
        same_camera = (gallery.pids == query.pids[row]) & (gallery.camids == query.camids[row])
        junk = np.flatnonzero(same_camera | (gallery.pids == -1))
        assert sorted(found.gallery[found.places == 0]) == junk.tolist()


def test_rank_lists_with_junk_hold_the_same_images_and_more(features: Features) -> None:
    query, gallery = features.split(QUERIES)
    plain = rank_lists(query, gallery, 6, "cosine")
    whole = rank_lists(query, gallery, 6, "cosine", with_junk=True)
    distances = Ranking(features, QUERIES, get_cfg()).distances(range(QUERIES))
    from_distances = lists_from_distances(query, gallery, range(QUERIES), distances, 6, with_junk=True)
    for short, long, other in zip(plain, whole, from_distances):
        assert short.ranks is None and short.places.tolist() == [1, 2, 3, 4, 5, 6]
        assert long.gallery[long.places > 0].tolist() == short.gallery.tolist()
        assert long.places[-1] == 6 and long.places[long.places > 0].tolist() == [1, 2, 3, 4, 5, 6]
        assert other.gallery.tolist() == long.gallery.tolist() and other.places.tolist() == long.places.tolist()
    assert sum(len(found.gallery) for found in whole) > 6 * QUERIES


def test_the_first_match_follows_with_its_rank() -> None:
    """Wrong images at 1 to 4, of which two are as far as the match: it comes behind them."""
    query = Features(np.zeros((1, 1), np.float32), np.array([5]), np.array([0]), ["q"])
    pids, camids = np.array([5, 1, 5, 1, 1, 1]), np.array([1, 1, 0, 1, 1, 1])
    gallery = Features(np.zeros((6, 1), np.float32), pids, camids, list("abcdef"))
    distances = np.array([[4.0, 1, 2, 3, 4, 4]])
    (found,) = lists_from_distances(query, gallery, [0], distances, 2, first_match=True)
    assert found.gallery.tolist() == [1, 3, 0] and found.places.tolist() == [1, 2, 5]
    (found,) = lists_from_distances(query, gallery, [0], distances, 2, with_junk=True, first_match=True)
    assert found.gallery.tolist() == [1, 2, 3, 0] and found.places.tolist() == [1, 0, 2, 5]
    (found,) = lists_from_distances(query, gallery, [0], distances, 9)
    assert found.gallery.tolist() == [1, 3, 4, 5, 0] and found.correct.tolist() == [False] * 4 + [True]


def test_distances_of_another_gallery_are_refused(features: Features) -> None:
    query, gallery = features.split(QUERIES)
    with pytest.raises(ValueError, match=r"1 queries and 78 gallery images .* got \(1, 9\)"):
        lists_from_distances(query, gallery, [0], np.zeros((1, 9)))
