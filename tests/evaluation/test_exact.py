"""Scores in blocks against the whole matrix, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fastreid_parts.evaluation import Features, match_ranks
from fastreid_parts.evaluation.exact import Similarity, check_features
from fastreid_parts.evaluation.search import topk

from .random_features import random_features


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("half", [False, True])
def test_distances_are_the_whole_matrix(metric: str, half: bool) -> None:
    features, queries = random_features(0)
    query, gallery = features.split(queries)
    q, g = (torch.from_numpy(part.features).double() for part in (query, gallery))
    if metric == "cosine":
        want = 1 - torch.nn.functional.cosine_similarity(q[:, None], g[None], dim=2)
    else:
        want = torch.cdist(q, g)
    similarity = Similarity(query.features, gallery.features, metric, half=half)
    tolerance = 1e-2 if half else 1e-5
    np.testing.assert_allclose(similarity.distances(slice(3, 9)), want[3:9], atol=tolerance)
    for across in (False, True):
        chunks = [(rows, scores.clone()) for rows, scores in similarity.blocks(7, across)]
        assert [(rows.start, rows.stop) for rows, _ in chunks] == [(0, 7), (7, 14), (14, 21), (21, 28), (28, 30)]
        scores = torch.cat([scores for _, scores in chunks]).double()
        order = -want if metric == "cosine" else -want.square() / 2
        away = scores - order
        # Up to a constant of the query, and with `across_queries` of all
        away = away - (away.mean() if across else away.mean(dim=1, keepdim=True))
        assert away.abs().max() < 30 * tolerance


def test_float16_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastreid_parts.evaluation import exact

    features, queries = random_features(1)
    query, gallery = features.split(queries)
    whole = match_ranks(query, gallery, "cosine", half=True)
    monkeypatch.setattr(exact, "_HALF_ROWS", 50)
    chunked = match_ranks(query, gallery, "cosine", half=True)
    assert chunked.ranks.tolist() == whole.ranks.tolist()


def test_half_is_float16() -> None:
    """Two images that float32 tells apart, and float16 does not."""
    query = Features(np.array([[1.0, 0.0]]), np.array([1]), np.array([0]), ["q"])
    images = np.array([[1.0, 0.1], [1.0, 0.10001], [1.0, -0.5]])
    gallery = Features(images, np.array([1, 2, 3]), np.array([1, 1, 1]), ["a", "b", "c"])
    for metric in ("euclidean", "cosine"):
        ranks = [match_ranks(query, gallery, metric, half=half).ranks.tolist() for half in (False, True)]
        assert ranks == [[1], [2]]  # among equal ones a wrong image comes first
        assert match_ranks(query, gallery, metric).ranks.tolist() == [1]


def test_distances_of_close_images_start_at_zero() -> None:
    there = np.array([[3.0, 4.0], [3.0, 4.1], [3.0, -4.0]])
    distances = Similarity(there[:1], there, "euclidean").distances([0])
    np.testing.assert_allclose(distances, [[0.0, 0.1, 8.0]], atol=1e-5)
    distances = Similarity(there[:1], there, "cosine").distances([0])
    np.testing.assert_allclose(distances, [[0.0, 1 - (9 + 16.4) / 5 / np.hypot(3, 4.1), 1 + 7 / 25]], atol=1e-6)


def test_far_from_the_origin_differences_stay() -> None:
    features, queries = random_features(2)
    query, gallery = features.split(queries)
    want = match_ranks(query, gallery).average_precision()
    # Whole numbers, so that the shift itself rounds nothing away
    moved = Features(np.round(features.features * 64), features.pids, features.camids, features.paths)
    near = match_ranks(*moved.split(queries)).average_precision()
    far = Features(moved.features + 2**17, features.pids, features.camids, features.paths)
    np.testing.assert_allclose(match_ranks(*far.split(queries)).average_precision(), near, atol=1e-12)
    np.testing.assert_allclose(near, want, atol=0.05)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_blocks_of_any_size_give_the_same_ranks(metric: str) -> None:
    query, gallery = random_features(3)[0].split(30)
    want = match_ranks(query, gallery, metric)
    for rows in (1, 8, 1000):
        assert match_ranks(query, gallery, metric, block_rows=rows).ranks.tolist() == want.ranks.tolist()


@pytest.mark.parametrize(("scores", "rows"), [(100 * 90, 90), (100 * 90 + 99, 90), (1, 64), (100 * 9000, 1024)])
def test_a_block_is_as_large_as_fits(monkeypatch: pytest.MonkeyPatch, scores: int, rows: int) -> None:
    monkeypatch.setattr("fastreid_parts.evaluation.exact._BLOCK_BYTES", 4 * scores)
    similarity = Similarity(np.zeros((2000, 2)), np.zeros((100, 2)), "euclidean")
    assert next(iter(similarity.blocks()))[0] == slice(0, rows)


def test_tensors_are_taken_too() -> None:
    there = torch.randn(5, 3, requires_grad=True)
    want = Similarity(there.detach().numpy()[:2], there.detach().numpy(), "cosine").distances([0, 1])
    assert torch.equal(Similarity(there[:2], there, "cosine").distances([0, 1]), want)


def test_the_arguments_are_left_alone() -> None:
    features, queries = random_features(4)
    before = features.features.copy()
    for metric in ("euclidean", "cosine"):
        match_ranks(*features.split(queries), metric)
    np.testing.assert_array_equal(features.features, before)


def test_bad_features() -> None:
    bad = np.zeros((4, 3), np.float32)
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 4 gallery features hold NaN or infinite values, first in row 2"):
        Similarity(np.zeros((1, 3)), bad, "cosine")
    with pytest.raises(ValueError, match="3 dimensions and gallery features 2"):
        Similarity(np.zeros((1, 3)), np.zeros((1, 2)), "cosine")
    for query, gallery, name in ((np.zeros(3), np.zeros((1, 3)), "query"), (np.zeros((1, 3)), np.zeros(3), "gallery")):
        with pytest.raises(ValueError, match=rf"^{name} features must be a matrix \(N, D\), not of shape \(3,\)"):
            Similarity(query, gallery, "cosine")
    with pytest.raises(ValueError, match="the gallery is empty: there is nothing to search"):
        Similarity(np.zeros((1, 3)), np.zeros((0, 3)), "cosine")
    with pytest.raises(ValueError, match="unknown metric 'l1'"):
        Similarity(np.zeros((1, 3)), np.zeros((1, 3)), "l1")
    # A sum may overflow where no value does
    large = np.full((1, 3), 3e38, np.float32)
    assert check_features(large, "query") is not None


@pytest.mark.parametrize("compare", [topk, lambda *given: Similarity(*given[:2], given[3])], ids=["topk", "Similarity"])
class TestWithoutLength:
    def test_it_is_logged_for_the_cosine(self, compare: Callable, caplog: pytest.LogCaptureFixture) -> None:
        gallery = np.eye(3, 4)
        gallery[1] = 0
        with caplog.at_level(logging.WARNING):
            compare(np.eye(3, 4), gallery, 2, "euclidean")
            assert not caplog.records
            compare(np.eye(3, 4), gallery, 2, "cosine")
            compare(np.zeros((2, 4)), np.eye(3, 4), 2, "cosine")
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 2 and said[0].startswith("1 of 3 gallery features are zero, first in row 1, ")
        assert said[1].startswith("2 of 2 query features are zero, first in row 0, ")

    def test_of_no_dimension(self, compare: Callable) -> None:
        for metric in ("cosine", "euclidean"):
            with pytest.raises(ValueError, match=r"query features have no dimension: they are of shape \(3, 0\)"):
                compare(np.zeros((3, 0)), np.zeros((4, 0)), 2, metric)
