"""Tables that a user writes: images, their identities and cameras, by name."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence

from ..files import plain_cell

_FILES = ("path", "image_a", "image_b")
_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def read_table(
    path: str | os.PathLike, needed: Sequence[str], optional: Sequence[str] | None = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table in UTF-8, separated by commas, whose first line names its columns.

    Cells lose the blanks around them and the apostrophe that keeps a spreadsheet from running them; 12.0, which is what
    a spreadsheet makes of 12, is 12 again where it is no file.

    Args:
        path: the file.
        needed: columns that must be there, in any order among others.
        optional: columns that may be there; their cells are empty otherwise. None: all others that have a name.

    Returns:
        Number of the line and {column: text} of each row.

    Raises:
        ValueError: it is no such table, or a needed column is missing.
    """
    try:
        # utf-8-sig, because spreadsheets write a mark in front of the first column's name
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = reader.fieldnames = [(name or "").strip() for name in reader.fieldnames or []]
            missing = [column for column in needed if column not in header]
            if missing:
                raise ValueError(
                    f"{path}: line 1: no column {', '.join(missing)}; the first line names the columns, separated by "
                    f"commas, and is: {', '.join(header) or 'empty'}"
                )
            others = [name for name in header if name and name not in needed] if optional is None else optional
            twice = [name for name in (*needed, *others) if header.count(name) > 1]
            if twice:
                raise ValueError(f"{path}: line 1: the column {twice[0]} is there twice")
            for entry in reader:
                yield reader.line_num, {name: _text(entry.get(name), name) for name in (*needed, *others)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a table in UTF-8 text, separated by commas: {error}") from error


def _text(cell: str | None, column: str) -> str:
    text = plain_cell((cell or "").strip())
    whole = None if column in _FILES else _WHOLE.fullmatch(text)
    return whole.group(1) if whole else text
