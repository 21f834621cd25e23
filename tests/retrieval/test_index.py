from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from fastreid_parts.evaluation import topk
from fastreid_parts.retrieval import FeatureSet, GalleryIndex

from .galleries import DIMENSIONS, IMAGES, KINDS, PARAMETERS, QUERIES, build, changed, feature_set

# ---- search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_what_an_exhaustive_search_finds(kind: str, metric: str) -> None:
    gallery = feature_set()
    query, images = gallery.split()
    index = build(kind, gallery, metric)
    expected, neighbors = topk(query.features, images.features, 10, metric)
    distances, rows = index.search(gallery, 10)
    np.testing.assert_allclose(distances, expected, atol=2e-3 if kind == "ivfpq" else 1e-5)  # float16 is compared
    assert (rows == neighbors).mean() > 0.95 if kind == "ivfpq" else (rows == neighbors).all()
    assert distances.dtype == np.float32 and rows.dtype == np.int64
    assert index.images.paths[rows[3, 0]] == images.paths[rows[3, 0]]
    again = index.search(query.features, 10)  # a matrix in place of a feature set
    np.testing.assert_array_equal(again[1], rows)


def test_rescoring_makes_up_for_the_codes() -> None:
    gallery = feature_set()
    query, images = gallery.split()
    _, neighbors = topk(query.features, images.features, 10, "cosine")

    def recall(rescore: int) -> float:
        index = GalleryIndex.build(gallery, "ivfpq", **{**PARAMETERS["ivfpq"], "rescore": rescore})
        _, rows = index.search(gallery, 10)
        return float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(rows, neighbors)]))

    plain, some, many = recall(0), recall(2), recall(10)
    assert plain < 0.8 and plain + 0.1 < some < many and many > 0.98


def test_a_longer_list_than_there_are_images() -> None:
    index = build("flat", feature_set(images=5))
    distances, rows = index.search(feature_set(), 100)
    assert rows.shape == distances.shape == (QUERIES, 5)
    assert (np.sort(rows) == np.arange(5)).all() and (np.diff(distances) >= 0).all()


def test_a_search_that_finds_less_than_was_asked_for() -> None:
    gallery = feature_set()
    for rescore in (0, 5):
        index = GalleryIndex.build(gallery, "ivfpq", **{**PARAMETERS["ivfpq"], "nprobe": 1, "rescore": rescore})
        distances, rows = index.search(gallery, IMAGES)  # one list of four
        missing = rows < 0
        assert 0 < missing.mean() < 1 and (np.isinf(distances) == missing).all()
        assert (np.diff(missing.astype(int)) >= 0).all()  # at the end


def test_tune() -> None:
    gallery = feature_set()
    index = GalleryIndex.build(gallery, "ivfpq", **{**PARAMETERS["ivfpq"], "nprobe": 1})
    before = index.search(gallery, 20)[1]
    index.tune(nprobe=4, rescore=35)
    assert (index.search(gallery, 20)[1] >= 0).all() and not (index.search(gallery, 20)[1] == before).all()
    for wrong, message in (
        ({"nlist": 8}, "nlist cannot change"),
        ({"efSearch": 8}, "has no efSearch: its parameters are nlist"),
        ({"nprobe": 0}, "nprobe is a whole number and at least 1"),
        ({"rescore": 0}, "this index keeps the features"),
    ):
        with pytest.raises(ValueError, match=message):
            index.tune(**wrong)
    assert index.parameters["nprobe"] == 4


def test_zero_features_do_not_become_nan() -> None:
    gallery = feature_set()
    matrix = gallery.features.features.copy()
    matrix[QUERIES] = 0
    distances, _ = build("flat", changed(gallery, matrix)).search(np.zeros((1, DIMENSIONS)), 3)
    assert (distances == 1).all()


# ---- change -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_added_images_are_found(kind: str) -> None:
    first, more = feature_set(), feature_set(images=50, seed=1)
    index = build(kind, first)
    rows = index.add(more)
    assert rows.tolist() == list(range(IMAGES, IMAGES + 50)) and len(index) == IMAGES + 50
    own = more.split()[1]
    if kind == "ivfpq":
        index.tune(rescore=300)  # codes of two bytes do not tell neighbors apart
    distances, found = index.search(own.features, 1)
    np.testing.assert_array_equal(found[:, 0], rows)
    np.testing.assert_allclose(distances, 0, atol=1e-3)
    assert [index.images.paths[row] for row in rows] == own.paths
    np.testing.assert_array_equal(index.images.pids[rows], own.pids)
    np.testing.assert_array_equal(index.images.camids[rows], own.camids)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_images_are_not_found_and_the_others_keep_their_rows(kind: str) -> None:
    gallery = feature_set()
    query, images = gallery.split()
    index = build(kind, gallery)
    one, path, identity = 7, images.paths[11], int(images.pids[300])
    gone = sorted({one, 11, *np.flatnonzero(images.pids == identity).tolist()})
    assert index.remove(rows=[one], paths=[path], identities=[identity]) == len(gone)
    assert index.remove(rows=[500]) == 1  # whose position is no longer its row
    gone.append(500)
    assert len(index) == IMAGES - len(gone)
    left = np.setdiff1d(np.arange(IMAGES), gone)
    _, neighbors = topk(query.features, images.features[left], 20, "cosine")
    rows = index.search(gallery, 20)[1]
    assert not np.isin(rows, gone).any()
    assert (rows == left[neighbors]).mean() > (0.95 if kind == "ivfpq" else 0.999)
    assert index.images.paths[left[0]] == images.paths[left[0]] and index.images.paths[one] == ""
    added = index.add(feature_set(images=3, seed=2))
    assert added.tolist() == [IMAGES, IMAGES + 1, IMAGES + 2]  # no row comes twice


def test_an_hnsw_graph_is_rebuilt_without_what_was_removed(caplog: pytest.LogCaptureFixture) -> None:
    gallery = feature_set()
    index = build("hnsw", gallery)
    caplog.set_level("INFO")
    index.remove(rows=range(0, IMAGES, 2))
    assert f"{IMAGES // 2} of {IMAGES} images in the graph are hidden" in caplog.text
    assert index.describe()["hidden images"] == IMAGES // 2
    before = index.search(gallery, 10)
    index.compact()
    assert index.describe()["hidden images"] == 0
    np.testing.assert_array_equal(index.search(gallery, 10)[1], before[1])
    np.testing.assert_allclose(index.search(gallery, 10)[0], before[0], atol=1e-6)


def test_removing_everything_leaves_an_empty_index(tmp_path: Path) -> None:
    index = build("flat", feature_set(images=3))
    index.remove(rows=range(3))
    index.save(tmp_path)
    with pytest.raises(ValueError, match="the index is empty"):
        GalleryIndex.load(tmp_path).search(feature_set(), 1)
    assert index.add(feature_set(images=2)).tolist() == [3, 4]


# ---- files --------------------------------------------------------------------------------------------------------


# ---- what is refused ----------------------------------------------------------------------------------------------


def broken(value: float) -> FeatureSet:
    there = feature_set(seed=8)
    matrix = there.features.features.copy()
    matrix[QUERIES + 3, 2] = value
    return changed(there, matrix)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers(value: float) -> None:
    index = build("flat", feature_set())
    with pytest.raises(ValueError, match="NaN or infinite values, first in row 3"):
        build("flat", broken(value))
    with pytest.raises(ValueError, match="new features hold NaN"):
        index.add(broken(value))
    with pytest.raises(ValueError, match="query features hold NaN"):
        index.search(broken(value).features.features, 3)
    assert len(index) == IMAGES and index.search(feature_set(), 3)[1].shape == (QUERIES, 3)


def narrow() -> FeatureSet:
    there = feature_set(seed=8)
    return changed(there, there.features.features[:, :8])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda index: index.search(narrow(), 3), "have 8 dimensions and those of the index 16"),
        (lambda index: index.search(np.zeros((2, 8)), 3), "have 8 dimensions"),
        (lambda index: index.search(np.zeros(16), 3), "must be a matrix"),
        (lambda index: index.search(feature_set(), 0), "at least 1, got 0"),
        (lambda index: index.search(feature_set(fingerprint="def"), 3), "another model .*fingerprint def, .* has abc"),
        (lambda index: index.add(feature_set(seed=8, fingerprint="")), "fingerprint unknown"),
        (lambda index: index.add(narrow()), "8 dimensions"),
        (lambda index: index.add(feature_set()), "700 of 700 images are in the index already, the first is '0/20.jpg'"),
        (lambda index: index.remove(), "name what to remove"),
        (lambda index: index.remove(rows=[3, IMAGES]), "no image of row '700'"),
        (lambda index: index.remove(rows=[3], paths=["nowhere.jpg"]), "no image of path 'nowhere.jpg'"),
        (lambda index: index.remove(identities=[41]), "no image of identity '41'"),
        (lambda index: index.use_gpus(), "GPU"),
    ],
)
def test_refused_and_left_as_it_was(use: Callable, message: str) -> None:
    if hasattr(faiss, "StandardGpuResources") and "GPU" in message:
        pytest.skip("this faiss has GPU code")
    index = build("flat", feature_set())
    with pytest.raises(ValueError, match=message):
        use(index)
    assert len(index) == IMAGES and index.search(feature_set(), 3)[1].shape == (QUERIES, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "tree"}, "unknown kind of index 'tree', choose one of: flat, ivfpq, hnsw"),
        ({"metric": "manhattan"}, "unknown metric"),
        ({"nlist": 3}, "an index of kind flat has no nlist: it has no parameters"),
        ({"kind": "hnsw", "M": 1}, "M is a whole number and at least 2"),
        ({"kind": "ivfpq", "m": 5}, "m must divide the 16 dimensions"),
        ({"kind": "ivfpq", "nbits": 9}, "nbits is 4 to 8"),
        ({"kind": "ivfpq"}, "trained on at least 9984 images, and there are 700"),
        ({"kind": "ivfpq", "nbits": 4, "nlist": 32}, "at least 1248 images, and there are 700"),
    ],
)
def test_no_such_index(words: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GalleryIndex.build(feature_set(), **words)


def test_falls_back_to_flat_if_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    index = GalleryIndex.build(feature_set(), "ivfpq", "euclidean", fall_back=True)
    assert index.kind == "flat" and index.metric == "euclidean" and "building a flat index" in caplog.text


def test_features_beyond_float16() -> None:
    there = feature_set()
    large = changed(there, there.features.features * 1e5)
    with pytest.raises(ValueError, match="rescore 0"):
        build("ivfpq", large, "euclidean")
    assert len(build("ivfpq", large, "cosine")) == IMAGES
