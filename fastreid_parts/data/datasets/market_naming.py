"""Images whose names say who and where, as Market-1501's do: `0002_c1s1_000451_03.jpg`, `12_c12_7.png`."""

from __future__ import annotations

import re

JUNK = -1  # the identity of boxes that show nobody; they are left out

_NAME = re.compile(r"(-1|\d+)_c(\d+)")


def parse_market_name(name: str) -> tuple[int, int] | None:
    """(identity, camera) as the file name numbers them, or None where it does not start with the two."""
    found = _NAME.match(name)
    return (int(found.group(1)), int(found.group(2))) if found else None
