"""Numbers and names in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def count(number: int, noun: str, plural: str = "") -> str:
    """Write a number of things: "1 image", "2 images".

    Args:
        number: how many.
        noun: of one.
        plural: of several, where it is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def test_set(queries: int, gallery: int) -> str:
    """Write how large a test set is.

    Args:
        queries: number of query images.
        gallery: number of gallery images.
    """
    return f"{count(queries, 'query', 'queries')}, {count(gallery, 'image')} of the gallery"


def printable(name: Any) -> str:
    """Write a name as UTF-8 text, which that of a file need not be: such bytes as `\\udce9`."""
    return str(name).encode(errors="backslashreplace").decode()


def first_few(lines: Sequence[str], limit: int = 10) -> str:
    """List the first lines, indented, one a row, and how many more there are.

    Args:
        lines: all of them.
        limit: how many are listed.
    """
    shown = [f"  {printable(line)}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  ... and {len(lines) - limit} more")
    return "\n".join(shown)


def some_of(names: Iterable[Any], limit: int = 10) -> str:
    """List the first distinct names in one line, and how many more there are.

    Args:
        names: all of them.
        limit: how many are listed.
    """
    distinct = list(dict.fromkeys(printable(name) for name in names))
    more = [f"and {len(distinct) - limit} more"] if len(distinct) > limit else []
    return ", ".join(distinct[:limit] + more)
