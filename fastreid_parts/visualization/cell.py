"""One image of a rank list on a sheet: in a frame, with a caption, and whom it shows."""

from __future__ import annotations

import numpy as np
from fastreid.data.data_utils import read_image

from ..evaluation.features import Features, identity_and_camera
from ..retrieval.image_table import ImageTable
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
    sheet: Sheet, x: float, y: float, images: Features | ImageTable, row: int, frame: str | None, caption: str = ""
) -> None:
    """Draw an image file with what stands below it.

    Args:
        sheet: where to draw.
        x: center of the image, from the left in inches.
        y: its upper edge.
        images: one of them is drawn, with what is known of it.
        row: which.
        frame: color of the frame and of the caption; no frame without.
        caption: a line below the image.

    Raises:
        OSError: the file cannot be read.
    """
    width, height = IMAGE
    pixels = np.asarray(read_image(images.paths[row], format="RGB"))
    sheet.image(pixels, x - width / 2, y, width, height, frame=frame)
    below = y + height + 0.07
    if caption:
        sheet.text(x, below, caption, size=6.5, color=frame or MUTED, weight="bold")
        below += 0.13
    who = identity_and_camera(images.pids[row], images.camids[row])
    sheet.text(x, below, " · ".join(who), size=5.5, color=MUTED)
