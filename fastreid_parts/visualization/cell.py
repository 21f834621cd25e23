"""One image of a rank list on a sheet: in a frame, with a caption, and whom it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fastreid.data.data_utils import read_image

from .style import JUNK, MATCH, MUTED, NON_MATCH, Sheet

#: Width and height of the image in inches.
IMAGE = (0.58, 1.16)

#: Kind of an answer -> a mark, which says the same as its frame to those who cannot tell the colors, and the color.
FRAMES = {"match": ("✓", MATCH), "non-match": ("✗", NON_MATCH), "junk": ("–", JUNK)}


def frame_kind(correct: bool, place: int = 1) -> str:
    """Tell which of `FRAMES` an answer gets.

    Args:
        correct: it shows the query's identity.
        place: its rank; 0 for what does not count.
    """
    return "junk" if not place else "match" if correct else "non-match"


def draw_cell(
    sheet: Sheet,
    center: float,
    top: float,
    path: str,
    who: Sequence[str],
    frame: str | None = None,
    caption: str = "",
) -> None:
    """Draw an image file with what stands below it.

    Args:
        sheet: where to draw.
        center: of the image, from the left in inches.
        top: upper edge of the image.
        path: of the file.
        who: what is known of it, as from `identity_and_camera`.
        frame: color of the frame and of the caption; no frame without.
        caption: a line below the image.

    Raises:
        OSError: the file cannot be read.
    """
    width, height = IMAGE
    pixels = np.asarray(read_image(path, format="RGB"))
    sheet.image(pixels, center - width / 2, top, width, height, frame=frame)
    below = top + height + 0.07
    if caption:
        sheet.text(center, below, caption, size=6.5, color=frame or MUTED, bold=True)
        below += 0.13
    sheet.text(center, below, " · ".join(who), size=5.5, color=MUTED)
