"""What a folder says of itself: the checksum, the fields, and folders of before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastreid_parts.identification.results import FOLDER
from fastreid_parts.retrieval import load_feature_set, save_feature_set
from fastreid_parts.retrieval.index_files import INDEX_FOLDER
from fastreid_parts.retrieval.manifest import MANIFEST, UNFINISHED, UNREADABLE, write_described, write_manifest

from .galleries import PARAMETERS, build, feature_set, given_by


def said(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def test_folders_of_another_format_or_without_a_checksum_are_refused(tmp_path: Path) -> None:
    save_feature_set(tmp_path, feature_set(images=20))
    manifest = said(tmp_path)
    for version in (0, 1, 3, "2", None):
        (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "format": version}))
        with pytest.raises(ValueError, match=f"is of format {version}, and this version reads format 2: extract the"):
            load_feature_set(tmp_path)
    for checksum in (None, "", manifest["sha256"][::-1]):
        (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "sha256": checksum}))
        with pytest.raises(ValueError, match="was changed after it was written"):
            load_feature_set(tmp_path)


def test_a_checksum_is_of_the_content(tmp_path: Path) -> None:
    save_feature_set(tmp_path, feature_set(images=20))
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(said(tmp_path), sort_keys=True, indent=7))  # written down in another way
    load_feature_set(tmp_path)
    path.write_text(path.read_text().replace('"num_query": 20', '"num_query": 21'))
    with pytest.raises(ValueError, match="was changed after it was written"):
        load_feature_set(tmp_path)


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("flat", {"kind": "hnsw", "parameters": PARAMETERS["hnsw"]}, "parameters of the hnsw index are not none"),
        ("flat", {"kind": "tree"}, "does not say kind"),
        ("flat", {"metric": "euclidean"}, "another kind or metric than flat, euclidean"),
        ("flat", {"metric": "manhattan"}, "does not say metric"),
        ("flat", {"dimensions": 15}, "do not belong together"),
        ("flat", {"images": 699}, "do not belong together"),
        ("flat", {"images": True}, "does not say images"),
        ("flat", {"next_row": -1}, "does not say next_row"),
        ("flat", {"next_row": 699}, "do not ascend"),
        ("flat", {"calibration": {"threshold": 1}}, "is not what its manifest.json says"),
        ("flat", {"files": []}, "does not say files"),
        ("ivfpq", {"parameters": {**PARAMETERS["ivfpq"], "nlist": 8}}, "nlist of the vectors is 4, not 8"),
        ("ivfpq", {"parameters": {**PARAMETERS["ivfpq"], "rescore": 0}}, "does not name its files"),
        ("ivfpq", {"parameters": {**PARAMETERS["ivfpq"], "nprobe": 0}}, "nprobe is a whole number and at least 1"),
        ("hnsw", {"parameters": {"M": 31, "efConstruction": 80, "efSearch": 64}}, "M of the vectors is 32, not 31"),
    ],
)
def test_fields_are_checked_whatever_the_checksum_says(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    build(kind, feature_set()).save(tmp_path)
    write_manifest(tmp_path, {**said(tmp_path), **changes})
    with pytest.raises(ValueError, match=message) as caught:
        given_by(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "kind, old, new, message",
    [
        ("ivfpq", "\n6,", "\n5,", "other images than the table"),
        ("flat", "\n0,", "\n1,", "do not ascend"),  # two of one number
        ("flat", ",0\n", ",1\n", "do not belong together"),  # hidden, in an index that hides nothing
        ("hnsw", ",0\n", ",2\n", "do not belong together"),
        ("flat", "\n0,", "\nzero,", "is no list of images"),
    ],
)
def test_a_table_of_other_images_is_refused(tmp_path: Path, kind: str, old: str, new: str, message: str) -> None:
    index = build(kind, feature_set())
    index.remove(rows=[5])
    index.save(tmp_path)
    manifest = said(tmp_path)
    table = tmp_path / manifest["files"]["images"]["file"]
    content = table.read_text().replace(old, new, 1).encode()
    described = write_described(table, lambda file: file.write(content))
    manifest["files"]["images"].update(described)
    write_manifest(tmp_path, manifest)
    with pytest.raises(ValueError, match=message):
        given_by(tmp_path)


def test_states_of_a_folder(tmp_path: Path) -> None:
    """One for what is there, none for nothing, and another kind is not touched."""
    assert INDEX_FOLDER.state(tmp_path / "nowhere") == INDEX_FOLDER.state(tmp_path) == ""
    build("flat", feature_set()).save(tmp_path / "i")
    first = INDEX_FOLDER.state(tmp_path / "i")
    build("flat", feature_set(seed=1)).save(tmp_path / "i")
    assert INDEX_FOLDER.state(tmp_path / "i") not in ("", first)
    whole = (tmp_path / "i" / MANIFEST).read_text()
    for text in ("{", "", whole[:-9], whole.replace('"images": 700', '"images": 701'), whole.replace(": 2,", ": 3,")):
        (tmp_path / "i" / MANIFEST).write_text(text)
        assert INDEX_FOLDER.state(tmp_path / "i") == UNREADABLE
    (tmp_path / "i" / MANIFEST).unlink()  # an unfinished identification goes on
    assert INDEX_FOLDER.state(tmp_path / "i") == UNREADABLE and FOLDER.state(tmp_path / "i") == ""
    (tmp_path / "i" / UNFINISHED).touch()  # of a first save
    assert INDEX_FOLDER.state(tmp_path / "i") == ""
    build("flat", feature_set()).save(tmp_path / "i", over="")
    assert not (tmp_path / "i" / UNFINISHED).exists()
    save_feature_set(tmp_path / "f", feature_set())
    with pytest.raises(ValueError, match="something else than an index"):
        INDEX_FOLDER.state(tmp_path / "f")
    with pytest.raises(ValueError, match="something else than a feature set"):
        build("flat", feature_set()).save(tmp_path / "g")
        save_feature_set(tmp_path / "g", feature_set())
