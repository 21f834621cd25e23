"""Files that belong together and are replaced together: a kill leaves those of one model, or none that loads."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..files import LEFTOVER_AGE

_END = ".drafts"


@contextlib.contextmanager
def drafts(folder: str | os.PathLike, main: str) -> Iterator[str]:
    """Give a folder whose files take their places in another when the block has ended without an error.

    The file that loaders look for goes before any other is replaced, and comes after all of them.

    Args:
        folder: where the files go; made where it is not there.
        main: name of that file, which the block writes with the others.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    for left in Path(folder).glob(f".{glob.escape(main)}.*{_END}"):  # of a process that was killed
        if time.time() - left.stat().st_mtime >= LEFTOVER_AGE:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(_END, f".{main}.", folder) as place:
        yield place
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, main))
        for name in sorted(os.listdir(place), key=lambda name: name == main):
            os.replace(os.path.join(place, name), os.path.join(folder, name))
