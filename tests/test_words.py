"""Numbers and names in sentences."""

from __future__ import annotations

import os

from fastreid_parts.words import count, first_few, printable, some_of
from fastreid_parts.words import test_set as size_of


def test_count() -> None:
    assert [count(number, "warning") for number in (0, 1, 2)] == ["0 warnings", "1 warning", "2 warnings"]
    assert count(1, "identity", "identities") == "1 identity" and count(3, "identity", "identities") == "3 identities"


def test_the_size_of_a_test_set_and_names_that_are_no_utf8() -> None:
    assert (
        size_of(1, 20) == "1 query, 20 images of the gallery" and size_of(4, 1) == "4 queries, 1 image of the gallery"
    )
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\udce9" and some_of(["Zoë"]) == "Zoë"


def test_lists_are_cut() -> None:
    assert first_few(["a", "b", "c"], 2) == "  a\n  b\n  ... and 1 more"
    assert some_of([3, 1, 3, 2], 2) == "3, 1, and 1 more"
