"""The images of an index, by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..data.names import BY_NUMBER, Label, Names, joined, names_of
from ..evaluation import Features


class ImageTable:
    """What is known of each image.

    A row is an image's number: counted from 0 in the order in which images are added, kept when others are removed,
    never given again.

    Args:
        rows: (P,) int64, different.
        paths: P image files.
        pids: (P,) int64.
        camids: (P,) int64.
        next_row: the row of the next image; higher than all.
        names: what identities and cameras are called.

    Attributes:
        paths: (next row,) image files, "" at the row of a removed image.
        pids: (next row,) int64 identities, -1 where unknown or removed.
        camids: (next row,) int64 cameras, -1 where unknown or removed.
        names: what identities and cameras are called; new images may change the numbers, not the names.
        present: (next row,) bool, False where removed.
    """

    def __init__(
        self,
        rows: np.ndarray,
        paths: Sequence[str],
        pids: np.ndarray,
        camids: np.ndarray,
        next_row: int,
        names: Names = BY_NUMBER,
    ) -> None:
        self.names = names
        self.present = np.zeros(next_row, bool)
        self.pids = np.full(next_row, -1, np.int64)
        self.camids = self.pids.copy()
        self.paths = [""] * next_row
        self.present[rows], self.pids[rows], self.camids[rows] = True, pids, camids
        for row, path in zip(rows.tolist(), paths):
            self.paths[row] = path

    def __len__(self) -> int:
        return int(self.present.sum())

    def append(self, features: Features) -> np.ndarray:
        """Add images.

        Returns:
            (N,) int64, their rows.
        """
        rows = np.arange(len(self.present), len(self.present) + len(features))
        self.present = np.concatenate([self.present, np.ones(len(rows), bool)])
        parts = [(self.pids, self.camids, self.names), (features.pids, features.camids, features.names)]
        self.pids, self.camids, self.names = joined(parts)
        self.paths.extend(features.paths)
        return rows

    def find(
        self, rows: Iterable[int] | None, paths: Iterable[str] | None, identities: Iterable[Label] | None
    ) -> np.ndarray:
        """Find the images that are named by row, by path or by identity, those of all three together.

        Args:
            rows: numbers of images.
            paths: image files.
            identities: of images, by name.

        Returns:
            Their rows, ascending.

        Raises:
            ValueError: a row, path or identity that is not there.
        """
        wanted: set[int] = set()
        there = np.flatnonzero(self.present).tolist()
        called = names_of(self.pids, self.camids, self.names)[0] if identities else []
        for what, names, column in (
            ("row", rows, range(len(self.present))),
            ("path", paths, self.paths),
            ("identity", map(str, identities or ()), called),
        ):
            missing = set(names or ())
            found = [row for row in there if column[row] in missing] if missing else []
            missing -= {column[row] for row in found}
            if missing:
                raise ValueError(
                    f"there is no image of {what} '{min(missing, key=str)}' in the index ({len(missing)} such)"
                )
            wanted.update(found)
        return np.array(sorted(wanted), dtype=np.int64)

    def check_new(self, paths: Sequence[str]) -> None:
        """Refuse images that are there.

        Raises:
            ValueError: a path that is not empty is in the table already.
        """
        there = {self.paths[row] for row in np.flatnonzero(self.present).tolist()} - {""}
        again = [path for path in paths if path in there]
        if again:
            raise ValueError(
                f"{len(again)} of {len(paths)} images are in the index already, the first is '{again[0]}': remove them "
                "first, or leave them out"
            )

    def remove(self, rows: np.ndarray) -> None:
        """Forget images; their rows stay empty."""
        self.present[rows] = False
        self.pids[rows] = self.camids[rows] = -1
        for row in rows.tolist():
            self.paths[row] = ""
