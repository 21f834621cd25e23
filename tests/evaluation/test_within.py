"""Neighbors of a set within itself: half of the matrix, every block read from both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_parts.evaluation import topk, within

METRICS = ("euclidean", "cosine")


@pytest.fixture(
    params=[(8, 1.5, 4 * 2**20, 1000), (8, 1.1, 500, 1000), (64, 2, 1000, 1000), (8, 1.5, 4 * 2**20, 5)],
    ids=["", "often", "large", "growing"],
)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few images, so that there are many, and candidates that are merged seldom, often, and in between."""
    block, growth, most, blocks = request.param
    monkeypatch.setattr(within, "_BLOCK", block)
    monkeypatch.setattr(within, "_BLOCKS", blocks)  # along a side, from which on blocks are larger
    monkeypatch.setattr(within, "_GROWTH", growth)
    monkeypatch.setattr(within, "_MOST", most)


def sorted_distances(features: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Of every pair, in float64; an image is its own first, and of equally near ones the lower row comes first."""
    x = features.astype(np.float64)
    if metric == "cosine":
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        distances = 1 - x @ x.T
    else:
        distances = np.sqrt(np.square(x[:, None] - x[None]).sum(axis=2))
    order = np.stack([np.lexsort((np.arange(len(x)), np.arange(len(x)) != i, d)) for i, d in enumerate(distances)])
    return np.take_along_axis(distances, order, axis=1)[:, :k], order[:, :k]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("images", "k"), [(1, 1), (8, 8), (65, 5), (203, 20), (130, 130)])
@pytest.mark.parametrize("order", ["random", "by identity", "approaching", "far off"])
def test_all_pairs_sorted(images: int, k: int, metric: str, order: str) -> None:
    random = np.random.default_rng(images + k)
    features = random.standard_normal((images, 6)).astype(np.float32)
    if order == "by identity":
        features += 3 * np.repeat(random.standard_normal((images // 5 + 1, 6)), 5, axis=0)[:images].astype(np.float32)
    elif order == "approaching":  # every image is nearer to the next than to those before it
        features = np.cumsum(np.abs(features), axis=0) / images
    elif order == "far off":
        features += 50
    distances, rows = topk(features, features, k, metric)
    expected, order_of_all = sorted_distances(features, k, metric)
    assert distances.dtype == np.float32 and rows.dtype == np.int64
    np.testing.assert_allclose(distances, expected, atol=1e-3 if order == "far off" else 2e-4)
    assert (rows[:, 0] == np.arange(images)).all()
    assert all(len(set(own)) == k for own in rows.tolist())
    if order in ("random", "by identity"):
        assert (rows == order_of_all).mean() > 0.99  # but for distances that rounding makes equal


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("metric", METRICS)
def test_of_equally_near_images_the_lower_row_comes_first(metric: str) -> None:
    """Features around the origin, of length 2 and without rounding: many distances are equal."""
    random = np.random.default_rng(0)
    half = random.choice([-1, 1], (75, 4))
    features = random.permutation(np.concatenate((half, -half))).astype(np.float32)
    for k in (1, 6, 30):
        _, rows = topk(features, features, k, metric)
        assert (rows == sorted_distances(features, k, metric)[1]).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("metric", METRICS)
def test_features_that_have_collapsed_to_one_point(metric: str) -> None:
    features = np.ones((100, 4), dtype=np.float32)
    distances, rows = topk(features, features, 5, metric)
    assert distances == pytest.approx(0, abs=1e-6)
    assert rows[0].tolist() == [0, 1, 2, 3, 4] and rows[50].tolist() == [50, 0, 1, 2, 3]


def test_a_zero_feature_is_at_distance_one_of_everything_by_the_cosine() -> None:
    features = np.eye(4, dtype=np.float32)
    features[2] = 0
    distances, _ = topk(features, features, 4, "cosine")
    assert distances[2].tolist() == [1, 1, 1, 1] and distances[0].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("metric", METRICS)
def test_equals_the_search_of_another_set(metric: str) -> None:
    """The same at real sizes of blocks and features, beside faiss."""
    random = np.random.default_rng(1)
    features = random.standard_normal((2500, 32)).astype(np.float32)
    distances, rows = topk(features, features, 20, metric)
    want, faiss_rows = topk(features, features.copy(), 20, metric)
    np.testing.assert_allclose(distances, want, atol=2e-3)
    assert (rows == faiss_rows).mean() > 0.999


def test_takes_tensors_and_leaves_them() -> None:
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    before = features.clone()
    _, rows = topk(features, features, 3)
    assert torch.equal(features, before) and (rows == topk(before.numpy(), features.numpy().copy(), 3)[1]).all()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((0, 3)), "gallery is empty"),
        (1e30 * np.eye(3), "squares overflow"),
        (np.array([[0, np.nan]]), "1 of 1 gallery features hold NaN"),
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_refuses(features: np.ndarray, message: str, metric: str) -> None:
    with pytest.raises(ValueError, match=message):
        topk(features, features, 2, metric)
