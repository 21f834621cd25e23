"""Robust means and best pairs against a slow computation of what they say."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_parts.identification import distances as module
from fastreid_parts.identification.distances import Compared, TrackletDistances, filled_of, represent, spread

from .sightings import prepared, walks


def unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=-1, keepdims=True)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_robust_means(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, of, *_ = walks(people=10)
    vectors, images = represent(features, of, Compared(metric=metric))
    scaled = unit if metric == "cosine" else np.asarray
    for place in range(of.max() + 1):
        rows = np.flatnonzero(of == place)
        own = scaled(features[rows].astype(np.float64))
        far = np.square(own - scaled(own.mean(axis=0))).sum(axis=1)
        kept = np.argsort(far)[: len(own) - len(own) // 5]
        mean = scaled(own[kept].mean(axis=0))
        assert np.allclose(vectors[place, 0], mean, atol=1e-5)
        to_mean = dict(zip(rows.tolist(), np.square(own - mean).sum(axis=1)))
        assert to_mean[images[place, 0]] == pytest.approx(min(to_mean.values()), rel=1e-3)
    monkeypatch.setattr(module, "_IMAGES", 3)  # a tracklet at a time
    again, nearest = represent(features, of, Compared(metric=metric))
    assert np.allclose(again, vectors, atol=1e-6) and (nearest == images).all()


def test_one_wrong_image_moves_no_robust_mean() -> None:
    random = np.random.default_rng(0)
    features = unit(random.normal(size=8) + 0.1 * random.normal(size=(10, 8))).astype(np.float32)
    of = np.zeros(10, np.int64)
    clean, _ = represent(features, of, Compared())
    features[3] = unit(random.normal(size=8))  # another person
    robust, _ = represent(features, of, Compared())
    plain = unit(features.mean(axis=0))
    assert 1 - robust[0, 0] @ clean[0, 0] < 0.2 * (1 - plain @ clean[0, 0])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("images,best", [(3, 2), (4, 100), (1, 1)])
def test_best_pairs(metric: str, images: int, best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, of, *_ = data = walks(people=3)
    compared = Compared("pairs", metric, best, images)
    distances, _ = prepared(data, compared)
    every = slice(None)
    found = distances.block(every, every)
    size = of.max() + 1
    for a in range(size):
        for b in range(size):
            own = [
                features[np.flatnonzero(of == t)][spread((of == t).sum(), images)].astype(np.float64) for t in (a, b)
            ]
            one, other = (unit(rows) if metric == "cosine" else rows for rows in own)
            pairs = 1 - one @ other.T if metric == "cosine" else np.linalg.norm(one[:, None] - other[None], axis=2)
            assert found[a, b] == pytest.approx(np.sort(pairs.ravel())[:best].mean(), abs=3e-3 if a == b else 1e-4)
            if a != b:
                assert distances.nearest_vectors(a, b) == np.unravel_index(pairs.argmin(), pairs.shape)
    monkeypatch.setattr(module, "_PAIRS", 1)  # a row at a time
    assert np.allclose(distances.block(every, every), found, atol=2e-3)


def test_images_are_spread_over_a_tracklet() -> None:
    assert spread(3, 8).tolist() == [0, 1, 2]
    assert spread(100, 4).tolist() == [12, 37, 62, 87]
    for images in range(1, 40):
        chosen = spread(images, 8)
        assert len(set(chosen.tolist())) == min(images, 8) and chosen.max() < images


def test_what_cannot_be_compared_is_refused() -> None:
    for kind, changes in (("median", {}), ("mean", {"metric": "l1"}), ("pairs", {"best": 0}), ("pairs", {"images": 0})):
        with pytest.raises(ValueError):
            Compared(kind, **changes)
    features = np.ones((3, 2), np.float32)
    for of in ([0, 1, 0], [0, 2, 2], [0, 0]):
        with pytest.raises(ValueError, match="at least one image, and images of one tracklet stand together"):
            represent(features, np.array(of), Compared())
    features[1] = np.nan
    with pytest.raises(ValueError, match="tracklets' features hold NaN"):
        represent(features, np.array([0, 0, 1]), Compared())


def test_no_tracklets_have_no_distances() -> None:
    vectors = np.zeros((2, 3, 4), np.float32)
    distances = TrackletDistances(vectors, filled_of([[0, -1, -1], [1, 2, -1]]), Compared("pairs", images=3))
    assert distances.block(np.empty(0, int), slice(None)).shape == (0, 2)
    assert distances.filled.tolist() == [1, 2]
