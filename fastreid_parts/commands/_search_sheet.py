"""What queries found, as a picture: a query a row, the nearest images to its right."""

from __future__ import annotations

import os

import numpy as np
from fastreid.data.data_utils import read_image

from ..evaluation import Features
from ..retrieval import GalleryIndex
from ..visualization.style import MUTED, QUERY, RIGHT, WRONG, Sheet

__all__ = ["MAX_QUERIES", "draw_found"]

#: The first queries are drawn, at most so many.
MAX_QUERIES = 12

# inches
_IMAGE = (0.58, 1.16)
_CELL = (0.76, 1.66)
_GAP = 0.2
_MARGIN = 0.16
_HEADER = 0.5


def draw_found(index: GalleryIndex, query: Features, distances: np.ndarray, rows: np.ndarray, path: str) -> None:
    """Write the picture.

    Of a calibrated index, images that are the same person by the threshold are framed green and marked with ✓, others
    red and with ✗; otherwise they have no frame.

    Args:
        index: that was searched.
        query: Q images.
        distances: (Q, k) of what was found.
        rows: (Q, k) rows of the index, -1 where nothing was found.
        path: the PNG.

    Raises:
        FileNotFoundError: an image of a query or of the index is not where it was.
    """
    number, k = min(len(query), MAX_QUERIES), rows.shape[1]
    width = max(4.0, 2 * _MARGIN + (k + 1) * _CELL[0] + _GAP)
    sheet = Sheet(width, 2 * _MARGIN + _HEADER + number * _CELL[1])
    title = f"{number} of {len(query)} queries" if number < len(query) else ""
    if index.calibration is not None:
        known = f"✓ the same person: {index.metric} distance below {index.calibration.threshold:.4g}"
        title = f"{known} · {title}" if title else known
    sheet.text(_MARGIN, _MARGIN, title, color=MUTED, align="left")
    header = _MARGIN + 0.26
    sheet.text(_MARGIN + _CELL[0] / 2, header, "query", color=MUTED, bold=True)
    left = _MARGIN + _CELL[0] + _GAP
    for rank in range(k):
        sheet.text(left + (rank + 0.5) * _CELL[0], header, str(rank + 1), color=MUTED, bold=True)
    for place in range(number):
        top = _MARGIN + _HEADER + place * _CELL[1]
        who = _who(int(query.pids[place]), int(query.camids[place]))
        _cell(sheet, _MARGIN + _CELL[0] / 2, top, query.paths[place], QUERY, "", who)
        for rank, (distance, row) in enumerate(zip(distances[place], rows[place].tolist())):
            if row >= 0:
                _found(sheet, left + (rank + 0.5) * _CELL[0], top, index, distance, row)
    sheet.save(path)


def _found(sheet: Sheet, centre: float, top: float, index: GalleryIndex, distance: np.float32, row: int) -> None:
    color, mark = None, ""
    if index.calibration is not None:
        same = bool(index.calibration.same_person(distance))
        color, mark = (RIGHT, "✓ ") if same else (WRONG, "✗ ")
    images = index.images
    who = _who(int(images.pids[row]), int(images.camids[row]))
    _cell(sheet, centre, top, images.paths[row], color, f"{mark}{distance:#.3g}", who)


def _cell(sheet: Sheet, centre: float, top: float, path: str, color: str | None, caption: str, who: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"'{path}' is not there any more: a picture needs the images of the index")
    width, height = _IMAGE
    pixels = np.asarray(read_image(path, format="RGB"))
    sheet.image(pixels, centre - width / 2, top, width, height, frame=color)
    below = top + height + 0.07
    if caption:
        sheet.text(centre, below, caption, size=6.5, color=color or MUTED, bold=True)
        below += 0.13
    sheet.text(centre, below, who, size=5.5, color=MUTED)


def _who(pid: int, camid: int) -> str:
    known = ((f"id {pid}", pid), (f"cam {camid}", camid))
    return " · ".join(text for text, number in known if number >= 0)
