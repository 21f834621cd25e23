"""What a folder of features and a folder of an index have in common: a manifest, written last, that describes files."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np

from ..files import atomic_write, file_digest, plain_cell, sealed, unsealed, write_json

#: The file of a folder that is written last.
MANIFEST = "manifest.json"
#: What the table of a folder says of each image: its file, and whom it shows under which camera, both by name.
IMAGE_COLUMNS = ("path", "identity", "camera")

#: Version of the folders' layout, in their manifests.
FORMAT = 2

#: The file of a folder whose first manifest is still to come.
UNFINISHED = ".unfinished"
#: State of a folder that holds something which cannot be read, see `FolderKind.state`.
UNREADABLE = "unreadable"

_LINES = 1 << 16  # of a table

_Read = TypeVar("_Read")


class OtherKindError(ValueError):
    """A folder's manifest is of another kind of folder."""


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder.

    Attributes:
        name: of what such a folder holds.
        keys: what its manifest says besides format and checksum -> its type, numbers from 0 on; or a tuple of choices.
        mark: the key that no other kind has.
        remedy: what to do about a damaged folder.
        unfinished: what to do about a folder without a manifest.
        files: names of files that nobody replaces unasked, a manifest there or not, but beside `UNFINISHED`.
    """

    name: str
    keys: Mapping[str, Any]
    mark: str
    remedy: str
    unfinished: str
    files: re.Pattern[str] | None = None

    def read(self, directory: str | os.PathLike) -> dict[str, Any]:
        """Read the manifest of a folder.

        Returns:
            What it says, and under `sha256` the checksum of that, by which one state of a folder is told from another.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it holds nothing of this kind that is finished, or of another version, or was changed.
        """
        path = os.path.join(directory, MANIFEST)
        if not os.path.isdir(directory):
            raise FileNotFoundError(f"there is no folder '{directory}': name the one that the {self.name} was saved to")
        if not os.path.isfile(path):
            raise ValueError(
                f"'{directory}' holds no finished {self.name}: there is no {MANIFEST}, which is written last; "
                f"{self.unfinished}"
            )
        try:
            with open(path, encoding="utf-8") as file:
                manifest = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"'{path}' cannot be read: {error}; {self.remedy}") from error
        if not isinstance(manifest, dict) or self.mark not in manifest:
            raise OtherKindError(f"'{directory}' holds no {self.name}; its {MANIFEST} describes something else")
        version = manifest.get("format")
        if version != FORMAT:
            raise ValueError(f"'{path}' is of format {version}, and this version reads format {FORMAT}: {self.remedy}")
        wrong = [key for key, kind in self.keys.items() if not _fits(manifest.get(key), kind)]
        if wrong:
            raise ValueError(f"'{path}' does not say {', '.join(wrong)} as this version writes it: {self.remedy}")
        try:
            unsealed(manifest)
        except ValueError as error:
            raise ValueError(f"'{path}' cannot be read: {error}; {self.remedy}") from error
        return manifest

    def state(self, directory: str | os.PathLike) -> str:
        """Tell one state of a folder that is to be written from another.

        Returns:
            The checksum of the manifest; `UNREADABLE` where that cannot be read, or is gone from beside `files`; ""
            where there is neither.

        Raises:
            ValueError: the folder holds something else under the manifest's name.
        """
        try:
            return self.read(directory)["sha256"]
        except OtherKindError as error:
            thing = f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"
            raise ValueError(
                f"'{directory}' holds something else than {thing} ({MANIFEST}): name another folder"
            ) from error
        except FileNotFoundError:
            return ""
        except ValueError:
            there = os.listdir(directory)
            ours = self.files is not None and UNFINISHED not in there and any(map(self.files.fullmatch, there))
            return UNREADABLE if MANIFEST in there or ours else ""

    def load(self, directory: str | os.PathLike, read: Callable[[str, dict[str, Any]], _Read]) -> _Read:
        """Read a folder; once more, if another process replaced what is in it meanwhile.

        Args:
            directory: the folder.
            read: makes something of its path and its manifest.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it does not hold what its manifest says.
        """
        while True:
            manifest = self.read(directory)
            try:
                return read(os.fspath(directory), manifest)
            except (ValueError, OSError):
                if self.read(directory) == manifest:
                    raise


def write_manifest(directory: str | os.PathLike, said: Mapping[str, Any]) -> str:
    """Write the manifest of a folder, which makes what it names the folder's content.

    Args:
        directory: the folder.
        said: what `FolderKind.read` gives back.

    Returns:
        Its checksum.
    """
    manifest = sealed({name: value for name, value in {**said, "format": FORMAT}.items() if name != "sha256"})
    write_json(os.path.join(directory, MANIFEST), manifest)
    return manifest["sha256"]


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return value in kind
    return isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 0)


class _HashingWriter:
    """A binary file that is written to once, with the SHA-256 of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def write_described(path: str | os.PathLike, write: Callable[[Any], object]) -> dict[str, Any]:
    """Write a file in one step.

    Args:
        path: the file; its folder must be there.
        write: writes the content into the binary file object that it is given.

    Returns:
        What a manifest says of it: `bytes` and `sha256`.
    """
    described: dict[str, Any] = {}

    def write_and_describe(file: BinaryIO) -> None:
        writer = _HashingWriter(file)
        write(writer)
        described.update(bytes=file.tell(), sha256=writer.digest.hexdigest())

    atomic_write(path, write_and_describe)
    return described


def check_file(path: str, described: Any, remedy: str, content: bool = True) -> None:
    """Refuse a file that is not what its manifest says.

    Args:
        path: of the file.
        described: `bytes` and `sha256` of when it was written.
        remedy: what to do about it, for the message.
        content: read it; without, its size is held against the manifest.

    Raises:
        ValueError: the file is missing, or its size or content is another one.
    """
    if not (isinstance(described, dict) and _fits(described.get("bytes"), int)):
        raise ValueError(f"the manifest beside '{path}' does not describe that file: {remedy}")
    if not os.path.isfile(path):
        raise ValueError(f"'{path}' is missing: {remedy}")
    size = os.path.getsize(path)
    if size != described.get("bytes"):
        raise ValueError(
            f"'{path}' has {size} bytes and had {described.get('bytes')} when it was written: it is truncated or was "
            f"changed; {remedy}"
        )
    if not content:
        return
    if file_digest(path) != described.get("sha256"):
        raise ValueError(f"'{path}' was changed after it was written (SHA-256): {remedy}")


def read_images(path: str, columns: Sequence[str], remedy: str, numbers: Sequence[str] = ()) -> dict[str, Any]:
    """Read a table of images.

    Args:
        path: a file with the content of `csv_bytes`.
        columns: its names.
        remedy: what to do about a table that cannot be read, for the message.
        numbers: the columns that hold whole numbers.

    Returns:
        Name of a column -> a list of texts, or int64 numbers.

    Raises:
        ValueError: the file is no such table.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            if next(reader, []) != list(columns):
                raise ValueError(f"its first line is not {','.join(columns)}")
            cells: dict[str, list[Any]] = {name: [] for name in columns}
            texts: dict[str, str] = {}  # one object for a text that comes again
            while lines := list(itertools.islice(reader, _LINES)):
                if any(len(line) != len(columns) for line in lines):
                    raise ValueError(f"not every line has {len(columns)} cells")
                for name, column in zip(columns, zip(*lines)):
                    if name in numbers:
                        cells[name].append(np.array(column, np.int64))
                    else:
                        cells[name] += [texts.get(cell) or texts.setdefault(cell, plain_cell(cell)) for cell in column]
                texts.clear()
        none = np.empty(0, np.int64)
        return {name: np.concatenate([none, *cell]) if name in numbers else cell for name, cell in cells.items()}
    except (ValueError, OverflowError, csv.Error) as error:
        raise ValueError(f"'{path}' is no list of images: {error}; {remedy}") from error
