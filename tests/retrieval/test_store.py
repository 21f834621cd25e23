"""Feature sets on disk: what is read is what was written, and what was not written whole is refused."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastreid_parts.evaluation import Features
from fastreid_parts.files import LOCK
from fastreid_parts.retrieval import FeatureSet, load_feature_set, save_feature_set, store
from fastreid_parts.retrieval.manifest import write_manifest

PATHS = ["a b.jpg", 'with, comma and "quotes".png', "line\nbreak.jpg", "ümlaut.jpg", "bytes\udcff.jpg", "last"]


def make(scale: float = 1.0, **changes: Any) -> FeatureSet:
    rng = np.random.default_rng(0)
    features = Features(
        (scale * rng.normal(size=(6, 4))).astype(np.float32),
        np.array([7, 7, 8, 0, -1, 2**40]),
        np.array([0, 1, 0, 3, -1, 5]),
        PATHS,
    )
    return replace(FeatureSet(features, 2, "ab12", "TEST:\n  METRIC: euclidean\n", "Market1501"), **changes)


def edit_manifest(folder: Path, **changes: Any) -> None:
    """As a careful hand would: the checksum fits."""
    manifest = {**json.loads((folder / "manifest.json").read_text()), **changes}
    write_manifest(folder, {key: value for key, value in manifest.items() if value is not None})


def describe_again(folder: Path, name: str) -> None:
    """Make the manifest fit a changed file: the content itself must be refused then."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    content = (folder / name).read_bytes()
    described = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(folder, files={**files, name: described})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = make()
    save_feature_set(tmp_path / "new" / "set", written)
    read = load_feature_set(tmp_path / "new" / "set")
    np.testing.assert_array_equal(read.features.features, written.features.features)
    assert read.features.features.dtype == np.float32
    for column in ("pids", "camids"):
        np.testing.assert_array_equal(getattr(read.features, column), getattr(written.features, column))
        assert getattr(read.features, column).dtype == np.int64
    assert list(read.features.paths) == PATHS
    assert replace(read, features=written.features) == written
    query, gallery = read.split()
    assert list(query.paths) == PATHS[:2] and len(gallery) == 4
    assert read.to_cfg().TEST.METRIC == "euclidean" and make(config="").to_cfg().TEST.METRIC == "cosine"
    names = {path.name for path in (tmp_path / "new" / "set").iterdir()} - {LOCK}
    assert names == {"features.npy", "images.csv", "manifest.json"}


def test_float32_is_mapped_and_changes_reach_no_file(tmp_path: Path) -> None:
    save_feature_set(tmp_path, make())
    read = load_feature_set(tmp_path)
    assert isinstance(read.features.features, np.memmap)
    read.features.features[:] = 0
    np.testing.assert_array_equal(load_feature_set(tmp_path).features.features, make().features.features)


def test_half_takes_half_the_space(tmp_path: Path) -> None:
    save_feature_set(tmp_path, make(), half=True)
    assert np.load(tmp_path / "features.npy").dtype == np.float16
    read = load_feature_set(tmp_path).features.features
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, make().features.features.astype(np.float16).astype(np.float32))
    assert store.read_manifest(tmp_path)["dtype"] == "float16"
    with pytest.raises(ValueError, match="above 65504"):
        save_feature_set(tmp_path / "large", make(scale=1e5), half=True)
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    bad = make()
    bad.features.features[4, 1] = value
    with pytest.raises(ValueError, match="NaN or infinite values, first in row 4"):
        save_feature_set(tmp_path / "set", bad)
    assert not (tmp_path / "set").exists()
    save_feature_set(tmp_path, make())
    np.save(tmp_path / "features.npy", bad.features.features)
    describe_again(tmp_path, "features.npy")
    with pytest.raises(ValueError, match="NaN or infinite values, first in row 4"):
        load_feature_set(tmp_path)


@pytest.mark.parametrize("name", ["features.npy", "images.csv"])
def test_a_file_that_is_not_as_it_was_written_is_refused(tmp_path: Path, name: str) -> None:
    save_feature_set(tmp_path, make())
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{name}' has {len(content) - 1} bytes and had {len(content)}"):
        load_feature_set(tmp_path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name}' was changed after it was written"):
        load_feature_set(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name}' is missing"):
        load_feature_set(tmp_path)
    path.write_bytes(content)
    load_feature_set(tmp_path)


def test_contents_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_feature_set(tmp_path)
        save_feature_set(tmp_path, make())

    save_feature_set(tmp_path, make())
    edit_manifest(tmp_path, dimensions=5)
    refused(r"shape \(6, 4\) where its manifest says float32 of shape \(6, 5\)")
    np.save(tmp_path / "features.npy", make().features.features.astype(np.float64))
    describe_again(tmp_path, "features.npy")
    edit_manifest(tmp_path, dtype="float64")
    refused("holds float64; features are stored as float32 or float16")
    np.save(tmp_path / "features.npy", np.array([{}], dtype=object), allow_pickle=True)
    describe_again(tmp_path, "features.npy")
    refused("is no array of numbers")
    lines = (tmp_path / "images.csv").read_text(errors="surrogateescape").splitlines(keepends=True)
    for change, message in (
        (lines[:-1], "6 features and 5 images"),
        (lines[1:], "its first line is not path,identity,camera"),
        ([*lines[:-1], "last,7,5,8\n"], "images.csv' is no list of images"),
        ([*lines[:-1], "last,7\n"], "images.csv' is no list of images"),
    ):
        (tmp_path / "images.csv").write_text("".join(change), errors="surrogateescape")
        describe_again(tmp_path, "images.csv")
        refused(message)


def test_folders_that_hold_no_feature_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_feature_set(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no finished feature set"):
        load_feature_set(tmp_path)
    save_feature_set(tmp_path, make())
    for changes, message in (
        ({"fingerprint": None}, "does not say fingerprint"),
        ({"num_query": "2"}, "does not say num_query"),
        ({"num_query": 6}, "6 of 6 images as queries leave no gallery"),
        ({"files": {}}, "does not describe that file"),
    ):
        edit_manifest(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            load_feature_set(tmp_path)
        save_feature_set(tmp_path, make())
    for text in ("{", "[]", "\udc00", "[" * 100_000, '{"num_query": 1, "format": 3}'):
        (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ValueError, match="manifest.json"):
            load_feature_set(tmp_path)


def test_a_kill_while_writing_leaves_no_set_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(directory: Path, until: int) -> None:
        steps = []

        def replace_file(source: str, target: str) -> None:
            if len(steps) == until:
                raise KeyboardInterrupt
            steps.append(target)
            original(source, target)

        original = os.replace
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", replace_file)
            save_feature_set(directory, make(scale=2))

    for until in range(3):
        write_half(tmp_path / f"new{until}", until)
        with pytest.raises(ValueError, match="no finished feature set"):
            load_feature_set(tmp_path / f"new{until}")
        save_feature_set(tmp_path / "old", make())
        write_half(tmp_path / "old", until)
        if until:  # new features with the old manifest
            with pytest.raises(ValueError, match=r"features.npy' was changed"):
                load_feature_set(tmp_path / "old")
        else:
            load_feature_set(tmp_path / "old")


def test_a_feature_set_refuses_what_is_none() -> None:
    empty = Features(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), [])
    with pytest.raises(ValueError, match="at least one image"):
        make(features=empty, num_query=0)
    for num_query in (-1, 6):
        with pytest.raises(ValueError, match="leave no gallery"):
            make(num_query=num_query)
    with pytest.raises(ValueError, match="not divided into query and gallery"):
        make(num_query=0).split()
    with pytest.raises(KeyError):
        make(config="MODEL:\n  UNHEARD_OF: 1\n").to_cfg()
