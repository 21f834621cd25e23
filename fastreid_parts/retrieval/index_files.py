"""An index on disk: a folder whose manifest names the files that belong together.

    manifest.json            what the index is, size and SHA-256 of each of the others, and its own SHA-256
    vectors.<n>.faiss        the faiss index
    exact.<n>.npy            float16 features that IVF-PQ compares again, mapped into memory and not read
    images.<n>.csv           row, path, identity, camera and whether the image was removed, in the order of the vectors,
                             and the user's columns, of the kinds that the manifest says

    added.<n>.npy, .csv      vectors that were added later, as they are compared, and their images
    removed.<n>.npy          rows of images that were removed later

Every save writes files under a new number n and then the manifest, in one step; the files that it no longer names are
deleted at last. Where little was added or removed since the folder was read or written, a save writes the last kinds of
file alone, a segment, and the manifest lists it behind the others. Whoever is killed on the way leaves the old index.
Many segments are joined to one. Who holds a folder to change it reads its tables; vectors are read, and checked against
the manifest, when they are needed.

Who changes a folder holds it by .lock, and writes over no other state of it than the one that was read: the checksum of
the manifest tells one from another.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import faiss
import numpy as np

from ..data.names import columns_of, names_of
from ..evaluation.exact import METRICS
from ..files import csv_bytes, locked, remove_leftovers, write_bytes
from . import ann
from .body import Body, LazyBody
from .calibration import Calibration
from .columns import BUILT_IN, check_name, kind_of, texts_of, typed, unknown
from .half_rows import HalfRows
from .image_table import ImageTable
from .manifest import (
    IMAGE_COLUMNS,
    MANIFEST,
    UNFINISHED,
    UNREADABLE,
    FolderKind,
    check_file,
    read_images,
    write_described,
    write_manifest,
)
from .stored_index import Changes, StoredIndex

# Role of a file -> how its name begins and ends
_WHOLE = {"vectors": ("vectors", "faiss"), "exact": ("exact", "npy"), "images": ("images", "csv")}
_SEGMENT = {"added": ("added", "npy"), "images": ("added", "csv"), "removed": ("removed", "npy")}
_OURS = re.compile("|".join(rf"{name}\.\d+\.{end}" for name, end in (*_WHOLE.values(), *_SEGMENT.values())))
# What is read when it is needed
_VECTORS = ("vectors", "exact", "added")
_SEGMENTS = ({"added", "images"}, {"removed"}, set(_SEGMENT))
_NUMBERS_OF_IMAGES = ("row", "removed")
# As in `StoredIndex`
_SAID = {"kind": tuple(ann.KINDS), "metric": METRICS, "parameters": dict, "fingerprint": str, "config": str}
_NUMBERS = dict.fromkeys(("number", "images", "dimensions", "next_row"), int)
_OPTIONAL = {"calibration": dict | None, "last_change": str | None, "columns": dict | None, "segments": list | None}
_KEYS = {**_SAID, **_NUMBERS, **_OPTIONAL, "files": dict}
_CHUNK = 1 << 22  # bytes
_LINES = 1 << 16  # of a table, written together
_MOST_SEGMENTS = 100  # before they are joined to one
_AGAIN = "build the index again"

#: What such a folder is.
INDEX_FOLDER = FolderKind("index", _KEYS, mark="parameters", remedy=_AGAIN, unfinished=_AGAIN, files=_OURS)

_Part = dict[str, tuple[str, Any]]  # role -> path of the file, and what the manifest says of it
_Added = tuple[np.ndarray, np.ndarray]  # rows and vectors
_Writers = dict[str, Callable[[Any], object]]  # role -> what writes the file


def write_index(directory: str | os.PathLike, stored: StoredIndex, over: str | None = None) -> None:
    """Write an index into a folder, in place of one that is there; of a little change, the change alone.

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
        place = os.path.realpath(directory)
        _check_state(directory, stored.states.get(place) if over is None else over)
        remove_leftovers(directory)
        if not os.path.exists(os.path.join(directory, MANIFEST)):
            write_bytes(os.path.join(directory, UNFINISHED), b"")  # who is killed from here on may begin anew
        # Higher than that of every file that is there: an unfinished save may have left some
        number = 1 + max(
            (int(name.split(".")[1]) for name in os.listdir(directory) if _OURS.fullmatch(name)), default=0
        )

        def written(names: dict[str, tuple[str, str]], writers: _Writers) -> dict[str, Any]:
            files = {role: ".".join((names[role][0], str(number), names[role][1])) for role in writers}
            return {
                role: {"file": file, **write_described(os.path.join(directory, file), writers[role])}
                for role, file in files.items()
            }

        before = _manifest_of(directory, stored.base[1]) if stored.base[0] == place else None
        known, joined = stored.changes.images, False
        if before is None or stored.changes.whole or known is None or not stored.images.says(known):
            files, segments, changes = written(_WHOLE, _whole(stored)), [], Changes(stored.images.copy())
        else:
            files, segments, changes = before["files"], list(before["segments"]), stored.changes
            earlier = changes.earlier + changes.count
            if changes.count:
                added, removed = changes.added, changes.removed
                if joined := len(segments) >= _MOST_SEGMENTS:
                    added, removed = _joined(directory, stored, segments)
                    segments, earlier = [], sum(len(rows) for rows, _ in added) + sum(map(len, removed))
                segments += [written(_SEGMENT, writers)] if (writers := _segment(stored, added, removed)) else []
            changes = Changes(stored.images.copy(), earlier)
        manifest = {
            "number": number,
            **{name: getattr(stored, name) for name in (*_SAID, "last_change")},
            "parameters": {name: int(value) for name, value in stored.parameters.items()},
            "images": len(stored.images),
            "dimensions": stored.dimensions,
            "next_row": len(stored.images.present),
            "calibration": None if stored.calibration is None else asdict(stored.calibration),
            "columns": {name: kind_of(column) for name, column in stored.images.columns.items()},
            "files": files,
            "segments": segments,
        }
        state = stored.states[place] = write_manifest(directory, manifest)
        stored.base, stored.changes = (place, state), changes
        kept = {described["file"] for part in (files, *segments) for described in part.values()}
        for name in os.listdir(directory):
            if name == UNFINISHED or (_OURS.fullmatch(name) and name not in kept):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(directory, name))
        if joined and not stored.body.is_read:  # it lies in files that were joined
            there = _read_files(directory, {**manifest, "sha256": state})
            stored.body, stored.rows = there.body, there.rows


def _manifest_of(directory: str, state: str) -> dict[str, Any] | None:
    """The manifest of a folder in this state, None in any other."""
    try:
        manifest = INDEX_FOLDER.read(directory)
    except (ValueError, FileNotFoundError):
        return None
    return manifest if manifest["sha256"] == state and manifest.get("segments") is not None else None


def _whole(stored: StoredIndex) -> _Writers:
    writers: _Writers = {
        "vectors": lambda file: faiss.write_index(stored.vectors, faiss.PyCallbackIOWriter(file.write, _CHUNK)),
        "images": lambda file: _write_images(file, stored, stored.rows, ~stored.images.present[stored.rows]),
    }
    if (exact := stored.exact) is not None:
        writers["exact"] = exact.save
    return writers


def _segment(stored: StoredIndex, added: Sequence[_Added], removed: Sequence[np.ndarray]) -> _Writers:
    """An image that was added and removed again is in both lists."""
    writers: _Writers = {}
    if added:
        rows = np.concatenate([rows for rows, _ in added])

        def write_vectors(file: Any) -> None:
            shape = (len(rows), stored.dimensions)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for _, vectors in added:
                for block in ann.blocks_of(*vectors.shape):
                    file.write(np.ascontiguousarray(vectors[block]))

        writers["added"] = write_vectors
        writers["images"] = lambda file: _write_images(file, stored, rows, np.zeros(len(rows), bool))
    if removed:
        gone = np.concatenate(removed)
        writers["removed"] = lambda file: np.save(file, gone, allow_pickle=False)
    return writers


def _joined(directory: str, stored: StoredIndex, segments: list[Any]) -> tuple[list[_Added], list[np.ndarray]]:
    """What segments and the last change added that is there still, and what they removed of the first files.

    Raises:
        ValueError: a file of theirs is missing, truncated or changed.
    """
    added, removed = [], list(stored.changes.removed)
    for segment in segments:
        paths = {role: _checked_file(directory, role, one, _SEGMENT, True) for role, one in segment.items()}
        if "added" in paths:
            table = read_images(paths["images"], (*BUILT_IN, *stored.images.columns), _AGAIN, _NUMBERS_OF_IMAGES)
            added.append((table["row"], _mapped(paths["added"])))
        if "removed" in paths:
            removed.append(_joined_rows([paths["removed"]]))
    added += stored.changes.added
    first = min((rows[0] for rows, _ in added), default=len(stored.images.present))
    kept = [(rows, vectors, stored.images.present[rows]) for rows, vectors in added]
    gone = [rows[rows < first] for rows in removed]
    return (
        [(rows[there], vectors if there.all() else vectors[there]) for rows, vectors, there in kept if there.any()],
        [rows for rows in gone if len(rows)],
    )


def _check_state(directory: str, expected: str | None) -> None:
    """Refuse what another process wrote since; what was read may be written again where it is damaged or gone."""
    now = INDEX_FOLDER.state(directory)
    if expected is not None and now not in ("", expected) and not (expected and now == UNREADABLE):
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


def read_index(directory: str | os.PathLike, lazy: bool = False) -> StoredIndex:
    """Read an index, after a check of every file.

    Args:
        directory: of the index.
        lazy: read and check the vectors when they are needed, and until then that their files have their sizes. What
            is read then must not have been replaced: for who holds the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no index, or one of which a file is missing, truncated or changed.
    """

    def read(directory: str, manifest: dict[str, Any]) -> StoredIndex:
        stored = _read_files(directory, manifest)
        if not lazy:
            stored.body.get()
        return stored

    return INDEX_FOLDER.load(directory, read)


def _read_files(directory: str, manifest: dict[str, Any]) -> StoredIndex:
    columns = manifest.get("columns") or {}
    files, *later = _named_files(directory, manifest)
    tables = [
        read_images(path, (*BUILT_IN, *columns), _AGAIN, _NUMBERS_OF_IMAGES)
        for path in (part["images"][0] for part in (files, *later) if "images" in part)
    ]
    rows = [table["row"] for table in tables]
    with _as_said(directory):
        calibration = None if manifest.get("calibration") is None else Calibration(**manifest["calibration"])
        _check_metric(calibration, manifest["metric"])
        images = _image_table(tables, columns, manifest["next_row"])
        gone = _joined_rows(part["removed"][0] for part in later if "removed" in part)
        if len(np.unique(gone)) < len(gone) or not np.isin(gone, np.flatnonzero(images.present)).all():
            raise ValueError("rows that were removed are not there")
    graph = manifest["kind"] == "hnsw"
    hidden = np.isin(tables[0]["removed"], [0, 1] if graph else [0]).all()
    del tables
    images.remove(gone)
    if not hidden or len(images) != manifest["images"]:
        raise ValueError(f"the files of the index '{directory}' do not belong together: {_AGAIN}")
    every = np.concatenate(rows)
    out = np.zeros(len(every), bool) if graph else np.isin(every, gone)

    def read() -> Body:
        body = _read_body(directory, manifest, files, later, rows)
        if out.any():
            body.take_out(every[out] if manifest["kind"] == "ivfpq" else np.flatnonzero(out), out)
        return body

    said = {name: manifest[name] for name in (*_SAID, "dimensions")} | {"last_change": manifest.get("last_change")}
    stored = StoredIndex(**said, body=LazyBody(read), rows=every[~out], images=images, calibration=calibration)
    stored.base = (os.path.realpath(directory), manifest["sha256"])
    stored.states = dict([stored.base])
    stored.changes = Changes(images.copy(), len(every) - len(rows[0]) + len(gone))
    return stored


def _read_body(
    directory: str, manifest: dict[str, Any], files: _Part, later: list[_Part], rows: list[np.ndarray]
) -> Body:
    """Read the vectors, after a check of their files.

    Args:
        directory: of the index.
        manifest: its.
        files: the first ones.
        later: those of the segments.
        rows: of the images, of the first files and of each segment with vectors.
    """
    additions = [part["added"] for part in later if "added" in part]
    for path, described in (files[role] for role in ("vectors", "exact") if role in files):
        check_file(path, described, _AGAIN)
    for path, described in additions:
        check_file(path, described, _AGAIN)
    try:
        vectors = faiss.read_index(files["vectors"][0])
    except RuntimeError as error:
        raise ValueError(f"faiss {faiss.__version__} cannot read '{files['vectors'][0]}': {error}") from error
    with _as_said(directory):
        exact = [_mapped(files["exact"][0])] if "exact" in files else []
        ann.check_index(vectors, manifest["kind"], manifest["metric"], manifest["parameters"], rows[0])
        added = [_mapped(path) for path, _ in additions]
        shapes = [(part.dtype.name, part.shape) for part in added]
        if shapes != [("float32", (len(part), vectors.d)) for part in rows[1:]] or not all(map(_finite, added)):
            raise ValueError("vectors that were added are not those of its images")
    lengths = [vectors.ntotal, len(rows[0]), *map(len, exact)]
    forms = {(vectors.d, "float16"), (manifest["dimensions"], "float16")}
    forms |= {(*part.shape[1:], part.dtype.name) for part in exact}
    if len(set(lengths)) != 1 or len(forms) != 1:
        raise ValueError(f"the files of the index '{directory}' do not belong together (lengths {lengths}): {_AGAIN}")
    body = Body(manifest["kind"], vectors)
    for own, part in zip(rows[1:], added):
        body.put_in(own, part)
    if exact:  # those that were added later are mapped too
        body.exact = HalfRows([*exact, *added], vectors.d)
    return body


@contextlib.contextmanager
def _as_said(directory: str) -> Iterator[None]:
    """Say of what is wrong in a file that it is not what the manifest says."""
    try:
        yield
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"the index '{directory}' is not what its {MANIFEST} says: {error}; {_AGAIN}") from error


def _mapped(path: str) -> np.ndarray:
    # Copy on write and not read-only, as features are read
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _joined_rows(paths: Iterable[str]) -> np.ndarray:
    """Rows that were removed, of several files."""
    parts = [np.load(path, allow_pickle=False) for path in paths]
    if any(part.dtype != np.int64 or part.ndim != 1 for part in parts):
        raise ValueError("rows that were removed are no rows")
    return np.concatenate([np.empty(0, np.int64), *parts])


def _named_files(directory: str, manifest: dict[str, Any]) -> list[_Part]:
    """Name the first files, and those of each segment, after a check of their sizes, and of what all are not vectors.

    Raises:
        ValueError: the manifest does not name what there must be, or a file is missing, truncated or changed.
    """
    segments = manifest.get("segments") or []
    roles = {"vectors", "images"} | ({"exact"} if manifest["parameters"].get("rescore") else set())
    if set(manifest["files"]) != roles or not all(isinstance(one, dict) and set(one) in _SEGMENTS for one in segments):
        raise ValueError(f"the manifest of the index '{directory}' does not name its files: {_AGAIN}")
    return [
        {role: (_checked_file(directory, role, described, names), described) for role, described in part.items()}
        for part, names in ((manifest["files"], _WHOLE), *((one, _SEGMENT) for one in segments))
    ]


def _image_table(tables: list[dict[str, Any]], kinds: dict[str, str], next_row: int) -> ImageTable:
    """The images of the first files and of the segments.

    Raises:
        ValueError: a row is not above those before it, or a column is not what the manifest says.
        KeyError: there is no such kind of column.
    """
    rows, removed = (np.concatenate([table[name] for table in tables]) for name in _NUMBERS_OF_IMAGES)
    cells = {name: [cell for table in tables for cell in table[name]] for name in (*IMAGE_COLUMNS, *kinds)}
    if not (np.diff(rows, prepend=-1, append=next_row) > 0).all():
        raise ValueError("its rows do not ascend")
    pids, camids, names = columns_of(cells["identity"], cells["camera"])
    images = ImageTable(rows, cells["path"], pids, camids, next_row, names)
    for name, kind in kinds.items():
        check_name(name, stored=True)
        images.columns[name] = unknown(kind, next_row)
        images.columns[name][rows] = typed(cells[name], kind)
    images.remove(rows[removed.astype(bool)])
    return images


def _finite(vectors: np.ndarray) -> bool:
    return bool(np.isfinite(vectors).all())


def _check_metric(calibration: Calibration | None, metric: str) -> None:
    if calibration is not None and calibration.metric != metric:
        raise ValueError(f"the threshold is of {calibration.metric} distances and the index of {metric}")


# ---- the other files -----------------------------------------------------------------------------------------


def _checked_file(
    directory: str, role: str, described: Any, names: dict[str, tuple[str, str]], content: bool = False
) -> str:
    file = str(described.get("file")) if isinstance(described, dict) else ""
    begin, end = names[role]
    if not re.fullmatch(rf"{begin}\.\d+\.{end}", file):
        raise ValueError(f"the manifest of the index '{directory}' does not describe its files: {_AGAIN}")
    path = os.path.join(directory, file)
    check_file(path, described, _AGAIN, content=content or role not in _VECTORS)
    return path


def _write_images(file: Any, stored: StoredIndex, every: np.ndarray, removed: np.ndarray) -> None:
    """Write the table of some images, in blocks: the texts of all take more memory than what they are made of."""
    images = stored.images
    header = (*BUILT_IN, *images.columns)
    head = csv_bytes(header, ())
    file.write(head)
    for start in range(0, len(every), _LINES):
        rows, gone = (column[start : start + _LINES] for column in (every, removed))
        identities, cameras = names_of(images.pids[rows], images.camids[rows], images.names)
        paths = [images.paths[row] for row in rows.tolist()]
        own = [texts_of(column[rows]) for column in images.columns.values()]
        lines = zip(rows.tolist(), paths, identities, cameras, map(int, gone), *own)
        file.write(csv_bytes(header, lines)[len(head) :])
