"""Images whose names say who and where, as Market-1501's do: `0002_c1s1_000451_03.jpg`, `12_c12_7.png`."""

from __future__ import annotations

import os
import re

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
JUNK = -1  # the identity of boxes that show nobody; they are left out

_NAME = re.compile(r"(-1|\d+)_c(\d+)")


def list_images(folder: str) -> list[str]:
    """List the names of the image files in `folder` (not below it), sorted, so that every machine has one order.

    Files whose name starts with a dot are left out: systems leave such companions beside images.
    """
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(IMAGE_EXTENSIONS) and not entry.name.startswith(".") and entry.is_file()
    )


def parse_market_name(name: str) -> tuple[int, int] | None:
    """(identity, camera) as the file name numbers them, or None where it does not start with the two."""
    found = _NAME.match(name)
    return (int(found.group(1)), int(found.group(2))) if found else None
