"""Rank lists as a picture: a query, and what it found with right and wrong answers framed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fastreid.data.data_utils import read_image

from ..evaluation.features import Features
from ..evaluation.search import RankList, average_precisions, rank_lists
from .style import MUTED, QUERY, RIGHT, WRONG, Sheet

__all__ = [
    "RankedExamples",
    "choose_queries",
    "draw_rank_lists",
    "rank_examples",
    "rank_list_panel",
    "rank_list_panel_size",
]

# inches
_CELL_WIDTH = 0.74
_IMAGE = (0.58, 1.16)
_ROW_HEIGHT = 1.62
_LABEL_WIDTH = 0.72
_QUERY_GAP = 0.16
_HEADER = 0.24
_MARGIN = 0.14


@dataclass(frozen=True)
class RankedExamples:
    """Rank lists to show, with the images that their rows count in.

    Attributes:
        query: the query images.
        gallery: the gallery images.
        lists: what some queries found.
        labels: a text beside each list.
    """

    query: Features
    gallery: Features
    lists: Sequence[RankList]
    labels: Sequence[str]

    @property
    def longest(self) -> int:
        """Length of the longest list."""
        return max((len(found.gallery) for found in self.lists), default=0)


def choose_queries(
    precisions: np.ndarray,
    pids: np.ndarray,
    groups: Sequence[str] = ("best", "median", "worst"),
    each: int = 2,
) -> list[tuple[int, str]]:
    """Queries that show how good a model is from end to end, of different identities where there are enough.

    Args:
        precisions: (Q,) average precisions; NaN marks a query that does not count.
        pids: (Q,) identities.
        groups: any of `best`, `median` and `worst`.
        each: queries a group.

    Returns:
        (query, group) pairs in the order of `groups`; fewer where there are not enough queries.

    Raises:
        ValueError: an unknown group, or no query counts.
    """
    counted = np.flatnonzero(~np.isnan(precisions))
    if len(counted) == 0:
        raise ValueError("no query counts: the identities of the queries are not in the gallery of another camera")
    descending = counted[np.argsort(-precisions[counted], kind="stable")]
    middle = len(descending) // 2
    from_middle = descending[np.argsort(np.abs(np.arange(len(descending)) - middle), kind="stable")]
    orders = {"best": descending, "median": from_middle, "worst": descending[::-1]}
    chosen: list[tuple[int, str]] = []
    for group in groups:
        if group not in orders:
            raise ValueError(f"unknown group '{group}', choose from: {', '.join(orders)}")
        taken = {query for query, _ in chosen}
        seen = {pids[query] for query in taken}
        fresh = [q for q in orders[group].tolist() if q not in taken]
        # Stable: the group's own order, with identities that were not shown yet first
        ranked = _new_identities_first(fresh, pids, seen)
        chosen.extend((query, group) for query in ranked[:each])
    return chosen


def _new_identities_first(queries: Sequence[int], pids: np.ndarray, seen: set) -> list[int]:
    new: list[int] = []
    repeated: list[int] = []
    for query in queries:
        (repeated if pids[query] in seen else new).append(query)
        seen.add(pids[query])
    return new + repeated


def rank_examples(
    query: Features,
    gallery: Features,
    metric: str = "euclidean",
    k: int = 10,
    each: int = 3,
) -> RankedExamples:
    """Rank lists of the best, the median and the worst queries by average precision.

    Args:
        query: the query images.
        gallery: the gallery images.
        metric: `euclidean` or `cosine`.
        k: length of a list.
        each: queries a group.

    Raises:
        ValueError: as `fastreid_parts.evaluation.rank_lists`, or no query counts.
    """
    precisions = average_precisions(query, gallery, metric)
    chosen = choose_queries(precisions, query.pids, each=each)
    lists = rank_lists(query, gallery, k, metric, [row for row, _ in chosen])
    labels = [f"{group}\nAP {precisions[row]:.0%}" for row, group in chosen]
    return RankedExamples(query, gallery, lists, labels)


def draw_rank_lists(examples: RankedExamples, path: str | os.PathLike, title: str = "") -> None:
    """Write a picture of rank lists: query left, right answers framed green and wrong ones red.

    Args:
        examples: from `rank_examples`.
        path: the PNG to write.
        title: a line above the lists.
    """
    width, height = rank_list_panel_size(examples)
    top = _MARGIN + (0.3 if title else 0)
    sheet = Sheet(width + 2 * _MARGIN, top + height + _MARGIN)
    if title:
        sheet.text(_MARGIN, _MARGIN, title, size=10, align="left", bold=True)
    rank_list_panel(sheet, _MARGIN, top, examples)
    sheet.save(path)


def rank_list_panel_size(examples: RankedExamples) -> tuple[float, float]:
    """Width and height in inches that `rank_list_panel` needs."""
    columns, rows = 1 + examples.longest, len(examples.lists)
    return _LABEL_WIDTH + _QUERY_GAP + columns * _CELL_WIDTH, _HEADER + rows * _ROW_HEIGHT


def rank_list_panel(sheet: Sheet, x: float, y: float, examples: RankedExamples) -> None:
    """Draw rank lists on a sheet, one a row, from the corner (x, y) in inches to the right and down."""
    first = x + _LABEL_WIDTH
    centres = [first + _CELL_WIDTH / 2]
    centres += [first + _QUERY_GAP + (rank + 1.5) * _CELL_WIDTH for rank in range(examples.longest)]
    for column, centre in enumerate(centres):
        sheet.text(centre, y, str(column) if column else "query", color=MUTED, bold=True)
    for row, (found, label) in enumerate(zip(examples.lists, examples.labels)):
        top = y + _HEADER + row * _ROW_HEIGHT
        sheet.text(x, top + _IMAGE[1] / 2, label, align="left", vertical="center")
        _cell(sheet, centres[0], top, examples.query, found.query, QUERY, "")
        for centre, image, distance, right in zip(centres[1:], found.gallery, found.distances, found.correct):
            color = RIGHT if right else WRONG
            # The mark says the same as the frame to those who cannot tell green from red
            caption = f"{'✓' if right else '✗'} {distance:#.3g}"
            _cell(sheet, centre, top, examples.gallery, image, color, caption)


def _cell(sheet: Sheet, centre: float, top: float, features: Features, image: int, color: str, caption: str) -> None:
    width, height = _IMAGE
    pixels = np.asarray(read_image(features.paths[image], format="RGB"))
    sheet.image(pixels, centre - width / 2, top, width, height, frame=color)
    below = top + height + 0.07
    if caption:
        sheet.text(centre, below, caption, size=6.5, color=color, bold=True)
        below += 0.13
    # fast-reid counts cameras from 0, the files' names from 1
    who = f"id {features.pids[image]} · cam {features.camids[image] + 1}"
    sheet.text(centre, below, who, size=5.5, color=MUTED)
