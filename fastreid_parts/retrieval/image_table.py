"""The images of an index, by row."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from ..data.names import BY_NUMBER, Label, Names, joined, names_of
from ..evaluation import Features
from .columns import check_kinds, is_known, kind_among, kind_of, texts_of, unknown
from .expression import parse


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
        columns: what else is known, by name: (next row,) each, see `fastreid_parts.retrieval.columns`.
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
        self.columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.present.sum())

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each of the user's columns."""
        return {name: kind_of(column) for name, column in self.columns.items()}

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
        for name, column in self.columns.items():
            self.columns[name] = np.concatenate([column, unknown(kind_of(column), len(rows))])
        return rows

    def fill(self, places: Sequence[str], columns: Mapping[str, np.ndarray], among: np.ndarray | None = None) -> int:
        """Write values of columns, new ones or ones that are there, of the images that a table names.

        Args:
            places: N real paths.
            columns: (N,) each, as `read_columns` gives them. What is unknown there is unknown then.
            among: rows of the images that it is about; by default of all.

        Returns:
            How many images the table names.

        Raises:
            ValueError: it names none, a column is there with values of another kind, or cannot be called so.
        """
        there = np.flatnonzero(self.present) if among is None else among
        lines = lines_of(places, [self.paths[row] for row in there.tolist()])
        rows, lines = there[lines >= 0], lines[lines >= 0]
        if among is None:
            check_named(len(rows), places)
        check_kinds({name: kind_of(values) for name, values in columns.items()}, self.kinds)
        for name, values in columns.items():
            column = self.columns.setdefault(name, unknown(kind_of(values), len(self.present)))
            column[rows] = values[lines]
        return len(rows)

    def column(self, name: str) -> np.ndarray:
        """Give what is known of every image under a name: (next row,), a user's column, or one that every image has.

        Raises:
            ValueError: there is no such column.
        """
        kind_among(name, self.kinds)
        if name in self.columns:
            return self.columns[name]
        if name == "row":
            return np.arange(len(self.present), dtype=np.float64)
        if name == "path":
            return np.array(self.paths, object)
        called = names_of(self.pids, self.camids, self.names)
        return np.array(called[name == "camera"], object)

    def where(self, expression: str) -> np.ndarray:
        """Tell of which images an expression is true, as (next row,) bool; never of a removed one.

        Args:
            expression: see `fastreid_parts.retrieval.expression`.

        Raises:
            ValueError: it is none, names a column that is not there, or compares one with another kind of value.
        """
        return parse(expression).truth(self.column)[0] & self.present

    def groups(self, name: str) -> np.ndarray:
        """Number the images by what a column says, (next row,) int64; where it is unknown, each by itself.

        Raises:
            ValueError: there is no such column.
        """
        column = self.column(name)
        numbers = np.unique(column.astype(str), return_inverse=True)[1]
        alone = ~is_known(column)
        return np.where(alone, len(column) + np.arange(len(column)), numbers.reshape(-1))

    def copy(self) -> ImageTable:
        """Copy what it says now, to be held against what it says later."""
        copy = ImageTable(np.empty(0, np.int64), [], self.pids[:0], self.camids[:0], 0, self.names)
        copy.present, copy.pids, copy.camids = self.present.copy(), self.pids.copy(), self.camids.copy()
        copy.paths = list(self.paths)
        copy.columns = {name: column.copy() for name, column in self.columns.items()}
        return copy

    def says(self, before: ImageTable) -> bool:
        """Tell whether it says what it said before of every image that was there and still is.

        Args:
            before: an earlier `copy`.
        """
        images = len(before.present)
        rows = np.flatnonzero(self.present[:images])
        # Paths that are there still are the same objects mostly, which a comparison of lists sees at once
        paths, earlier = self.paths[:images], before.paths
        if len(rows) < images:
            paths, earlier = ([column[row] for row in rows.tolist()] for column in (paths, earlier))
        if paths != earlier or self.columns.keys() != before.columns.keys():
            return False
        tables = ((table.pids[rows], table.camids[rows], table.names) for table in (self, before))
        (pids, camids, names), (old_pids, old_camids, old_names) = tables
        if names != old_names:  # new images may have changed the numbers
            if names_of(pids, camids, names) != names_of(old_pids, old_camids, old_names):
                return False
        elif not (np.array_equal(pids, old_pids) and np.array_equal(camids, old_camids)):
            return False
        return all(
            texts_of(column[rows]) == texts_of(before.columns[name][rows]) for name, column in self.columns.items()
        )

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
        there = np.flatnonzero(self.present).tolist()
        called = names_of(self.pids, self.camids, self.names)[0]
        known = [(row, self.paths[row], called[row]) for row in there]
        return named_rows(known, rows, paths, identities)

    def check_new(self, paths: Sequence[str]) -> None:
        """Refuse images that are there.

        Raises:
            ValueError: a path that is not empty is in the table already.
        """
        check_new(paths, {self.paths[row] for row in np.flatnonzero(self.present).tolist()})

    def take(self, rows: np.ndarray) -> ImageTable:
        """Give a table of some images, by their place in `rows`.

        Args:
            rows: (N,) of images that are there.
        """
        paths = [self.paths[row] for row in rows.tolist()]
        pids, camids = self.pids[rows], self.camids[rows]
        table = ImageTable(np.arange(len(rows)), paths, pids, camids, len(rows), self.names)
        table.columns = {name: column[rows] for name, column in self.columns.items()}
        return table

    def remove(self, rows: np.ndarray) -> None:
        """Forget images; their rows stay empty."""
        self.present[rows] = False
        self.pids[rows] = self.camids[rows] = -1
        for row in rows.tolist():
            self.paths[row] = ""
        for column in self.columns.values():
            column[rows] = unknown(kind_of(column), len(rows))


def named_rows(
    known: Sequence[tuple[int, str, str]],
    rows: Iterable[int] | None,
    paths: Iterable[str] | None,
    identities: Iterable[Label] | None,
) -> np.ndarray:
    """Find images that are named by row, by path or by identity, as `ImageTable.find` does.

    Args:
        known: row, path and identity of images that are there.
        rows: numbers of images.
        paths: image files.
        identities: of images, by name.

    Raises:
        ValueError: a row, path or identity that is not there.
    """
    wanted: set[int] = set()
    for column, (what, names) in enumerate((("row", rows), ("path", paths), ("identity", map(str, identities or ())))):
        missing = set(names or ())
        found = [image for image in known if image[column] in missing] if missing else []
        missing -= {image[column] for image in found}
        if missing:
            raise ValueError(
                f"there is no image of {what} '{min(missing, key=str)}' in the index ({len(missing)} such)"
            )
        wanted.update(image[0] for image in found)
    return np.array(sorted(wanted), dtype=np.int64)


def check_new(paths: Sequence[str], there: Collection[str]) -> None:
    """Refuse images that are there.

    Args:
        paths: of new images; "" may be there.
        there: paths.

    Raises:
        ValueError: a path is there already.
    """
    again = [path for path in paths if path and path in there]
    if again:
        raise ValueError(
            f"{len(again)} of {len(paths)} images are in the index already, the first is '{again[0]}': remove them "
            "first, or leave them out; `index label` changes what columns say of them"
        )


def lines_of(places: Sequence[str], paths: Sequence[str]) -> np.ndarray:
    """Find images in a table of real paths.

    Args:
        places: N real paths, different.
        paths: P image files.

    Returns:
        (P,) int64, the line of each image, -1 where the table does not name it.
    """
    line_of = {place: line for line, place in enumerate(places)}
    return np.array([line_of.get(os.path.realpath(path), -1) for path in paths], np.int64)


def check_named(images: int, places: Sequence[str]) -> None:
    """Refuse a table that names none of the images.

    Args:
        images: how many it names.
        places: its paths.

    Raises:
        ValueError: it is none.
    """
    if not images:
        raise ValueError(f"none of the {len(places)} images of the table is in the index: paths start at its folder")
