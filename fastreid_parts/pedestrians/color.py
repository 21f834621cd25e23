"""Colors of the drawings: (blue, green, red), each from 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Color = tuple[int, int, int]


def toned(color: Sequence[int] | np.ndarray, factor: float, limit: int = 255) -> Color:
    """Make a color lighter or darker.

    Args:
        color: (blue, green, red).
        factor: above 1 it is lighter.
        limit: that no channel passes.
    """
    blue, green, red = (int(min(limit, max(0, c * factor))) for c in color)
    return blue, green, red
