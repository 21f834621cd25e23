"""What a user knows of images beside identity and camera: columns of texts, numbers or times.

A column is an array with a value for each image. Its type says its kind: a text is a str object, "" where unknown; a
number is float64, NaN where unknown; a time is datetime64[us], NaT where unknown, in UTC where zones are given.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.tables import read_table
from .manifest import IMAGE_COLUMNS

#: Kind of a column -> the array's type and what is unknown.
KINDS: dict[str, tuple[Any, Any]] = {
    "text": (object, ""),
    "number": (np.float64, np.nan),
    "time": ("datetime64[us]", np.datetime64("NaT")),
}
#: What every image has; no column of a user's may be called so.
BUILT_IN = ("row", *IMAGE_COLUMNS, "removed")
#: What a search says of each image that it finds, beside these; no column of a user's may be called so either.
OF_RESULTS = ("query", "rank", "distance", "same_person")

_NAME = re.compile(r"[^\W\d]\w*")
_WHOLE = re.compile(r"[+-]?\d+")
_ZEROS = re.compile(r"[+-]?0\d+(\.\d*)?")
# Beyond these a time is no text of four digits a year, as it is read
_FIRST, _LAST = np.datetime64("0000-01-01", "us"), np.datetime64("9999-12-31T23:59:59.999999", "us")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?)(?:Z|([+-])(\d\d):(\d\d))?", re.ASCII)


def kind_of(column: np.ndarray) -> str:
    """Name the kind of a column."""
    return {"O": "text", "f": "number", "M": "time"}[column.dtype.kind]


def unknown(kind: str, images: int) -> np.ndarray:
    """Make a column of which nothing is known yet.

    Args:
        kind: one of `KINDS`.
        images: how long it is.
    """
    dtype, value = KINDS[kind]
    return np.full(images, value, dtype)


def is_known(column: np.ndarray) -> np.ndarray:
    """Tell which values of a column are known, as (N,) bool."""
    return column != "" if column.dtype == object else column == column


def to_time(text: str) -> np.datetime64:
    """Read a date, or a date and time, of ISO 8601; with a zone, it is brought to UTC.

    Raises:
        ValueError: it is none, or beyond the years 0 to 9999 in UTC.
    """
    parts = _TIME.fullmatch(text)
    try:
        if parts:
            written, sign, hours, minutes = parts.groups(default="0")
            offset = np.timedelta64(60 * int(hours) + int(minutes), "m")
            moment = np.datetime64(written, "us") + (offset if sign == "-" else -offset)
    except ValueError:  # the thirteenth month
        pass
    else:
        if parts and _FIRST <= moment <= _LAST:
            return moment
        if parts:
            raise ValueError(f"'{text}' is in UTC beyond the years 0 to 9999")
    raise ValueError(f"'{text}' is no time: write 2026-05-01 or 2026-05-01T14:30:00")


def _to_number(text: str) -> float:
    number = float(text)
    if not np.isfinite(number) or "_" in text:
        raise ValueError(f"'{text}' is no number")
    if _is_rounded(text):
        raise ValueError(f"'{text}' is a whole number that float64 does not hold exactly: two of them may become one")
    return number


def _is_rounded(text: str) -> bool:
    """Whether a text is a whole number that float64 rounds, as the ids of some trackers are."""
    return _WHOLE.fullmatch(text) is not None and int(text) != float(text)


def _is_name(text: str) -> bool:
    """Whether digits would not come back as they are written: rounded, or without the zeros that they begin with."""
    return _is_rounded(text) or _ZEROS.fullmatch(text) is not None


_READERS: dict[str, Callable[[str], Any]] = {"text": str, "number": _to_number, "time": to_time}


def typed(texts: Sequence[str], kind: str = "") -> np.ndarray:
    """Make a column of what is written in a table.

    Args:
        texts: N cells, "" where the value is unknown.
        kind: one of `KINDS`; without one it is that of the cells, and `text` where a number would not come back as
            written: a whole one that float64 rounds, or one with zeros in front.

    Raises:
        ValueError: a cell is not of the kind, or they are of several.
    """
    if not kind:
        kinds = {_kind_of_cell(text): text for text in reversed(texts) if text}
        if kinds.keys() == {"number", "text"} and all(
            _is_name(text) or _kind_of_cell(text) == "number" for text in texts if text
        ):
            del kinds["number"]
        if len(kinds) > 1:
            examples = ", ".join(f"{found} ('{text}')" for found, text in sorted(kinds.items()))
            raise ValueError(f"values of several kinds: {examples}")
        kind = next(iter(kinds), "text")
    column = unknown(kind, len(texts))
    for place, text in enumerate(texts):
        if text:
            column[place] = _READERS[kind](text)
    return column


def _kind_of_cell(text: str) -> str:
    if _is_name(text):
        return "text"
    for kind in ("number", "time"):
        try:
            _READERS[kind](text)
        except ValueError:
            continue
        return kind
    return "text"


def texts_of(column: np.ndarray) -> list[str]:
    """Write a column as `typed` reads it."""
    if column.dtype == object:
        return column.tolist()
    if kind_of(column) == "time":
        return ["" if np.isnat(value) else str(value) for value in column]
    return ["" if value != value else f"{value:.17g}" for value in column.tolist()]


def value_of(column: np.ndarray, row: int) -> str | float | None:
    """Give the value of one image, a time as text, a whole number as one; None where it is unknown.

    Args:
        column: (N,).
        row: which image.
    """
    value = column[row]
    if not is_known(column[row : row + 1])[0]:
        return None
    if column.dtype == object or kind_of(column) == "time":
        return str(value)
    return int(value) if float(value).is_integer() else float(value)


def read_columns(table: str | os.PathLike) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read a user's table of images: the column `path`, and any others.

    The kind of a column is that of its cells, or what its header says behind a colon, `site:text`. The columns identity
    and camera are left out.

    Returns:
        N real paths, and {name: column}.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is no such table; it names an image twice; the name of a column cannot be; its cells are of
            several kinds, or not of the one that is said.
    """
    rows = [row for _, row in read_table(table, ("path",), None)]
    folder = os.path.dirname(os.fspath(table))
    places = [os.path.realpath(os.path.join(folder, row["path"])) for row in rows]
    (most, times), *_ = Counter(places).most_common(1) or [("", 0)]
    if times > 1:
        raise ValueError(f"'{table}' names {most} {'twice' if times == 2 else f'{times} times'}")
    columns: dict[str, np.ndarray] = {}
    for header in rows[0] if rows else ():
        name, _, kind = (part.strip() for part in header.partition(":"))
        if name in IMAGE_COLUMNS and not kind:
            continue
        try:
            check_name(name)
            if kind and kind not in KINDS:
                raise ValueError(f"there is no kind '{kind}'; it is {', '.join(KINDS)}")
            if name in columns:
                raise ValueError("it is there twice")
            columns[name] = typed([row[header] for row in rows], kind)
        except ValueError as error:
            remedy = "" if kind else f"; the header {name}:text takes all cells as text"
            raise ValueError(f"'{table}', column '{header}': {error}{remedy}") from error
    return places, columns


def kind_among(name: str, own: Mapping[str, str]) -> str:
    """Name the kind of a column that can be asked for.

    Args:
        name: of the column.
        own: name -> kind of the user's.

    Raises:
        ValueError: there is no such column.
    """
    kinds = {"row": "number", **dict.fromkeys(IMAGE_COLUMNS, "text"), **own}
    if name not in kinds:
        raise ValueError(f"there is no column '{name}' in the index; it has {', '.join(kinds)}")
    return kinds[name]


def check_kinds(new: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Refuse columns of a table that cannot go into an index.

    Args:
        new: name -> kind in the table.
        own: name -> kind in the index.

    Raises:
        ValueError: a column cannot be called so, or is there with another kind.
    """
    for name, kind in new.items():
        check_name(name)
        if own.get(name, kind) != kind:
            raise ValueError(
                f"the column {name} is {own[name]} in the index and {kind} in the table: say its kind in the table's "
                f"header, {name}:{own[name]}"
            )


def check_name(name: str, stored: bool = False) -> None:
    """Refuse the name of a column that an expression cannot name, or that every image or result has.

    Args:
        name: of the column.
        stored: it is in an index already, where earlier versions took the names of `OF_RESULTS`.

    Raises:
        ValueError: the message says why.
    """
    if name in BUILT_IN:
        raise ValueError(f"every image has {', '.join(BUILT_IN)}; call the column otherwise")
    if name in OF_RESULTS and not stored:
        raise ValueError(f"a result of `search` has {', '.join(OF_RESULTS)}; call the column otherwise")
    if not _NAME.fullmatch(name):
        raise ValueError("a column's name has letters, digits and _ only, and begins with no digit")
