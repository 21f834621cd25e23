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
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np

from ..data.names import columns_of, names_of
from ..files import csv_bytes, remove_leftovers, write_json
from .calibration import Calibration
from .image_table import ImageTable
from .manifest import IMAGE_COLUMNS, MANIFEST, FolderKind, check_file, read_images, write_described

#: Version of the folder's layout, in its manifest.
FORMAT = 2

_ENDINGS = {"vectors": "faiss", "exact": "npy", "images": "csv"}
_OURS = re.compile(r"(vectors\.\d+\.faiss|exact\.\d+\.npy|images\.\d+\.csv)")
_COLUMNS = ("row", *IMAGE_COLUMNS, "removed")
_SAID = {"kind": str, "metric": str, "parameters": dict, "fingerprint": str, "config": str}  # as in `StoredIndex`
_KEYS = {"number": int, **_SAID, "next_row": int, "files": dict}
_CHUNK = 1 << 22  # bytes
_AGAIN = "build the index again"
_KIND = FolderKind("index", FORMAT, _KEYS, mark="parameters", remedy=_AGAIN, unfinished=_AGAIN)


@dataclass(eq=False)
class StoredIndex:
    """What an index consists of; P vectors, in the order in which they were added.

    Attributes:
        kind: one of `fastreid_parts.retrieval.ann.KINDS`.
        metric: `euclidean` or `cosine`.
        parameters: of the kind; see `fastreid_parts.retrieval.ann.default_parameters`.
        fingerprint: of the model, see `model_fingerprint`.
        config: the model's config as `cfg.dump()` writes it.
        vectors: the faiss index.
        rows: (P,) int64, ascending: the image of each vector. The lists of IVF-PQ know the rows themselves; there they
            are those of the features in `exact`.
        exact: (P, D) float16 features in consecutive parts, where the index keeps them; else empty.
        images: paths, identities and cameras, by row; an image that is not there any more may have a vector still.
        calibration: threshold on the distance for "the same person", or None.
    """

    kind: str
    metric: str
    parameters: dict[str, int]
    fingerprint: str
    config: str
    vectors: faiss.Index
    rows: np.ndarray
    exact: list[np.ndarray]
    images: ImageTable
    calibration: Calibration | None = None

    def joined_exact(self) -> np.ndarray:
        """Join the parts of `exact` when they are needed, so that adding in many steps copies them once."""
        if len(self.exact) > 1:
            self.exact = [np.concatenate(self.exact)]
        return self.exact[0]


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
    # Higher than that of every file that is there: an unfinished save may have left some
    number = 1 + max((int(name.split(".")[1]) for name in os.listdir(directory) if _OURS.fullmatch(name)), default=0)
    writers: dict[str, Callable[[Any], object]] = {
        "vectors": lambda file: faiss.write_index(stored.vectors, faiss.PyCallbackIOWriter(file.write, _CHUNK)),
        "images": lambda file: file.write(_images_of(stored)),
    }

    def written(name: str, write: Callable[[Any], object]) -> dict[str, Any]:
        return {"file": name, **write_described(os.path.join(directory, name), write)}

    if stored.exact:
        writers["exact"] = lambda file: np.save(file, stored.joined_exact(), allow_pickle=False)
    manifest = {
        "format": FORMAT,
        "number": number,
        **{name: getattr(stored, name) for name in _SAID},
        "parameters": {name: int(value) for name, value in stored.parameters.items()},
        "images": len(stored.images),
        "dimensions": stored.vectors.d,
        "next_row": len(stored.images.present),
        "calibration": None if stored.calibration is None else asdict(stored.calibration),
        "files": {role: written(f"{role}.{number}.{_ENDINGS[role]}", write) for role, write in writers.items()},
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
    table = read_images(files["images"], _COLUMNS, _AGAIN)
    rows = table["row"]
    # Copy on write and not read-only, as features are read
    exact = [np.load(files["exact"], mmap_mode="c", allow_pickle=False)] if "exact" in files else []
    lengths = [vectors.ntotal, len(rows), *map(len, exact)]
    if len(set(lengths)) != 1 or rows.max(initial=-1) >= manifest["next_row"]:
        raise ValueError(f"the files of the index '{directory}' do not belong together (lengths {lengths}): {_AGAIN}")
    pids, camids, names = columns_of(table["identity"], table["camera"])
    images = ImageTable(rows, table["path"], pids, camids, manifest["next_row"], names)
    images.remove(rows[table["removed"].astype(bool)])
    calibration = manifest.get("calibration")
    return StoredIndex(
        **{name: manifest[name] for name in _SAID},
        vectors=vectors,
        rows=rows,
        exact=exact,
        images=images,
        calibration=None if calibration is None else Calibration(**calibration),
    )


# ---- the manifest --------------------------------------------------------------------------------------------


def _write_manifest(directory: str, manifest: dict[str, Any]) -> None:
    write_json(os.path.join(directory, MANIFEST), manifest)
    kept = {described["file"] for described in manifest["files"].values()}
    for name in os.listdir(directory):
        if _OURS.fullmatch(name) and name not in kept:
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(directory, name))


# ---- the other files -----------------------------------------------------------------------------------------


def _checked_file(directory: str, described: Any) -> str:
    if not isinstance(described, dict) or not _OURS.fullmatch(str(described.get("file"))):
        raise ValueError(f"the manifest of the index '{directory}' does not describe its files: {_AGAIN}")
    path = os.path.join(directory, described["file"])
    check_file(path, described, _AGAIN)
    return path


def _images_of(stored: StoredIndex) -> bytes:
    rows, images = stored.rows.tolist(), stored.images
    identities, cameras = names_of(images.pids[stored.rows], images.camids[stored.rows], images.names)
    paths, removed = [images.paths[row] for row in rows], (~images.present[stored.rows]).astype(int).tolist()
    return csv_bytes(_COLUMNS, zip(rows, paths, identities, cameras, removed))
