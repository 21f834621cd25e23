"""What queries found, as a figure: a query a row, the nearest images to its right."""

from __future__ import annotations

import os

import numpy as np

from ..evaluation import Features
from ..evaluation.features import identity_and_camera
from ..retrieval import GalleryIndex
from ..retrieval.image_table import ImageTable
from ..visualization.cell import FRAMES, draw_cell, frame_kind
from ..visualization.style import MUTED, QUERY, Sheet

#: The first queries are drawn, at most so many.
MAX_QUERIES = 12

# inches
_CELL = (0.76, 1.66)
_GAP = 0.2
_MARGIN = 0.16
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
        _cell(sheet, _MARGIN + _CELL[0] / 2, top, query, place, QUERY)
        for rank, (distance, row) in enumerate(zip(distances[place], rows[place].tolist())):
            if row >= 0:
                color, mark = None, ""
                if index.calibration is not None:
                    mark, color = FRAMES[frame_kind(bool(index.calibration.same_person(distance)))]
                center = left + (rank + 0.5) * _CELL[0]
                _cell(sheet, center, top, index.images, row, color, f"{mark} {distance:#.3g}".strip())
    sheet.save(path)


def _cell(
    sheet: Sheet,
    center: float,
    top: float,
    images: Features | ImageTable,
    row: int,
    color: str | None,
    caption: str = "",
) -> None:
    path = images.paths[row]
    if not os.path.isfile(path):
        raise FileNotFoundError(f"'{path}' is not there any more: a figure needs the images of the index")
    draw_cell(sheet, center, top, path, identity_and_camera(images.pids[row], images.camids[row]), color, caption)
