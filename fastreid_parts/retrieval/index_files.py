"""An index on disk: a folder whose manifest names the files that belong together.

    manifest.json            what the index is, size and SHA-256 of each of the others, and its own SHA-256
    vectors.<n>.faiss        the faiss index
    exact.<n>.npy            float16 features that IVF-PQ compares again, mapped into memory and not read
    images.<n>.csv           row, path, identity, camera and whether the image was removed, in the order of the vectors,
                             and the user's columns, of the kinds that the manifest says

Every save writes files under a new number n and then the manifest, in one step; the files that it no longer names are
deleted at last. Whoever is killed on the way leaves the old index. Who changes a folder holds it by .lock, and writes
over no other state of it than the one that was read: the checksum of the manifest tells one from another.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import faiss
import numpy as np

from ..data.names import columns_of, names_of
from ..evaluation.exact import METRICS
from ..files import csv_bytes, locked, remove_leftovers
from . import ann
from .calibration import Calibration
from .columns import check_name, kind_of, texts_of, typed, unknown
from .image_table import ImageTable
from .manifest import IMAGE_COLUMNS, MANIFEST, FolderKind, check_file, read_images, write_described, write_manifest

_ENDINGS = {"vectors": "faiss", "exact": "npy", "images": "csv"}
_OURS = re.compile(r"(vectors\.\d+\.faiss|exact\.\d+\.npy|images\.\d+\.csv)")
_COLUMNS = ("row", *IMAGE_COLUMNS, "removed")
_NUMBERS_OF_IMAGES = ("row", "removed")
# As in `StoredIndex`
_SAID = {"kind": tuple(ann.KINDS), "metric": METRICS, "parameters": dict, "fingerprint": str, "config": str}
_NUMBERS = dict.fromkeys(("number", "images", "dimensions", "next_row"), int)
_KEYS = {**_SAID, **_NUMBERS, "calibration": dict | None, "last_change": str | None, "columns": dict | None,
         "files": dict}  # fmt: skip
_CHUNK = 1 << 22  # bytes
_AGAIN = "build the index again"

#: What such a folder is.
INDEX_FOLDER = FolderKind("index", _KEYS, mark="parameters", remedy=_AGAIN, unfinished=_AGAIN)


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
        last_change: digest of what was built, added or removed last, so that who was killed after it finds it done.
        states: folder -> checksum of its manifest, when this index was read from there or written there.
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
    last_change: str | None = None
    states: dict[str, str] = field(default_factory=dict)

    def joined_exact(self) -> np.ndarray:
        """Join the parts of `exact` when they are needed, so that adding in many steps copies them once."""
        if len(self.exact) > 1:
            self.exact = [np.concatenate(self.exact)]
        return self.exact[0]


def write_index(directory: str | os.PathLike, stored: StoredIndex, over: str | None = None) -> None:
    """Write an index into a folder, in place of one that is there.

    Args:
        directory: made where it is not there.
        stored: the index.
        over: the state of the folder that may be replaced, as `FolderKind.state` told it; by default the one that this
            index was read from there or written there, or any if it never was.

    Raises:
        ValueError: the folder holds something else under the manifest's name, or another state of the index.
    """
    directory = os.fspath(directory)
    INDEX_FOLDER.state(directory)
    with locked(directory):
        _check_state(directory, stored.states.get(os.path.realpath(directory)) if over is None else over)
        remove_leftovers(directory)
        # Higher than that of every file that is there: an unfinished save may have left some
        number = 1 + max(
            (int(name.split(".")[1]) for name in os.listdir(directory) if _OURS.fullmatch(name)), default=0
        )
        writers: dict[str, Callable[[Any], object]] = {
            "vectors": lambda file: faiss.write_index(stored.vectors, faiss.PyCallbackIOWriter(file.write, _CHUNK)),
            "images": lambda file: file.write(_images_of(stored)),
        }
        if stored.exact:
            writers["exact"] = lambda file: np.save(file, stored.joined_exact(), allow_pickle=False)

        def written(name: str, write: Callable[[Any], object]) -> dict[str, Any]:
            return {"file": name, **write_described(os.path.join(directory, name), write)}

        manifest = {
            "number": number,
            **{name: getattr(stored, name) for name in (*_SAID, "last_change")},
            "parameters": {name: int(value) for name, value in stored.parameters.items()},
            "images": len(stored.images),
            "dimensions": stored.vectors.d,
            "next_row": len(stored.images.present),
            "calibration": None if stored.calibration is None else asdict(stored.calibration),
            "columns": {name: kind_of(column) for name, column in stored.images.columns.items()},
            "files": {role: written(f"{role}.{number}.{_ENDINGS[role]}", write) for role, write in writers.items()},
        }
        stored.states[os.path.realpath(directory)] = write_manifest(directory, manifest)
        kept = {described["file"] for described in manifest["files"].values()}
        for name in os.listdir(directory):
            if _OURS.fullmatch(name) and name not in kept:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(directory, name))


def _check_state(directory: str, expected: str | None) -> None:
    """Refuse what another process wrote since; what is damaged or gone may be written again."""
    now = INDEX_FOLDER.state(directory)
    if expected is not None and now not in ("", expected):
        raise ValueError(
            f"the index '{directory}' was changed by another process meanwhile, and that change was kept: load it and "
            "change it again"
        )


def write_calibration(directory: str | os.PathLike, calibration: Calibration | None) -> None:
    """Put another threshold into the index of a folder; its files stay as they are.

    Args:
        directory: of the index.
        calibration: the threshold; None takes one away.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no index, or one of another metric.
    """
    INDEX_FOLDER.read(directory)
    with locked(directory):
        manifest = INDEX_FOLDER.read(directory)
        _check_metric(calibration, manifest["metric"])
        manifest["calibration"] = None if calibration is None else asdict(calibration)
        manifest["last_change"] = None
        write_manifest(directory, manifest)


def read_index(directory: str | os.PathLike) -> StoredIndex:
    """Read an index, after a check of every file.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no index, or one of which a file is missing, truncated or changed.
    """
    return INDEX_FOLDER.load(directory, _read_files)


def _read_files(directory: str, manifest: dict[str, Any]) -> StoredIndex:
    kind, parameters, next_row = (manifest[name] for name in ("kind", "parameters", "next_row"))
    roles = {"vectors", "images"} | ({"exact"} if parameters.get("rescore") else set())
    if set(manifest["files"]) != roles:
        raise ValueError(f"the manifest of the index '{directory}' does not name its files: {_AGAIN}")
    files = {role: _checked_file(directory, role, described) for role, described in manifest["files"].items()}
    try:
        vectors = faiss.read_index(files["vectors"])
    except RuntimeError as error:
        raise ValueError(f"faiss {faiss.__version__} cannot read '{files['vectors']}': {error}") from error
    kinds = manifest.get("columns") or {}
    table = read_images(files["images"], (*_COLUMNS, *kinds), _AGAIN, _NUMBERS_OF_IMAGES)
    rows, removed = table["row"], table["removed"]
    try:
        # Copy on write and not read-only, as features are read
        exact = [np.load(files["exact"], mmap_mode="c", allow_pickle=False)] if "exact" in files else []
        ann.check_index(vectors, kind, manifest["metric"], parameters, rows)
        calibration = None if manifest.get("calibration") is None else Calibration(**manifest["calibration"])
        _check_metric(calibration, manifest["metric"])
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f"the index '{directory}' is not what its {MANIFEST} says: {error}; {_AGAIN}") from error
    lengths = [vectors.ntotal, len(rows), manifest["images"] + int(removed.sum()), *map(len, exact)]
    forms = {(vectors.d, "float16"), (manifest["dimensions"], "float16")}
    forms |= {(*part.shape[1:], part.dtype.name) for part in exact}
    ascending = (np.diff(rows, prepend=-1, append=next_row) > 0).all()
    hidden = np.isin(removed, [0, 1] if kind == "hnsw" else [0]).all()
    if len(set(lengths)) != 1 or len(forms) != 1 or not ascending or not hidden:
        raise ValueError(f"the files of the index '{directory}' do not belong together (lengths {lengths}): {_AGAIN}")
    pids, camids, names = columns_of(table["identity"], table["camera"])
    images = ImageTable(rows, table["path"], pids, camids, next_row, names)
    try:
        for name, kind in kinds.items():
            check_name(name)
            images.columns[name] = unknown(kind, next_row)
            images.columns[name][rows] = typed(table[name], kind)
    except (ValueError, KeyError) as error:
        raise ValueError(f"a column of '{files['images']}' is not what the manifest says: {error}; {_AGAIN}") from error
    images.remove(rows[removed.astype(bool)])
    return StoredIndex(
        **{name: manifest[name] for name in _SAID},
        last_change=manifest.get("last_change"),
        vectors=vectors,
        rows=rows,
        exact=exact,
        images=images,
        calibration=calibration,
        states={os.path.realpath(directory): manifest["sha256"]},
    )


def _check_metric(calibration: Calibration | None, metric: str) -> None:
    if calibration is not None and calibration.metric != metric:
        raise ValueError(f"the threshold is of {calibration.metric} distances and the index of {metric}")


# ---- the other files -----------------------------------------------------------------------------------------


def _checked_file(directory: str, role: str, described: Any) -> str:
    name = str(described.get("file")) if isinstance(described, dict) else ""
    if not (_OURS.fullmatch(name) and name.startswith(role)):
        raise ValueError(f"the manifest of the index '{directory}' does not describe its files: {_AGAIN}")
    path = os.path.join(directory, name)
    check_file(path, described, _AGAIN)
    return path


def _images_of(stored: StoredIndex) -> bytes:
    rows, images = stored.rows.tolist(), stored.images
    identities, cameras = names_of(images.pids[stored.rows], images.camids[stored.rows], images.names)
    paths, removed = [images.paths[row] for row in rows], (~images.present[stored.rows]).astype(int).tolist()
    own = [texts_of(column[stored.rows]) for column in images.columns.values()]
    return csv_bytes((*_COLUMNS, *images.columns), zip(rows, paths, identities, cameras, removed, *own))
