from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_parts.evaluation import Features, average_precisions, rank_lists, topk


def make(features: np.ndarray, pids: list, camids: list) -> Features:
    return Features(
        np.asarray(features, np.float32), np.array(pids), np.array(camids), [f"{i}.jpg" for i in range(len(pids))]
    )


@pytest.fixture
def random_pair() -> tuple:
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(23, 5)).astype(np.float32)


def naive_distances(query: np.ndarray, gallery: np.ndarray, metric: str) -> np.ndarray:
    result = np.zeros((len(query), len(gallery)))
    for i, q in enumerate(query.astype(np.float64)):
        for j, g in enumerate(gallery.astype(np.float64)):
            if metric == "euclidean":
                result[i, j] = sum((a - b) ** 2 for a, b in zip(q, g)) ** 0.5
            else:
                result[i, j] = 1 - sum(a * b for a, b in zip(q, g)) / (sum(q**2) ** 0.5 * sum(g**2) ** 0.5)
    return result


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_topk_is_the_loop(random_pair: tuple, metric: str) -> None:
    query, gallery = random_pair
    expected = naive_distances(query, gallery, metric)
    distances, rows = topk(query, gallery, 4, metric)
    assert distances.shape == rows.shape == (7, 4)
    assert distances.dtype == np.float32 and rows.dtype == np.int64
    assert (rows == np.argsort(expected, axis=1)[:, :4]).all()
    assert distances == pytest.approx(np.sort(expected, axis=1)[:, :4], abs=1e-5)


def test_topk_known_distance() -> None:
    distances, rows = topk(np.zeros((1, 2)), np.array([[3.0, 4.0], [0.0, 1.0]]), 2)
    assert distances.tolist() == [[1.0, 5.0]]
    assert rows.tolist() == [[1, 0]]


def test_topk_takes_tensors_and_leaves_the_arguments(random_pair: tuple) -> None:
    query, gallery = (torch.from_numpy(x.copy()) for x in random_pair)
    distances, _ = topk(query, gallery, 3, "cosine")
    assert distances == pytest.approx(topk(*random_pair, 3, "cosine")[0])
    assert torch.equal(query, torch.from_numpy(random_pair[0]))


def test_topk_gives_the_whole_gallery_where_k_is_larger(random_pair: tuple) -> None:
    _, rows = topk(*random_pair, 1000)
    assert rows.shape == (7, 23)
    assert (np.sort(rows, axis=1) == np.arange(23)).all()


def test_topk_cosine_of_a_zero_vector_is_one(random_pair: tuple) -> None:
    distances, _ = topk(np.zeros((1, 5)), random_pair[1], 2, "cosine")
    assert distances == pytest.approx(1)


@pytest.mark.parametrize(
    ("query", "gallery", "k", "metric", "message"),
    [
        (np.zeros((1, 3)), np.zeros((2, 4)), 1, "euclidean", "3 dimensions and gallery features 4"),
        (np.zeros((1, 3)), np.zeros((0, 3)), 1, "euclidean", "gallery is empty"),
        (np.zeros((1, 3)), np.zeros((2, 3)), 0, "euclidean", "at least 1"),
        (np.zeros((1, 3)), np.zeros((2, 3)), 1, "manhattan", "'manhattan'.*cosine, euclidean"),
        (np.zeros(3), np.zeros((2, 3)), 1, "euclidean", "query features must be a matrix"),
        (np.zeros((1, 3)), np.array([[0, 0, 0], [0, np.nan, 0]]), 1, "euclidean", "1 of 2 gallery.*row 1"),
        (np.full((1, 3), np.inf), np.zeros((2, 3)), 1, "cosine", "query features hold NaN or infinite"),
    ],
)
def test_topk_refuses(query: np.ndarray, gallery: np.ndarray, k: int, metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        topk(query, gallery, k, metric)


def test_rank_lists_leave_out_the_query_camera_of_the_identity() -> None:
    query = make([[0.0]], [1], [1])
    #                same camera    other person  other camera  other person
    gallery = make([[0.1], [0.2], [0.3], [0.4], [0.5]], [1, 1, 2, 1, 3], [1, 1, 1, 2, 2])
    (found,) = rank_lists(query, gallery, 2)
    assert found.query == 0
    assert found.gallery.tolist() == [2, 3]
    assert found.correct.tolist() == [False, True]
    assert found.distances == pytest.approx([0.3, 0.4])


def test_rank_lists_are_shorter_where_the_gallery_is() -> None:
    (found,) = rank_lists(make([[0.0]], [1], [1]), make([[1.0], [2.0]], [1, 2], [1, 1]), 10)
    assert found.gallery.tolist() == [1]


def test_rank_lists_of_chosen_queries(random_pair: tuple) -> None:
    rng = np.random.default_rng(1)
    query = make(random_pair[0], rng.integers(0, 4, 7).tolist(), rng.integers(0, 3, 7).tolist())
    gallery = make(random_pair[1], rng.integers(0, 4, 23).tolist(), rng.integers(0, 3, 23).tolist())
    everything = rank_lists(query, gallery, 5, "cosine")
    chosen = rank_lists(query, gallery, 5, "cosine", queries=[6, 2])
    assert [found.query for found in chosen] == [6, 2]
    assert chosen[0].gallery.tolist() == everything[6].gallery.tolist()
    for found in everything:
        assert len(found.gallery) == 5
        own_camera = gallery.camids[found.gallery] == query.camids[found.query]
        assert not (found.correct & own_camera).any()
    with pytest.raises(ValueError, match="7 queries"):
        rank_lists(query, gallery, 5, queries=[7])


def test_average_precisions_are_the_loop(random_pair: tuple) -> None:
    rng = np.random.default_rng(2)
    query = make(random_pair[0], [0, 1, 2, 3, 0, 1, 99], rng.integers(0, 3, 7).tolist())
    gallery = make(random_pair[1], rng.integers(0, 4, 23).tolist(), rng.integers(0, 3, 23).tolist())
    precisions = average_precisions(query, gallery)
    expected = naive_distances(query.features, gallery.features, "euclidean")
    for row in range(6):
        hits, seen, total = 0, 0, 0.0
        for column in np.argsort(expected[row]):
            same = gallery.pids[column] == query.pids[row]
            if same and gallery.camids[column] == query.camids[row]:
                continue
            seen += 1
            if same:
                hits += 1
                total += hits / seen
        assert precisions[row] == pytest.approx(total / hits)
    assert np.isnan(precisions[6])


def test_average_precisions_need_a_match_in_another_camera() -> None:
    with pytest.raises(ValueError, match="another camera"):
        average_precisions(make([[0.0]], [1], [1]), make([[1.0]], [1], [1]))
    with pytest.raises(ValueError, match="unknown metric"):
        average_precisions(make([[0.0]], [1], [1]), make([[1.0]], [1], [2]), "jaccard")
