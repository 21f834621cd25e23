"""Colours of the drawings: (blue, green, red), each from 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Colour", "toned"]

Colour = tuple[int, int, int]


def toned(colour: Sequence[int] | np.ndarray, factor: float, limit: int = 255) -> Colour:
    """A colour that is lighter (factor above 1) or darker; no channel passes `limit`."""
    blue, green, red = (int(min(limit, max(0, c * factor))) for c in colour)
    return blue, green, red
