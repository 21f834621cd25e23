from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from fastreid_parts.evaluation import Features, topk
from fastreid_parts.retrieval import Calibration, FeatureSet, GalleryIndex, ann, index_files, save_feature_set
from fastreid_parts.retrieval.image_table import ImageTable

DIMENSIONS, QUERIES, IMAGES = 16, 20, 700
# Small enough to be trained on 700 images; with every list and 300 candidates compared again, nothing is left to chance
PARAMETERS: dict[str, dict[str, int]] = {
    "flat": {},
    "ivfpq": {"nlist": 4, "m": 4, "nbits": 4, "nprobe": 4, "rescore": 30},
    "hnsw": {},
}
KINDS = tuple(PARAMETERS)


def feature_set(images: int = IMAGES, seed: int = 0, queries: int = QUERIES, fingerprint: str = "abc") -> FeatureSet:
    """Queries, then images of 40 identities, in no order."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, DIMENSIONS))
    pids = random.integers(0, 40, queries + images)
    matrix = (centres[pids] + random.normal(size=(len(pids), DIMENSIONS)) / 2).astype(np.float32)
    paths = [f"{seed}/{number}.jpg" for number in range(len(pids))]
    return FeatureSet(Features(matrix, pids, random.integers(0, 6, len(pids)), paths), queries, fingerprint, "", "")


def build(kind: str, gallery: FeatureSet, metric: str = "cosine") -> GalleryIndex:
    return GalleryIndex.build(gallery, kind, metric, **PARAMETERS[kind])


def changed(there: FeatureSet, matrix: np.ndarray) -> FeatureSet:
    features = there.features
    moved = Features(matrix, features.pids, features.camids, features.paths)
    return FeatureSet(moved, there.num_query, there.fingerprint, there.config, there.dataset)


# ---- search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_what_an_exhaustive_search_finds(kind: str, metric: str) -> None:
    gallery = feature_set()
    query, images = gallery.split()
    index = build(kind, gallery, metric)
    expected, neighbours = topk(query.features, images.features, 10, metric)
    distances, rows = index.search(gallery, 10)
    np.testing.assert_allclose(distances, expected, atol=2e-3 if kind == "ivfpq" else 1e-5)  # float16 is compared
    assert (rows == neighbours).mean() > 0.95 if kind == "ivfpq" else (rows == neighbours).all()
    assert distances.dtype == np.float32 and rows.dtype == np.int64
    assert index.images.paths[rows[3, 0]] == images.paths[rows[3, 0]]
    again = index.search(query.features, 10)  # a matrix in place of a feature set
    np.testing.assert_array_equal(again[1], rows)


def test_rescoring_makes_up_for_the_codes() -> None:
    gallery = feature_set()
    query, images = gallery.split()
    _, neighbours = topk(query.features, images.features, 10, "cosine")

    def recall(rescore: int) -> float:
        index = GalleryIndex.build(gallery, "ivfpq", **{**PARAMETERS["ivfpq"], "rescore": rescore})
        _, rows = index.search(gallery, 10)
        return float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(rows, neighbours)]))

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
        index.tune(rescore=300)  # codes of two bytes do not tell neighbours apart
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
    _, neighbours = topk(query.features, images.features[left], 20, "cosine")
    rows = index.search(gallery, 20)[1]
    assert not np.isin(rows, gone).any()
    assert (rows == left[neighbours]).mean() > (0.95 if kind == "ivfpq" else 0.999)
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
    index.rebuild()
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_comes_back(kind: str, tmp_path: Path) -> None:
    gallery = feature_set()
    index = build(kind, gallery, "euclidean")
    index.remove(rows=[0, 5, IMAGES - 1])
    index.calibration = Calibration(0.5, "euclidean", "fpr", 0.001, 0.001, 0.0005, 0.002, 0.9, 100, 10000, "Set")
    index.save(tmp_path / "new" / "index")
    loaded = GalleryIndex.load(tmp_path / "new" / "index")
    for found, expected in zip(loaded.search(gallery, 10), index.search(gallery, 10)):
        np.testing.assert_array_equal(found, expected)
    assert loaded.images.paths == index.images.paths
    for column in ("pids", "camids", "present"):
        np.testing.assert_array_equal(getattr(loaded.images, column), getattr(index.images, column))
    assert loaded.describe() == index.describe() and loaded.calibration == index.calibration
    assert loaded.add(feature_set(images=1, seed=3)).tolist() == [IMAGES]
    loaded.save(tmp_path / "new" / "index")  # over the files that it is mapped from
    assert len(GalleryIndex.load(tmp_path / "new" / "index")) == IMAGES - 2
    names = {path.name.split(".")[0] for path in (tmp_path / "new" / "index").iterdir()}
    assert names == {"manifest", "vectors", "images"} | ({"exact"} if kind == "ivfpq" else set())
    assert len(list((tmp_path / "new" / "index").iterdir())) == len(names)  # nothing of the first save is left


def test_paths_are_kept_as_they_are(tmp_path: Path) -> None:
    odd = ['a "quoted", name.jpg', "näher\n.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    features = Features(np.eye(3, dtype=np.float32), np.arange(3), np.arange(3), odd)
    GalleryIndex.build(FeatureSet(features, 0, "", "", "")).save(tmp_path)
    assert GalleryIndex.load(tmp_path).images.paths == odd


def saved(tmp_path: Path) -> Path:
    build("ivfpq", feature_set()).save(tmp_path / "index")
    return tmp_path / "index"


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", ["vectors.1.faiss", "exact.1.npy", "images.1.csv"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    path = saved(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if damage == "truncated" else content)
    words = {"truncated": "truncated", "changed": "SHA-256", "missing": "is missing"}[damage]
    with pytest.raises(ValueError, match=words) as caught:
        GalleryIndex.load(path.parent)
    assert name in str(caught.value) and "build the index again" in str(caught.value)


def test_folders_that_hold_no_index(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    for change, message in (
        (lambda: manifest.write_text(text[: len(text) // 2]), "cannot be read"),
        (lambda: edit(manifest, format=99), "is of format 99"),
        (lambda: edit(manifest, kind=None), "does not say kind"),
        (lambda: edit(manifest, files={}), "does not name its files"),
        (lambda: edit(manifest, next_row=3), "do not belong together"),
        (manifest.unlink, "holds no finished index"),
    ):
        manifest.write_text(text)
        change()
        with pytest.raises(ValueError, match=message):
            GalleryIndex.load(folder)
    with pytest.raises(FileNotFoundError, match="no folder"):
        GalleryIndex.load(tmp_path / "nowhere")
    save_feature_set(tmp_path / "features", feature_set())
    with pytest.raises(ValueError, match="describes something else"):
        GalleryIndex.load(tmp_path / "features")
    with pytest.raises(ValueError, match="something else than an index"):
        build("flat", feature_set()).save(tmp_path / "features")


def test_a_save_that_fails_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = feature_set()
    old = build("flat", gallery)
    old.save(tmp_path)
    before = old.search(gallery, 5)[1]
    larger = build("flat", gallery)
    larger.add(feature_set(images=9, seed=5))

    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(index_files, "_images_of", fail)  # after the vectors
        with pytest.raises(OSError, match="no space"):
            larger.save(tmp_path)
    assert len(list(tmp_path.glob("vectors.*"))) == 2
    np.testing.assert_array_equal(GalleryIndex.load(tmp_path).search(gallery, 5)[1], before)
    larger.save(tmp_path)
    assert len(list(tmp_path.glob("vectors.*"))) == 1 and len(GalleryIndex.load(tmp_path)) == IMAGES + 9


def test_an_index_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = feature_set()
    build("flat", gallery).save(tmp_path)
    newer = build("flat", gallery)
    newer.add(feature_set(images=9, seed=5))
    read = index_files._read_files

    def read_late(directory: str, manifest: dict) -> object:
        if manifest["number"] == 1:
            newer.save(tmp_path)  # removes the files that this manifest names
        return read(directory, manifest)

    monkeypatch.setattr(index_files, "_read_files", read_late)
    assert len(GalleryIndex.load(tmp_path)) == IMAGES + 9


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
    with pytest.raises(ValueError, match="features to add hold NaN"):
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


@pytest.mark.parametrize("images", [700, 10_000, 1_000_000, 100_000_000])
@pytest.mark.parametrize("dimensions", [31, 512, 2048])
def test_default_parameters_can_be_built_with_so_many_images(images: int, dimensions: int) -> None:
    for kind in KINDS:
        ann.check_parameters(kind, ann.default_parameters(kind, images, dimensions), dimensions)
    chosen = ann.default_parameters("ivfpq", images, dimensions)
    assert chosen["nprobe"] <= chosen["nlist"]
    assert ann.needed_images("ivfpq", chosen) <= max(images, 39 * 256)
    assert dimensions % chosen["m"] == 0 and chosen["m"] <= 64
    if images == 1_000_000 and dimensions == 512:
        assert (chosen["nlist"], chosen["m"], chosen["nprobe"]) == (4096, 64, 256)


def test_the_table_counts_rows_once() -> None:
    table = ImageTable(np.array([1, 4]), ["b", "e"], np.array([7, 8]), np.array([0, 1]), next_row=6)
    assert (
        len(table) == 2 and table.paths == ["", "b", "", "", "e", ""] and table.pids.tolist() == [-1, 7, -1, -1, 8, -1]
    )
    assert table.find([4], ["b"], [8]).tolist() == [1, 4]
    with pytest.raises(ValueError, match="no image of row '0'"):
        table.find([0], None, None)
