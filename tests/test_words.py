"""Numbers and names in sentences."""

from __future__ import annotations

from fastreid_parts.words import count, first_few, some_of


def test_count() -> None:
    assert [count(number, "warning") for number in (0, 1, 2)] == ["0 warnings", "1 warning", "2 warnings"]
    assert count(1, "identity", "identities") == "1 identity" and count(3, "identity", "identities") == "3 identities"


def test_lists_are_cut() -> None:
    assert first_few(["a", "b", "c"], 2) == "  a\n  b\n  ... and 1 more"
    assert some_of([3, 1, 3, 2], 2) == "3, 1, and 1 more"
