"""An index that grows on disk: what is added and removed is written by itself, and reads as if all had been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastreid_parts.retrieval import GalleryIndex, index_files
from fastreid_parts.retrieval.manifest import check_file, write_described, write_manifest

from .galleries import IMAGES, KINDS, build, feature_set
from .test_manifest import said


def files_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix in (".faiss", ".npy", ".csv")}


def assert_equal(one: GalleryIndex, other: GalleryIndex) -> None:
    """The same images, and the same found."""
    assert one.describe() == other.describe()
    for row in np.flatnonzero(one.images.present):
        assert one.images.paths[row] == other.images.paths[row]
    np.testing.assert_array_equal(one.images.present, other.images.present)
    np.testing.assert_array_equal(one.images.column("identity"), other.images.column("identity"))
    query = feature_set().split()[0].features
    for found, expected in zip(one.search(query, 20), other.search(query, 20)):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_costs_what_is_changed(kind: str, tmp_path: Path) -> None:
    build(kind, feature_set()).save(tmp_path)
    first = files_of(tmp_path)
    with GalleryIndex.held(tmp_path) as index:
        rows = index.add(feature_set(images=6, seed=3))
        index.save(tmp_path)
    with GalleryIndex.held(tmp_path) as index:
        index.remove(rows=[1, int(rows[2])])
        index.save(tmp_path)
    later = files_of(tmp_path)
    assert {name: later[name] for name in first} == first
    assert later.keys() - first.keys() == {"added.2.npy", "added.2.csv", "removed.3.npy"}
    assert sum(later.values()) - sum(first.values()) < 2000
    index = GalleryIndex.load(tmp_path)
    assert len(index) == IMAGES + 4 and not index.images.present[[1, rows[2]]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_changes_reads_as_what_was_written(kind: str, tmp_path: Path) -> None:
    """Added, removed, and added and removed again before it was saved, by one process or by several."""
    for seed in range(4):
        random = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        index = build(kind, feature_set())
        index.save(folder)
        for number in range(12):
            for step in range(random.integers(1, 4)):
                if random.integers(2):
                    index.add(feature_set(images=int(random.integers(1, 9)), seed=100 * number + step + 1))
                else:
                    there = np.flatnonzero(index.images.present)
                    index.remove(rows=random.choice(there[-40:], 3, replace=False).tolist())
            index.save(folder)
            if kind == "hnsw" or random.integers(2):  # a graph that was written and read grows by other random numbers
                index = GalleryIndex.load(folder)
        assert_equal(GalleryIndex.load(folder), index)
        index.compact()
        index.save(folder)
        assert {name.partition(".")[0] for name in files_of(folder)} <= {"vectors", "exact", "images"}
        assert_equal(GalleryIndex.load(folder), index)


def test_much_is_written_as_a_whole(tmp_path: Path) -> None:
    index = build("flat", feature_set())
    index.save(tmp_path)
    for seed in range(1, 12):
        index.add(feature_set(images=20, seed=seed))
        index.save(tmp_path)
    names = {name.partition(".")[0] for name in files_of(tmp_path)}
    assert len(files_of(tmp_path)) < 2 * 11 and "added" in names
    index.add(feature_set(images=IMAGES // 4, seed=50))
    index.save(tmp_path)
    assert {name.partition(".")[0] for name in files_of(tmp_path)} == {"vectors", "images"}


def test_an_index_with_columns_grows(tmp_path: Path) -> None:
    index = build("flat", feature_set())
    index.images.paths = [str(tmp_path / path) for path in index.images.paths]
    (tmp_path / "table.csv").write_text(f"path,site\n{index.images.paths[3]},till\n")
    index.save(tmp_path / "index")
    index.label(tmp_path / "table.csv")
    index.save(tmp_path / "index")
    index.add(feature_set(images=2, seed=3))
    index.save(tmp_path / "index")
    assert any(name.startswith("added") for name in files_of(tmp_path / "index"))
    images = GalleryIndex.load(tmp_path / "index").images
    assert images.where("site == 'till'").nonzero()[0].tolist() == [3] and len(images.column("site")) == IMAGES + 2


def test_what_a_program_writes_into_the_table_is_kept(tmp_path: Path) -> None:
    index = build("flat", feature_set())
    index.save(tmp_path)
    for seed, (column, value) in enumerate((("paths", "moved.jpg"), ("pids", 77), ("camids", 9)), start=1):
        index = GalleryIndex.load(tmp_path)
        getattr(index.images, column)[3] = value
        index.add(feature_set(images=1, seed=seed))
        index.save(tmp_path)
    images = GalleryIndex.load(tmp_path).images
    assert (images.paths[3], images.pids[3], images.camids[3]) == ("moved.jpg", 77, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_many_segments_are_joined(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To one, and the first files stay; what was added and removed since is not kept."""
    monkeypatch.setattr(index_files, "_MOST_SEGMENTS", 3)
    index = build(kind, feature_set())
    index.save(tmp_path)
    first = files_of(tmp_path).keys()
    most = 0
    for seed in range(1, 9):
        with GalleryIndex.held(tmp_path) as held:
            rows = held.add(feature_set(images=4, seed=seed))
            held.remove(rows=[seed, int(rows[0])])
            held.save(tmp_path)
            assert not held.body.is_read
        index.remove(rows=[seed, int(index.add(feature_set(images=4, seed=seed))[0])])
        most = max(most, len(said(tmp_path)["segments"]))
        assert first <= files_of(tmp_path).keys()
    assert most == 3 and len(said(tmp_path)["segments"]) == 2
    vectors = [np.load(tmp_path / one["added"]["file"]) for one in said(tmp_path)["segments"]]
    assert [len(one) for one in vectors] == [21, 4]  # three of each of seven, and the last
    loaded = GalleryIndex.load(tmp_path)
    assert len(loaded) == len(index) and loaded.images.paths == index.images.paths
    if kind != "hnsw":  # whose graph hides, and grows by other random numbers
        assert_equal(loaded, index)


@pytest.mark.parametrize("kind", KINDS)
def test_who_joins_segments_can_search_and_go_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_files, "_MOST_SEGMENTS", 2)
    index = build(kind, feature_set())
    index.save(tmp_path)
    index.add(feature_set(images=4, seed=9))
    index.save(tmp_path)  # a segment, which is there when the index is opened
    with GalleryIndex.held(tmp_path) as held:
        for seed in range(1, 5):  # joins twice
            rows = held.add(feature_set(images=4, seed=seed))
            held.remove(rows=[seed, int(rows[0])])
            held.save(tmp_path)
        assert not held.body.is_read and len(said(tmp_path)["segments"]) == 1
        assert_equal(held, GalleryIndex.load(tmp_path))
        held.remove(rows=held.add(feature_set(images=4, seed=6))[:1].tolist())
        held.save(tmp_path)
    if kind == "hnsw":  # a graph that was written and read grows by other random numbers
        held = GalleryIndex.load(tmp_path)
    assert_equal(GalleryIndex.load(tmp_path), held)


def test_segments_that_cancel_out_leave_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_files, "_MOST_SEGMENTS", 1)
    index = build("flat", feature_set())
    index.save(tmp_path)
    rows = index.add(feature_set(images=4, seed=3))
    index.save(tmp_path)
    index.remove(rows=rows.tolist())
    index.save(tmp_path)
    assert said(tmp_path)["segments"] == []
    assert_equal(GalleryIndex.load(tmp_path), index)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_reads_no_vectors(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the first ones nor those of segments; what was done then is there for who reads them."""
    index = build(kind, feature_set())
    index.save(tmp_path)
    opened: list[str] = []

    def check(path: str, described: Any, remedy: str, content: bool = True) -> None:
        opened.extend([Path(path).name.partition(".")[0]] * content)
        check_file(path, described, remedy, content)

    monkeypatch.setattr(index_files, "check_file", check)
    for seed in (3, 4):
        with GalleryIndex.held(tmp_path) as held:
            rows = held.add(feature_set(images=6, seed=seed))
            held.remove(rows=[seed, int(rows[1])])
            held.save(tmp_path)
            assert not held.body.is_read
        index.add(feature_set(images=6, seed=seed))
        index.remove(rows=[seed, int(rows[1])])
    assert opened == ["images", "images", "added", "removed"]  # tables, and rows that were removed
    if kind == "hnsw":  # a graph that was written and read grows by other random numbers
        index = GalleryIndex.load(tmp_path)
    assert_equal(held, index)  # reads them, with the last change
    assert held.body.is_read
    assert_equal(GalleryIndex.load(tmp_path), index)


def test_damaged_vectors_are_refused_where_they_are_read(tmp_path: Path) -> None:
    build("flat", feature_set()).save(tmp_path)
    (vectors,) = tmp_path.glob("vectors.*")
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    with GalleryIndex.held(tmp_path) as index:
        index.add(feature_set(images=6, seed=3))
        index.save(tmp_path)
        with pytest.raises(ValueError, match=r"vectors\.1\.faiss' was changed after it was written"):
            index.search(feature_set(), 3)
        index.compact()
        with pytest.raises(ValueError, match="was changed after it was written"):  # and gets no new checksum
            index.save(tmp_path)
    with pytest.raises(ValueError, match="was changed after it was written"):
        GalleryIndex.load(tmp_path)
    vectors.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="truncated"), GalleryIndex.held(tmp_path):
        pass


def test_another_folder_gets_the_whole(tmp_path: Path) -> None:
    index = build("ivfpq", feature_set())
    index.save(tmp_path / "one")
    index.add(feature_set(images=3, seed=3))
    index.save(tmp_path / "two")
    assert not any(name.startswith("added") for name in files_of(tmp_path / "two"))
    index.save(tmp_path / "one")  # two's changes are not one's
    for name in ("one", "two"):
        assert_equal(GalleryIndex.load(tmp_path / name), index)


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build("flat", feature_set())
    index.save(tmp_path)
    index.add(feature_set(images=3, seed=3))
    index.remove(rows=[0])

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    for function in ("_write_images", "write_manifest"):
        with monkeypatch.context() as patch:
            patch.setattr(index_files, function, fail)
            with pytest.raises(OSError, match="no space"):
                index.save(tmp_path)
        assert len(GalleryIndex.load(tmp_path)) == IMAGES
    index.save(tmp_path)
    assert_equal(GalleryIndex.load(tmp_path), index)


@pytest.mark.parametrize(
    ("role", "content"),
    [
        ("removed", np.array([2, 2])), ("removed", np.array([-1])), ("removed", np.array([IMAGES + 99])),
        ("removed", np.array([0.5])), ("removed", np.array([[2]])),
        ("added", np.zeros((2, 16), np.float32)), ("added", np.zeros((3, 15), np.float32)),
        ("added", np.zeros((3, 16))), ("added", np.full((3, 16), np.nan, np.float32)),
    ],
)  # fmt: skip
def test_edited_segments_are_refused(role: str, content: np.ndarray, tmp_path: Path) -> None:
    """Whatever the checksum says."""
    index = build("flat", feature_set())
    index.save(tmp_path)
    index.add(feature_set(images=3, seed=3))
    index.remove(rows=[1])
    index.save(tmp_path)
    manifest = said(tmp_path)
    (segment,) = manifest["segments"]
    place = tmp_path / segment[role]["file"]
    segment[role].update(write_described(place, lambda file: np.save(file, content)))
    write_manifest(tmp_path, manifest)
    with pytest.raises(ValueError, match="is not what its manifest.json says|do not belong together"):
        GalleryIndex.load(tmp_path)
