"""What queries found, as a figure: a query a row, the nearest images to its right."""

from __future__ import annotations

import os

import numpy as np

from ..evaluation import Features
from ..retrieval import GalleryIndex
from ..visualization.cell import FRAMES, draw_cell, frame_kind
from ..visualization.style import MARGIN, MUTED, QUERY, Sheet

#: The first queries are drawn, at most so many.
MAX_QUERIES = 12

# inches
_CELL = (0.76, 1.66)
_GAP = 0.2
_HEADER = 0.5


def draw_found(index: GalleryIndex, query: Features, distances: np.ndarray, rows: np.ndarray, path: str) -> None:
    """Draw it.

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
    width = max(4.0, 2 * MARGIN + (k + 1) * _CELL[0] + _GAP)
    sheet = Sheet(width, 2 * MARGIN + _HEADER + number * _CELL[1])
    title = f"{number} of {len(query)} queries" if number < len(query) else ""
    if index.calibration is not None:
        known = f"✓ the same person: {index.metric} distance below {index.calibration.threshold:.4g}"
        title = f"{known} · {title}" if title else known
    sheet.text(MARGIN, MARGIN, title, color=MUTED, ha="left")
    header = MARGIN + 0.26
    sheet.text(MARGIN + _CELL[0] / 2, header, "query", color=MUTED, weight="bold")
    left = MARGIN + _CELL[0] + _GAP
    for rank in range(k):
        sheet.text(left + (rank + 0.5) * _CELL[0], header, str(rank + 1), color=MUTED, weight="bold")
    for place in range(number):
        top = MARGIN + _HEADER + place * _CELL[1]
        _check_there(query.paths[place])
        draw_cell(sheet, MARGIN + _CELL[0] / 2, top, query, place, QUERY)
        for rank, (distance, row) in enumerate(zip(distances[place], rows[place].tolist())):
            if row >= 0:
                color, mark = None, ""
                if index.calibration is not None:
                    mark, color = FRAMES[frame_kind(bool(index.calibration.same_person(distance)))]
                _check_there(index.images.paths[row])
                caption = f"{mark} {distance:#.3g}".strip()
                draw_cell(sheet, left + (rank + 0.5) * _CELL[0], top, index.images, row, color, caption)
    sheet.save(path)


def _check_there(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"'{path}' is not there any more: a figure needs the images of the index")
