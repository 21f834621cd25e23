"""One figure of a whole experiment: people of the dataset, rank lists and activation maps."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from fastreid.data.data_utils import read_image

from ..evaluation.features import Features
from .activation import activation_panel, activation_panel_size
from .rank_list import RankedExamples, rank_list_panel, rank_list_panel_size
from .style import MARGIN, MUTED, Sheet

_HEADING = 0.30
_SECTION_GAP = 0.18
_STRIP_IMAGE = (0.54, 1.08)
_STRIP_PITCH = 0.58
_STRIP_GAP = 0.22


def strip_of_people(query: Features, gallery: Features, people: int = 4, images: int = 4) -> list[list[str]]:
    """Choose image files that introduce a dataset: a few identities, each seen by as many cameras as there are.

    Args:
        query: its identities are the ones to choose from; others of the gallery are distractors.
        gallery: the images to choose from.
        people: identities to take, spread over all that have enough images; fewer where there are fewer.
        images: images an identity.

    Returns:
        One list of files an identity.
    """
    chosen = []
    for pid in np.unique(query.pids):
        rows = np.flatnonzero(gallery.pids == pid)
        if len(rows) >= images:
            cameras = gallery.camids[rows].tolist()
            # One image of every camera first, then the second ones
            turns = [(cameras[:place].count(camera), camera, rows[place]) for place, camera in enumerate(cameras)]
            chosen.append([gallery.paths[row] for _, _, row in sorted(turns)[:images]])
    if len(chosen) <= people:
        return chosen
    return [chosen[i] for i in np.linspace(0, len(chosen) - 1, people).round().astype(int)]


def draw_overview(
    path: str | os.PathLike,
    people: Sequence[Sequence[str]],
    ranked: RankedExamples,
    images: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    headings: Sequence[str],
    per_row: int = 3,
) -> None:
    """Draw people, rank lists and activation maps on one sheet.

    Args:
        path: the PNG to write.
        people: image files of a few identities, from `strip_of_people`.
        ranked: the rank lists.
        images: for the activation maps, as in `draw_activation_maps`.
        maps: as in `draw_activation_maps`.
        headings: a line above each of the three sections.
        per_row: activation maps beside each other.
    """
    strip = sum(map(len, people)) * _STRIP_PITCH + max(0, len(people) - 1) * _STRIP_GAP
    sizes = [(strip, _STRIP_IMAGE[1]), rank_list_panel_size(ranked), activation_panel_size(images, maps, per_row)]
    width = max(size[0] for size in sizes)
    height = sum(size[1] for size in sizes) + 3 * _HEADING + 2 * _SECTION_GAP
    sheet = Sheet(width + 2 * MARGIN, height + 2 * MARGIN)
    top = MARGIN
    panels: list[Callable[..., None]] = [
        partial(_draw_strip, people=people),
        partial(rank_list_panel, examples=ranked),
        partial(activation_panel, images=images, maps=maps, per_row=per_row),
    ]
    for heading, size, draw in zip(headings, sizes, panels):
        if top > MARGIN:
            sheet.rule(MARGIN, top - _SECTION_GAP / 2, width)
        sheet.text(MARGIN, top, heading, size=9.5, ha="left", weight="bold")
        draw(sheet, MARGIN, top + _HEADING)
        top += _HEADING + size[1] + _SECTION_GAP
    sheet.save(path)


def _draw_strip(sheet: Sheet, x: float, y: float, people: Sequence[Sequence[str]]) -> None:
    for files in people:
        for file in files:
            pixels = np.asarray(read_image(file, format="RGB"))
            sheet.image(pixels, x, y, *_STRIP_IMAGE, frame=MUTED, frame_inches=0.006)
            x += _STRIP_PITCH
        x += _STRIP_GAP
