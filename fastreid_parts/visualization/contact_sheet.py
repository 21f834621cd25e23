"""A contact sheet of an augmentation: each image, and beside it what random draws make of it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from .style import MUTED, Sheet, fitting_size

__all__ = ["draw_contact_sheet"]

# inches
_LONGEST = 1.3  # the longer side of an image
_GAP = 0.08
_ORIGINAL_GAP = 0.18  # behind the originals
_LABEL = 0.17
_HEADER = 0.2
_MARGIN = 0.14
_FRAME = 0.008
_EDGE = "#cbd2d9"  # around an image, so that one that is white at its border has an outline


def draw_contact_sheet(
    originals: Sequence[np.ndarray],
    draws: Sequence[Sequence[np.ndarray]],
    path: str | os.PathLike,
    labels: Sequence[str] = (),
    title: str = "",
) -> None:
    """Write a picture with a row for each image: the original first, then its draws. No image is distorted.

    Args:
        originals: N arrays (H, W, 3) uint8, RGB, of any sizes.
        draws: for each of them as many arrays (H', W', 3) uint8, RGB.
        path: the PNG to write.
        labels: a line above each row, such as a file name.
        title: a line above all rows.

    Raises:
        ValueError: there are no images or no draws, not as many rows of draws or labels as images, or rows differ in
            length.
    """
    if not originals or not draws or not draws[0]:
        raise ValueError("a contact sheet needs at least one image and one draw of it")
    lengths = {len(row) for row in draws}
    if len(draws) != len(originals) or len(lengths) > 1:
        raise ValueError(
            f"{len(originals)} images, {len(draws)} rows of {' or '.join(map(str, sorted(lengths)))} draws: each image "
            "needs as many draws as the others"
        )
    if labels and len(labels) != len(originals):
        raise ValueError(f"{len(originals)} images but {len(labels)} labels")

    columns = [[_inches(image) for image in originals]] + [
        [_inches(row[column]) for row in draws] for column in range(len(draws[0]))
    ]
    widths = [max(width for width, _ in column) for column in columns]
    heights = [max(column[row][1] for column in columns) for row in range(len(originals))]
    line = _LABEL if labels else 0.0
    top = _MARGIN + (0.28 if title else 0) + _HEADER
    gaps = _ORIGINAL_GAP + (len(columns) - 2) * _GAP
    width = 2 * _MARGIN + sum(widths) + gaps
    sheet = Sheet(width, top + sum(heights) + len(heights) * (line + _GAP) - _GAP + _MARGIN)
    if title:
        size = fitting_size(title, width - 2 * _MARGIN, 10)
        sheet.text(_MARGIN, _MARGIN, title, size=size, align="left", bold=True)

    lefts = [_MARGIN]
    for number, taken in enumerate(widths[:-1]):
        lefts.append(lefts[-1] + taken + (_GAP if number else _ORIGINAL_GAP))
    for number, (left, taken) in enumerate(zip(lefts, widths)):
        head = str(number) if number else "original"
        sheet.text(left + taken / 2, top - 0.04, head, size=6.5, color=MUTED, vertical="bottom")
    for row, image in enumerate(originals):
        if labels:
            size = fitting_size(labels[row], width - 2 * _MARGIN, 6)
            sheet.text(_MARGIN, top + line - 0.03, labels[row], size, MUTED, align="left", vertical="bottom")
        top += line
        for column, picture in enumerate([image, *draws[row]]):
            shown = columns[column][row]
            left = lefts[column] + (widths[column] - shown[0]) / 2
            sheet.image(picture, left, top + (heights[row] - shown[1]) / 2, *shown, frame=_EDGE, frame_inches=_FRAME)
        top += heights[row] + _GAP
    sheet.save(path)


def _inches(image: np.ndarray) -> tuple[float, float]:
    """Width and height at which an image is drawn; an extreme one keeps a side that can be seen."""
    height, width = image.shape[:2]
    scale = _LONGEST / max(height, width)
    return max(width * scale, 0.05), max(height * scale, 0.05)
