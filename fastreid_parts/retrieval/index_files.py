"""An index on disk: a folder whose manifest names the files that belong together.

    manifest.json            what the index is, and size and SHA-256 of each of the others
    vectors.<n>.faiss        the faiss index
    exact.<n>.npy            float16 features that IVF-PQ compares again, mapped into memory and not read
    images.<n>.csv           row, path, identity, camid and whether the image was removed, in the order of the vectors

Every save writes files under a new number n and then the manifest, in one step; the files that it no longer names are
deleted at last. Whoever is killed on the way leaves the old index.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np

from ..files import csv_bytes, remove_leftovers, write_json
from .calibration import Calibration
from .manifest import MANIFEST, FolderKind, check_file, read_images, write_described

#: Version of the folder's layout, in its manifest.
FORMAT = 1

_NAMES = {"vectors": "vectors.{}.faiss", "exact": "exact.{}.npy", "images": "images.{}.csv"}
_OURS = re.compile(r"(vectors\.\d+\.faiss|exact\.\d+\.npy|images\.\d+\.csv)")
_COLUMNS = ["row", "path", "identity", "camid", "removed"]
_KEYS = {
    "number": int,
    "kind": str,
    "metric": str,
    "parameters": dict,
    "next_row": int,
    "fingerprint": str,
    "config": str,
    "files": dict,
}
_CHUNK = 1 << 22  # bytes
_AGAIN = "build the index again"
_KIND = FolderKind("index", FORMAT, _KEYS, mark="parameters", remedy=_AGAIN, unfinished=_AGAIN)


@dataclass(frozen=True)
class StoredIndex:
    """What an index consists of; P vectors, in the order in which they were added.

    Attributes:
        kind: of the index.
        metric: `euclidean` or `cosine`.
        parameters: of the kind.
        vectors: the faiss index.
        exact: (P, D) float16 features, where the index keeps them.
        rows: (P,) int64, ascending.
        removed: (P,) bool, vectors that are there but no longer count.
        pids: (P,) int64.
        camids: (P,) int64.
        paths: P image files.
        next_row: the row that the next image gets.
        fingerprint: of the model.
        config: the model's.
        calibration: threshold for "the same person", or None.
    """

    kind: str
    metric: str
    parameters: dict[str, int]
    vectors: faiss.Index
    exact: np.ndarray | None
    rows: np.ndarray
    removed: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    paths: list[str]
    next_row: int
    fingerprint: str
    config: str
    calibration: Calibration | None

    @classmethod
    def empty(
        cls, kind: str, metric: str, parameters: dict[str, int], vectors: faiss.Index, fingerprint: str, config: str
    ) -> StoredIndex:
        """Make an index without images.

        Args:
            kind: of the index.
            metric: `euclidean` or `cosine`.
            parameters: of the kind.
            vectors: the faiss index.
            fingerprint: of the model.
            config: the model's.
        """
        none = np.empty(0, np.int64)
        return cls(
            kind,
            metric,
            parameters,
            vectors,
            None,
            none,
            none.astype(bool),
            none,
            none,
            [],
            0,
            fingerprint,
            config,
            None,
        )


def write_index(directory: str | os.PathLike, stored: StoredIndex) -> None:
    """Write an index into a folder, in place of one that is there.

    Args:
        directory: made where it is not there.
        stored: the index.

    Raises:
        ValueError: the folder holds something else under the manifest's name.
    """
    directory = os.fspath(directory)
    check_target(directory)
    os.makedirs(directory, exist_ok=True)
    remove_leftovers(directory)
    number = _next_number(directory)
    writers: dict[str, Callable[[Any], object]] = {
        "vectors": lambda file: faiss.write_index(stored.vectors, faiss.PyCallbackIOWriter(file.write, _CHUNK)),
        "images": lambda file: file.write(_images_of(stored)),
    }

    def written(name: str, write: Callable[[Any], object]) -> dict[str, Any]:
        return {"file": name, **write_described(os.path.join(directory, name), write)}

    if stored.exact is not None:
        writers["exact"] = lambda file: np.save(file, stored.exact, allow_pickle=False)
    manifest = {
        "format": FORMAT,
        "number": number,
        "kind": stored.kind,
        "metric": stored.metric,
        "parameters": {name: int(value) for name, value in stored.parameters.items()},
        "images": int((~stored.removed).sum()),
        "dimensions": stored.vectors.d,
        "next_row": stored.next_row,
        "fingerprint": stored.fingerprint,
        "config": stored.config,
        "calibration": None if stored.calibration is None else asdict(stored.calibration),
        "files": {role: written(_NAMES[role].format(number), write) for role, write in writers.items()},
    }
    _write_manifest(directory, manifest)


def check_target(directory: str | os.PathLike) -> None:
    """Refuse a folder that an index must not be written into, before there is one to write.

    Raises:
        ValueError: the folder holds something else under the manifest's name, such as stored features.
    """
    path = os.path.join(directory, MANIFEST)
    if not os.path.isfile(path):
        return
    manifest: Any = {"parameters": {}}  # one that cannot be read is replaced
    with open(path, encoding="utf-8") as file, contextlib.suppress(ValueError):
        manifest = json.load(file)
    if not isinstance(manifest, dict) or "parameters" not in manifest:
        raise ValueError(f"'{directory}' holds something else than an index ({MANIFEST}): name another folder")


def write_calibration(directory: str | os.PathLike, calibration: Calibration | None) -> None:
    """Put another threshold into the index of a folder; its files stay as they are.

    Args:
        directory: of the index.
        calibration: the threshold; None takes one away.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no index.
    """
    directory = os.fspath(directory)
    manifest = _KIND.read(directory)
    manifest["calibration"] = None if calibration is None else asdict(calibration)
    _write_manifest(directory, manifest)


def read_index(directory: str | os.PathLike) -> StoredIndex:
    """Read an index, after a check of every file.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no index, or one of which a file is missing, truncated or changed.
    """
    directory = os.fspath(directory)
    manifest = _KIND.read(directory)
    try:
        return _read_files(directory, manifest)
    except ValueError:
        # Another process may have replaced the index since its manifest was read
        newer = _KIND.read(directory)
        if newer["number"] == manifest["number"]:
            raise
        return _read_files(directory, newer)


def _read_files(directory: str, manifest: dict[str, Any]) -> StoredIndex:
    files = {role: _checked_file(directory, described) for role, described in manifest["files"].items()}
    if "vectors" not in files or "images" not in files:
        raise ValueError(f"the manifest of the index '{directory}' does not name its files: {_AGAIN}")
    try:
        vectors = faiss.read_index(files["vectors"])
    except RuntimeError as error:
        raise ValueError(f"faiss {faiss.__version__} cannot read '{files['vectors']}': {error}") from error
    images = read_images(files["images"], _COLUMNS, _AGAIN)
    # Copy on write and not read-only, as features are read
    exact = np.load(files["exact"], mmap_mode="c", allow_pickle=False) if "exact" in files else None
    lengths = {"vectors": vectors.ntotal, "images": len(images["row"])}
    if exact is not None:
        lengths["exact"] = len(exact)
    if len(set(lengths.values())) != 1 or (lengths["images"] and images["row"].max() >= manifest["next_row"]):
        raise ValueError(f"the files of the index '{directory}' do not belong together ({lengths}): {_AGAIN}")
    calibration = manifest.get("calibration")
    return StoredIndex(
        kind=manifest["kind"],
        metric=manifest["metric"],
        parameters=manifest["parameters"],
        vectors=vectors,
        exact=exact,
        next_row=manifest["next_row"],
        fingerprint=manifest["fingerprint"],
        config=manifest["config"],
        calibration=None if calibration is None else Calibration(**calibration),
        rows=images["row"],
        removed=images["removed"].astype(bool),
        pids=images["identity"],
        camids=images["camid"],
        paths=images["path"],
    )


# ---- the manifest --------------------------------------------------------------------------------------------


def _write_manifest(directory: str, manifest: dict[str, Any]) -> None:
    write_json(os.path.join(directory, MANIFEST), manifest)
    kept = {described["file"] for described in manifest["files"].values()}
    for name in os.listdir(directory):
        if _OURS.fullmatch(name) and name not in kept:
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(directory, name))


def _next_number(directory: str) -> int:
    """Higher than that of every file that is there: an unfinished save may have left some."""
    numbers = [int(name.split(".")[1]) for name in os.listdir(directory) if _OURS.fullmatch(name)]
    return max(numbers, default=0) + 1


# ---- the other files -----------------------------------------------------------------------------------------


def _checked_file(directory: str, described: Any) -> str:
    if not isinstance(described, dict) or not _OURS.fullmatch(str(described.get("file"))):
        raise ValueError(f"the manifest of the index '{directory}' does not describe its files: {_AGAIN}")
    path = os.path.join(directory, described["file"])
    check_file(path, described, _AGAIN)
    return path


def _images_of(stored: StoredIndex) -> bytes:
    columns = (stored.rows, stored.pids, stored.camids, stored.removed.astype(int))
    rows, pids, camids, removed = (column.tolist() for column in columns)
    return csv_bytes(_COLUMNS, zip(rows, stored.paths, pids, camids, removed))
