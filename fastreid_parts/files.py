"""Files that are whole or not there, whatever happens to the process that writes them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import BinaryIO

__all__ = ["atomic_write", "remove_leftovers"]


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], object], durable: bool = True) -> None:
    """Write a file under a temporary name and rename it: whoever reads `path` sees the old one or the whole new one.

    Args:
        path: the file; its folder must be there.
        write: writes the content into the binary file object that it is given. If it fails, the temporary file is
            removed and `path` stays as it was.
        durable: flush to the disk before renaming, so that a power failure leaves the old file or the new one as
            well; False where many files are written that can be made again.
    """
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove what processes that were killed in `atomic_write` left in a folder; files being written stay."""
    for name in os.listdir(folder):
        match = re.fullmatch(r".+\.(\d+)\.tmp", name)
        if match and not _alive(int(match.group(1))):
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                os.remove(os.path.join(folder, name))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
