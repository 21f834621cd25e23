"""A stored index: whole or refused, whatever interrupts its writing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastreid_parts.evaluation import Features
from fastreid_parts.files import LOCK
from fastreid_parts.retrieval import Calibration, FeatureSet, GalleryIndex, index_files, save_feature_set
from fastreid_parts.retrieval.manifest import write_manifest

from .galleries import IMAGES, KINDS, build, feature_set


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
    loaded.compact()
    loaded.save(tmp_path / "new" / "index")  # over the files that it is mapped from
    assert len(GalleryIndex.load(tmp_path / "new" / "index")) == IMAGES - 2
    files = {path.name for path in (tmp_path / "new" / "index").iterdir()} - {LOCK}
    names = {name.split(".")[0] for name in files}
    assert names == {"manifest", "vectors", "images"} | ({"exact"} if kind == "ivfpq" else set())
    assert len(files) == len(names)  # nothing of the first save is left


def test_paths_are_kept_as_they_are(tmp_path: Path) -> None:
    odd = ['a "quoted", name.jpg', "näher\n.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    features = Features(np.eye(3, dtype=np.float32), np.arange(3), np.arange(3), odd)
    GalleryIndex.build(FeatureSet(features, 0, "", "", "")).save(tmp_path)
    assert GalleryIndex.load(tmp_path).images.paths == odd


def saved(tmp_path: Path) -> Path:
    build("ivfpq", feature_set()).save(tmp_path / "index")
    return tmp_path / "index"


def edit(path: Path, **values: object) -> None:
    """As a careful hand would: the checksum fits, so that the content itself must be refused."""
    write_manifest(path.parent, {**json.loads(path.read_text()), **values})


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
        (lambda: manifest.write_text(text.replace('"format": 2', '"format": 99')), "is of format 99"),
        (lambda: edit(manifest, kind=None), "does not say kind"),
        (lambda: edit(manifest, files={}), "does not name its files"),
        (lambda: edit(manifest, next_row=3), "do not ascend"),
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
        patch.setattr(index_files, "_write_images", fail)  # after the vectors
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
