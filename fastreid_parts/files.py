"""Files that are whole or not there, whatever happens to the process that writes them."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, BinaryIO, TextIO

import yaml
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

#: The file by which a folder is held, in the folder: containers that share a volume may share nothing above it.
LOCK = ".lock"

#: What a killed process left is removed when it is so old, in seconds: no process takes so long between two writes.
LEFTOVER_AGE = 24 * 3600

_BLOCK = 1 << 24  # bytes of a file that are read at once

# What a spreadsheet takes for a formula, also after the apostrophes that keep it from doing so
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], object], durable: bool = True) -> None:
    """Write a file under a temporary name and rename it: whoever reads `path` sees the old one or the whole new one.

    Of a symbolic link the file that it leads to is written. What is there and no file, a device or a pipe, is written
    into, and never replaced.

    Args:
        path: the file; its folder must be there.
        write: writes the content into the binary file object that it is given. If it fails, the temporary file is
            removed and `path` stays as it was.
        durable: flush to the disk before renaming, so that a power failure leaves the old file or the new one as
            well; False where many files are written that can be made again.

    Raises:
        OSError: it cannot be written; a full disk is named as such.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"'{path}' is a folder: name the file to write")
    replaced = os.path.isfile(path) or not os.path.exists(path)
    target = os.path.realpath(path) if replaced else path
    # A process number is not unique: containers on one volume count their processes each from 1
    temporary = f"{target}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") if replaced else open(target, "wb") as file:
            write(file)
            if durable and replaced:
                file.flush()
                os.fsync(file.fileno())
        if replaced:
            os.replace(temporary, target)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if is_disk_full(error):
            raise OSError(
                errno.ENOSPC, f"the disk is full: no room for {path}. What was there before is as it was; make room"
            ) from error
        raise


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether a full disk is the reason, also where a writer such as torch.save raises another error from it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def read_yaml(text: str | TextIO, parse: Callable[..., Any] = yaml.load) -> Any:
    """Parse YAML by `yaml.safe_load`'s rules, with the parser in C where PyYAML was built with it.

    What that one refuses is parsed by the one in Python, whose errors say more.

    Args:
        text: YAML, or a file of it.
        parse: what of PyYAML does it; `yaml.compose` gives nodes, which know their lines.

    Raises:
        yaml.YAMLError: it is no valid YAML.
    """
    text = text if isinstance(text, str) else text.read()
    try:
        return parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return parse(text, Loader=yaml.SafeLoader)


def write_json(path: str | os.PathLike, content: Mapping[str, Any], sort_keys: bool = False) -> None:
    """Write a JSON file that a person can read; folders on the way are made.

    Args:
        path: the file.
        content: what it says.
        sort_keys: in the order of the alphabet instead of their own.

    Raises:
        TypeError: a value cannot be written as JSON.
    """
    text = json.dumps(content, indent=2, sort_keys=sort_keys) + "\n"
    write_bytes(path, text.encode())


def add_to_json(path: str | os.PathLike, entries: Mapping[str, Any]) -> None:
    """Put entries into a JSON file beside those of other names that it has; without the file, it is made.

    Args:
        path: the file, of one object.
        entries: what it will say under each name.

    Raises:
        ValueError: the file is not such a one; it stays as it is.
    """
    there: Any = {}
    if os.path.exists(path):
        with open(path, "rb") as file:
            content = file.read()
        try:
            there = json.loads(content)
        except ValueError:
            there = None
    if not isinstance(there, dict):
        raise ValueError(f"{os.fspath(path)} is no JSON file of entries under names: name another file")
    write_json(path, {**there, **entries})


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add a checksum of the content, however it will be written down, under `sha256`."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {**content, "sha256": digest}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Take the checksum of `sealed` away.

    Raises:
        ValueError: the content is not the one that it was made of.
    """
    rest = {name: value for name, value in content.items() if name != "sha256"}
    if sealed(rest) != content:
        raise ValueError("it was changed after it was written (SHA-256)")
    return rest


def file_digest(path: str | os.PathLike) -> str:
    """Digest a file of any size: SHA-256, 64 hexadecimal digits.

    Args:
        path: the file.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_state(path: str | os.PathLike) -> tuple[int, int] | None:
    """Give what shows that a file changed without its being read: size in bytes and time of change in ns.

    Args:
        path: the file; None is given for one that cannot be looked at.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def write_numbers(figure: str, numbers: Mapping[str, Any], command: str) -> str:
    """Write numbers beside a figure, under its name with the ending .json.

    Args:
        figure: its file.
        numbers: what it shows.
        command: that makes both; the file says so, under `command`.

    Returns:
        The path.

    Raises:
        ValueError: as `check_numbers`.
    """
    path = check_numbers(figure, command)
    write_json(path, {"command": command, **numbers})
    return path


def check_numbers(figure: str, command: str) -> str:
    """Refuse a figure beside which a file of other numbers would be replaced.

    Args:
        figure: its file.
        command: that makes it.

    Returns:
        The path of the numbers.

    Raises:
        ValueError: there is a file of that name, and the command did not write it.
    """
    path = os.path.splitext(figure)[0] + ".json"
    if os.path.exists(path):
        try:
            with open(path, "rb") as file:
                by = json.loads(file.read())["command"]
        except (ValueError, LookupError, TypeError):
            by = None
        if by != command:
            raise ValueError(
                f"the numbers go beside the figure, and '{path}' is there and no file of {command}'s: remove it, or "
                "name another figure"
            )
    return path


def write_csv(path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; folders on the way are made.

    Args:
        path: the file.
        header: names of the columns.
        rows: of as many cells; None stays empty.
    """
    write_bytes(path, csv_bytes(header, rows))


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Make a table separated by commas, in UTF-8; names that are no UTF-8 go through as the bytes that they are.

    A text that a spreadsheet would run as a formula gets an apostrophe in front, which `plain_cell` takes away.

    Args:
        header: names of the columns.
        rows: of as many cells; None stays empty.
    """
    lines: list[str] = []
    # Before Python 3.13 a cell is quoted for the characters that end a line here, and both end one for a reader
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([_harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return "".join(f"{line[:-2]}\n" for line in lines).encode("utf-8", "surrogateescape")


def _harmless(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def plain_cell(cell: str) -> str:
    """Read a cell of a table as it was before `csv_bytes` wrote it."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file in one step; folders on the way are made.

    Args:
        path: the file.
        content: what is in it.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    atomic_write(path, lambda file: file.write(content))


def remove_leftovers(folder: str | os.PathLike, age: float = LEFTOVER_AGE) -> None:
    """Remove what processes that were killed in `atomic_write` left in a folder; files being written stay.

    Args:
        folder: where to look.
        age: seconds since the last write; 0 where no other process can be writing.
    """
    for name in os.listdir(folder):
        if re.fullmatch(r".+\.(\d+|[0-9a-f]{16})\.tmp", name):
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                if time.time() - os.path.getmtime(path) >= age:
                    os.remove(path)


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder, made where it is not there, against all others that would change it; they wait, readers do not.

    The system lets go of it however the process ends. Who holds it already may hold it once more.
    """
    path = os.path.join(os.path.realpath(folder), LOCK)
    lock = FileLock(path, is_singleton=True)
    waits = 0.0
    while True:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            lock.acquire(timeout=waits)
            break
        except Timeout:
            logger.info("Another process is changing '%s': waiting until it is done", folder)
            waits = -1
        except FileNotFoundError:  # who held the folder has removed it
            continue
    try:
        yield
    finally:
        lock.release()
