"""An index on disk: a folder whose manifest names the files that belong together.

    manifest.json            what the index is, and size and SHA-256 of each of the others
    vectors.<n>.faiss        the faiss index
    exact.<n>.npy            float16 features that IVF-PQ compares again, mapped into memory and not read
    images.<n>.csv           row, path, identity, camera and whether the image was removed, in the order of the vectors

Every save writes files under a new number n and then the manifest, in one step; the files that it no longer names are
deleted at last. Whoever is killed on the way leaves the old index.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import faiss
import numpy as np

from ..files import atomic_write, remove_leftovers
from .calibration import Calibration
from .store import check_file

__all__ = ["FORMAT", "StoredIndex", "check_target", "read_index", "write_calibration", "write_index"]

#: Version of the folder's layout, in its manifest.
FORMAT = 1

_MANIFEST = "manifest.json"
_NAMES = {"vectors": "vectors.{}.faiss", "exact": "exact.{}.npy", "images": "images.{}.csv"}
_OURS = re.compile(r"(vectors\.\d+\.faiss|exact\.\d+\.npy|images\.\d+\.csv)")
_COLUMNS = ["row", "path", "identity", "camera", "removed"]
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
        """An index without images."""
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

    Raises:
        ValueError: the folder holds something else under the manifest's name.
    """
    directory = os.fspath(directory)
    check_target(directory)
    os.makedirs(directory, exist_ok=True)
    remove_leftovers(directory)
    number = _next_number(directory)
    writers: dict[str, Callable[[_HashingWriter], object]] = {
        "vectors": lambda file: faiss.write_index(stored.vectors, faiss.PyCallbackIOWriter(file.write, _CHUNK)),
        "images": lambda file: _write_images(file, stored),
    }
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
        "files": {role: _write_file(directory, _NAMES[role].format(number), write) for role, write in writers.items()},
    }
    _write_manifest(directory, manifest)


def check_target(directory: str | os.PathLike) -> None:
    """Refuse a folder that an index must not be written into, before there is one to write.

    Raises:
        ValueError: the folder holds something else under the manifest's name, such as stored features.
    """
    path = os.path.join(directory, _MANIFEST)
    if not os.path.isfile(path):
        return
    manifest: Any = {"parameters": {}}  # one that cannot be read is replaced
    with open(path, encoding="utf-8") as file, contextlib.suppress(ValueError):
        manifest = json.load(file)
    if not isinstance(manifest, dict) or "parameters" not in manifest:
        raise ValueError(f"'{directory}' holds something else than an index ({_MANIFEST}): name another folder")


def write_calibration(directory: str | os.PathLike, calibration: Calibration | None) -> None:
    """Put another threshold into the index of a folder; its files stay as they are.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no index.
    """
    directory = os.fspath(directory)
    manifest = _read_manifest(directory)
    manifest["calibration"] = None if calibration is None else asdict(calibration)
    _write_manifest(directory, manifest)


def read_index(directory: str | os.PathLike) -> StoredIndex:
    """Read an index, after a check of every file.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no index, or one of which a file is missing, truncated or changed.
    """
    directory = os.fspath(directory)
    manifest = _read_manifest(directory)
    try:
        return _read_files(directory, manifest)
    except ValueError:
        # Another process may have replaced the index since its manifest was read
        newer = _read_manifest(directory)
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
    columns = _read_images(files["images"])
    # Copy on write and not read-only, as features are read
    exact = np.load(files["exact"], mmap_mode="c", allow_pickle=False) if "exact" in files else None
    lengths = {"vectors": vectors.ntotal, "images": len(columns["rows"])}
    if exact is not None:
        lengths["exact"] = len(exact)
    if len(set(lengths.values())) != 1 or (lengths["images"] and columns["rows"].max() >= manifest["next_row"]):
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
        **columns,
    )


# ---- the manifest --------------------------------------------------------------------------------------------


def _read_manifest(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, _MANIFEST)
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"there is no folder '{directory}': an index is in the folder that it was saved to")
    if not os.path.isfile(path):
        raise ValueError(f"'{directory}' holds no index: there is no {_MANIFEST}, which is written last; {_AGAIN}")
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be read: {error}; {_AGAIN}") from error
    if not isinstance(manifest, dict) or "parameters" not in manifest:
        raise ValueError(f"'{directory}' holds no index; its {_MANIFEST} describes something else")
    if manifest.get("format") != FORMAT:
        version = manifest.get("format")
        raise ValueError(f"'{path}' is of format {version}, and this version reads format {FORMAT}: {_AGAIN}")
    wrong = [key for key, kind in _KEYS.items() if not isinstance(manifest.get(key), kind)]
    if wrong:
        raise ValueError(f"'{path}' does not say {', '.join(wrong)}: {_AGAIN}")
    return manifest


def _write_manifest(directory: str, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=2) + "\n"
    atomic_write(os.path.join(directory, _MANIFEST), lambda file: file.write(text.encode()))
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


class _HashingWriter:
    """A binary file that is written to once, with the size and SHA-256 of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)
        return len(data)

    def described(self) -> dict[str, Any]:
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}


def _write_file(directory: str, name: str, write: Callable[[_HashingWriter], object]) -> dict[str, Any]:
    described: dict[str, Any] = {}

    def write_and_describe(file: BinaryIO) -> None:
        writer = _HashingWriter(file)
        write(writer)
        described.update(writer.described())

    atomic_write(os.path.join(directory, name), write_and_describe)
    return {"file": name, **described}


def _checked_file(directory: str, described: Any) -> str:
    if not isinstance(described, dict) or not _OURS.fullmatch(str(described.get("file"))):
        raise ValueError(f"the manifest of the index '{directory}' does not describe its files: {_AGAIN}")
    path = os.path.join(directory, described["file"])
    check_file(path, described, _AGAIN)
    return path


def _write_images(file: _HashingWriter, stored: StoredIndex) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    columns = (stored.rows, stored.pids, stored.camids, stored.removed.astype(int))
    rows, pids, camids, removed = (column.tolist() for column in columns)
    writer.writerows(zip(rows, stored.paths, pids, camids, removed))
    # Names that are no UTF-8 go through as the bytes that they are
    file.write(text.getvalue().encode("utf-8", errors="surrogateescape"))


def _read_images(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            if next(reader, []) != _COLUMNS:
                raise ValueError(f"its first line is not {','.join(_COLUMNS)}")
            lines = list(reader)
        rows, pids, camids, removed = (np.array([int(line[n]) for line in lines], np.int64) for n in (0, 2, 3, 4))
    except (ValueError, IndexError, csv.Error) as error:
        raise ValueError(f"'{path}' is no list of images: {error}; {_AGAIN}") from error
    paths = [line[1] for line in lines]
    return {"rows": rows, "pids": pids, "camids": camids, "removed": removed.astype(bool), "paths": paths}
