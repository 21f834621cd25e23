"""A folder that is drawn: whole files only, interrupted and continued at will, and a mark when all is there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
from filelock import FileLock

MANIFEST = "manifest.json"
_LOCK = ".lock"


def is_complete(folder: Path) -> bool:
    """Tell whether `folder` holds a dataset that was written to its end."""
    return bool((_read_manifest(folder) or {}).get("complete", False))


def complete(
    folder: Path,
    parameters: dict[str, Any],
    places: Sequence[str],
    missing: Callable[[], Sequence[Any]],
    draw: Callable[[Sequence[Any]], None],
    images: int,
) -> None:
    """Draw what a folder lacks; one process draws, others wait.

    Args:
        folder: made where it is not there.
        parameters: what decides its content.
        places: folders in it.
        missing: lists what is not there.
        draw: writes what it is given, and whatever belongs to it.
        images: how many there are in all.

    Raises:
        ValueError: the folder was made with other parameters or by something else.
    """
    _check_folder(folder, parameters)
    if not missing() and is_complete(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _LOCK):
        if not _check_folder(folder, parameters):
            _write_manifest(folder, {**parameters, "complete": False})
        for name in places:
            (folder / name).mkdir(parents=True, exist_ok=True)
        with _single_thread():
            draw(missing())
        for place in (folder, *(folder / name for name in places)):
            for leftover in place.glob("*.tmp"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
        _write_manifest(folder, {**parameters, "images": images, "complete": True})
    (folder / _LOCK).unlink(missing_ok=True)  # who waits for it finds that nothing is missing


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there; on a disk without locks, another may be writing the same one.

    Args:
        path: the file.
        content: of it.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except FileNotFoundError:  # the other process completed the dataset, with the same bytes, and cleared up
        if not path.exists():
            raise
    finally:
        temporary.unlink(missing_ok=True)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete the folder {folder} and generate it again") from None


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_file(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def _check_folder(folder: Path, parameters: dict[str, Any]) -> bool:
    """Refuse a folder that is not this dataset's; tell whether it was begun."""
    # Listed first: another process may begin at any time, and it writes the manifest before all else
    names = os.listdir(folder) if folder.exists() else []
    manifest = _read_manifest(folder)
    if manifest is None:
        if any(name != _LOCK and not name.endswith(".tmp") for name in names):
            raise ValueError(
                f"{folder} holds files but no {MANIFEST}, so it was not made by this generator; "
                "move it away or name another root folder"
            )
        return False
    differing = [
        f"{key} was {manifest.get(key)!r} and is now {value!r}"
        for key, value in parameters.items()
        if manifest.get(key) != value
    ]
    if differing:
        raise ValueError(
            f"{folder} was made with other parameters ({'; '.join(differing)}); "
            "delete that folder, name another root folder, or ask for the parameters that it was made with"
        )
    return True


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
    """Images this small are drawn faster without OpenCV's threads; the caller's setting comes back afterwards."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
