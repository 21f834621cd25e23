"""Rank lists as a figure: a query, and what one or more models found, with matches, non-matches and junk framed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from fastreid.data.data_utils import read_image

from ..evaluation.features import Features, identity_and_camera
from ..evaluation.ranks import MatchRanks
from ..evaluation.search import RankList, average_precisions, lists_from_distances, rank_lists
from .style import JUNK, MATCH, MUTED, NON_MATCH, QUERY, Sheet, fitting_size

#: Kind of an answer -> a mark, which says the same as its frame to those who cannot tell the colors, and the color.
FRAMES = {"match": ("✓", MATCH), "non-match": ("✗", NON_MATCH), "junk": ("–", JUNK)}

# inches
_IMAGE = (0.58, 1.16)
_CELL_WIDTH = 0.74
_ROW_HEIGHT = 1.62
_LABEL_WIDTH = 0.72
_QUERY_GAP = 0.16
_HEADER = 0.24
_NAMES = 0.22
_NOTE = 0.16
_NUMBERS = 0.08  # of the regions
_MARGIN = 0.14
_TITLE_WIDTH = 4.0  # with less, a title is too small to read

_GROUPS = ("best", "median", "worst")


@dataclass(frozen=True)
class MarkedImages:
    """Images of the queries, one for each model, with horizontal regions drawn on them.

    Attributes:
        images: name of a model -> (H, W, 3) uint8 RGB for each query.
        headings: name of a model -> a text above its images.
        regions: number of regions of the same height.
        marked: the one that is framed, from 0 at the top.
    """

    images: Mapping[str, Sequence[np.ndarray]]
    headings: Mapping[str, str]
    regions: int
    marked: int


@dataclass(frozen=True)
class RankedExamples:
    """Rank lists to show, with the images that their rows count in.

    Attributes:
        query: the query images.
        gallery: the gallery images.
        lists: name of a model -> what some queries found, the same queries for all; a single model may have no name.
        labels: a text beside each query, or none at all.
        notes: name of a model -> a text beside each of its lists.
        marked: what to show before each list.
        framed: tell matches and non-matches apart.
    """

    query: Features
    gallery: Features
    lists: Mapping[str, Sequence[RankList]]
    labels: Sequence[str] = ()
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    marked: MarkedImages | None = None
    framed: bool = True

    @property
    def longest(self) -> int:
        """Length of the longest list."""
        return max((len(found.gallery) for lists in self.lists.values() for found in lists), default=0)

    @property
    def rows(self) -> list[int]:
        """List the queries, as rows of `query`."""
        return [found.query for found in next(iter(self.lists.values()))]


def choose_queries(
    precisions: np.ndarray,
    pids: np.ndarray,
    groups: Sequence[str] = _GROUPS,
    each: int = 2,
) -> list[tuple[int, str]]:
    """Choose queries that show how good a model is from end to end, of different identities where there are enough.

    Args:
        precisions: (Q,) average precisions; NaN marks a query that does not count.
        pids: (Q,) identities.
        groups: any of `best`, `median` and `worst`.
        each: queries a group.

    Returns:
        (query, group) pairs in the order of `groups`. Where there are too few queries for them, all that count come in
        descending order, each with its place, such as `2 of 4`.

    Raises:
        ValueError: an unknown group, or no query counts.
    """
    counted = np.flatnonzero(~np.isnan(precisions))
    if len(counted) == 0:
        raise ValueError("no query can be scored: no other camera of the gallery saw the identities of the queries")
    descending = counted[np.argsort(-precisions[counted], kind="stable")]
    unknown = [group for group in groups if group not in _GROUPS]
    if unknown:
        raise ValueError(f"unknown group '{unknown[0]}', choose from: {', '.join(_GROUPS)}")
    number = len(descending)
    if len(groups) > 1 and number < len(groups) * each:
        return [(query, f"{place} of {number}") for place, query in enumerate(descending.tolist(), start=1)]
    middle = number // 2
    from_middle = descending[np.argsort(np.abs(np.arange(number) - middle), kind="stable")]
    orders = dict(zip(_GROUPS, (descending, from_middle, descending[::-1])))
    chosen: list[tuple[int, str]] = []
    for group in groups:
        taken = [query for query, _ in chosen]
        seen = {pids[query] for query in taken}
        new: list[int] = []
        repeated: list[int] = []
        for query in orders[group].tolist():
            if query not in taken:
                (repeated if pids[query] in seen else new).append(query)
                seen.add(pids[query])
        # In the group's own order, with identities that were not shown yet first
        chosen.extend((query, group) for query in (new + repeated)[:each])
    return chosen


def rank_examples(
    query: Features,
    gallery: Features,
    metric: str = "euclidean",
    k: int = 10,
    each: int = 3,
    with_junk: bool = False,
) -> RankedExamples:
    """Rank the best, the median and the worst queries by average precision.

    Args:
        query: the query images.
        gallery: the gallery images.
        metric: `euclidean` or `cosine`.
        k: length of a list.
        each: queries a group.
        with_junk: keep images that do not count where they stand, beside the k that do.

    Raises:
        ValueError: as `fastreid_parts.evaluation.rank_lists`, or no query counts.
    """
    precisions = average_precisions(query, gallery, metric)
    chosen = choose_queries(precisions, query.pids, each=each)
    lists = rank_lists(query, gallery, k, metric, [row for row, _ in chosen], with_junk)
    labels = [f"{group}\nAP {precisions[row]:.0%}" for row, group in chosen]
    return RankedExamples(query, gallery, {"": lists}, labels)


def compare_rank_lists(
    models: Mapping[str, tuple[Features, Features, str]],
    chosen: Sequence[tuple[int, str]],
    k: int = 5,
    with_junk: bool = False,
) -> RankedExamples:
    """Rank with several models for the same queries, each with its average precision.

    Args:
        models: name -> query images, gallery images and metric, `euclidean` or `cosine`; the same images for all.
        chosen: rows of the queries, each with a label, as from `choose_queries`.
        k: length of a list.
        with_junk: keep images that do not count where they stand, beside the k that do.

    Raises:
        ValueError: no models or queries, models with different images, or as `fastreid_parts.evaluation.rank_lists`.
    """
    if not models or not chosen:
        raise ValueError("rank lists need at least one model and one query")
    first, (query, gallery, _) = next(iter(models.items()))
    rows = [row for row, _ in chosen]
    lists, notes = {}, {}
    for name, (own_query, own_gallery, metric) in models.items():
        if [*own_query.paths, *own_gallery.paths] != [*query.paths, *gallery.paths]:
            raise ValueError(f"'{first}' and '{name}' have different test images: their rank lists do not compare")
        precisions = average_precisions(own_query, own_gallery, metric)[rows]
        lists[name] = rank_lists(own_query, own_gallery, k, metric, rows, with_junk)
        notes[name] = ["no match" if np.isnan(value) else f"AP {value:.0%}" for value in precisions]
    return RankedExamples(query, gallery, lists, [label for _, label in chosen], notes)


def worst_queries(ranks: MatchRanks, count: int) -> list[int]:
    """Choose the queries of the lowest average precision, the worst first.

    Args:
        ranks: where the matches of each query stand.
        count: queries to take; fewer where fewer have a match.
    """
    order = np.argsort(ranks.average_precision(), kind="stable")  # NaN, which does not count, is last
    return order[: min(count, int(ranks.matched.sum()))].tolist()


def worst_examples(
    query: Features,
    gallery: Features,
    ranks: MatchRanks,
    distances: Mapping[int, np.ndarray],
    count: int = 5,
    k: int = 5,
) -> RankedExamples:
    """Rank the worst queries, junk included, each up to its first match.

    Args:
        query: the query images.
        gallery: the gallery images.
        ranks: where the matches of each query stand.
        distances: row of a query -> (G,) distances to the whole gallery, at least for `worst_queries`.
        count: queries to take.
        k: images of a list; the first match follows them where it is further down.

    Raises:
        ValueError: no query has a match, or the distances are not to this gallery.
    """
    rows = worst_queries(ranks, count)
    if not rows:
        raise ValueError("no query can be scored: no other camera of the gallery saw the identities of the queries")
    near = np.stack([distances[row] for row in rows])
    lists = lists_from_distances(query, gallery, rows, near, k, with_junk=True, first_match=True)
    precisions = ranks.average_precision()[rows]
    firsts = [int(found.places[found.correct & (found.places > 0)][0]) for found in lists]
    labels = [f"AP {value:.1%},\nfirst match\nat rank {first}" for value, first in zip(precisions, firsts)]
    return RankedExamples(query, gallery, {"": lists}, labels)


def frame_kind(correct: bool, place: int) -> str:
    """Tell which of `FRAMES` an answer gets.

    Args:
        correct: it shows the query's identity.
        place: its rank; 0 for what does not count.
    """
    return "junk" if not place else "match" if correct else "non-match"


def draw_rank_lists(examples: RankedExamples, path: str | os.PathLike, title: str = "") -> None:
    """Draw rank lists: the query left, matches framed green and non-matches red, models beside each other.

    What does not count is framed gray, without a rank.

    Args:
        examples: from `rank_examples`, `compare_rank_lists` or `worst_examples`.
        path: the PNG to write.
        title: a line above the lists.

    Raises:
        OSError: an image cannot be read.
    """
    width, height = rank_list_panel_size(examples)
    sheet, top = Sheet.titled(max(width, _TITLE_WIDTH if title else 0), height, title, _MARGIN)
    rank_list_panel(sheet, _MARGIN, top, examples)
    sheet.save(path)


def rank_list_panel_size(examples: RankedExamples) -> tuple[float, float]:
    """Give width and height in inches that `rank_list_panel` needs."""
    width = _label_width(examples) + _CELL_WIDTH + len(examples.lists) * _block_width(examples)
    return width, _header(examples) + len(examples.rows) * _ROW_HEIGHT


def _label_width(examples: RankedExamples) -> float:
    return _LABEL_WIDTH if examples.labels else 0


def _header(examples: RankedExamples) -> float:
    return _HEADER + (_NAMES if any(examples.lists) else 0)


def _gap(examples: RankedExamples) -> float:
    """Before a model's lists, with the notes and the numbers of the regions in it."""
    return _QUERY_GAP + (_NOTE if examples.notes else 0) + (_NUMBERS if examples.marked else 0)


def _block_width(examples: RankedExamples) -> float:
    """Of one model: the gap, an image where there are any, the list."""
    return _gap(examples) + (examples.longest + (1 if examples.marked else 0)) * _CELL_WIDTH


def rank_list_panel(sheet: Sheet, x: float, y: float, examples: RankedExamples) -> None:
    """Draw rank lists on a sheet, a query a row, from a corner to the right and down.

    Args:
        sheet: where to draw.
        x: left edge in inches.
        y: upper edge in inches.
        examples: the lists.

    Raises:
        OSError: an image cannot be read.
    """
    first, header = x + _label_width(examples), _header(examples)
    tops = [y + header + row * _ROW_HEIGHT for row in range(len(examples.rows))]
    sheet.text(first + _CELL_WIDTH / 2, y + header - _HEADER, "query", color=MUTED, weight="bold")
    for label, top in zip(examples.labels, tops):
        sheet.text(x, top + _IMAGE[1] / 2, label, ha="left", va="center")
    for row, top in zip(examples.rows, tops):
        _cell(sheet, first + _CELL_WIDTH / 2, top, examples.query, row, QUERY)
    for number, name in enumerate(examples.lists):
        _model_block(sheet, first + _CELL_WIDTH + number * _block_width(examples), y, tops, examples, name)


def _model_block(sheet: Sheet, x: float, y: float, tops: Sequence[float], examples: RankedExamples, name: str) -> None:
    """What one model found, all queries: from the corner (x, y) to the right and down."""
    right_edge = x + _block_width(examples)
    header = y + _header(examples) - _HEADER
    left = x + _gap(examples)
    sheet.text(left + 0.08, y, name, size=fitting_size(name, right_edge - left - 0.1, 8), ha="left", weight="bold")
    if examples.notes:
        for note, top in zip(examples.notes[name], tops):
            middle = top + _IMAGE[1] / 2
            sheet.text(x + _QUERY_GAP + _NOTE / 2, middle, note, 6.5, MUTED, va="center", rotation=90)
    if examples.marked is not None:
        center = left + _CELL_WIDTH / 2
        sheet.text(center, header, examples.marked.headings[name], size=6.5, color=MUTED)
        for pixels, top in zip(examples.marked.images[name], tops):
            _marked_image(sheet, center, top, pixels, examples.marked)
        left += _CELL_WIDTH
    centers = [left + (rank + 0.5) * _CELL_WIDTH for rank in range(examples.longest)]
    own_ranks = any(found.ranks is not None for found in examples.lists[name])
    if not own_ranks:
        for rank, center in enumerate(centers, start=1):
            sheet.text(center, header, str(rank), color=MUTED, weight="bold")
    for found, top in zip(examples.lists[name], tops):
        for center, image, distance, correct, place in zip(
            centers, found.gallery, found.distances, found.correct, found.places
        ):
            mark, color = FRAMES[frame_kind(correct, place)] if examples.framed else ("", None)
            rank_text = f"{place} " if own_ranks and place else ""
            _cell(sheet, center, top, examples.gallery, image, color, f"{rank_text}{mark} {distance:#.3g}".strip())


def _marked_image(sheet: Sheet, center: float, top: float, pixels: np.ndarray, marks: MarkedImages) -> None:
    width, height = _IMAGE
    left, region = center - width / 2, height / marks.regions
    sheet.image(pixels, left, top, width, height)
    for number in range(marks.regions):
        if number:
            sheet.rule(left, top + number * region, width, color="white", over=True)
        middle = top + (number + 0.5) * region
        weight = "bold" if number == marks.marked else "normal"
        sheet.text(left - 0.03, middle, str(number + 1), 5.5, MUTED, ha="right", va="center", weight=weight)
    sheet.box(left, top + marks.marked * region, width, region, QUERY)


def _cell(sheet: Sheet, x: float, y: float, images: Features, row: int, frame: str | None, caption: str = "") -> None:
    """An image file, its center at x and its upper edge at y, with a caption and whom it shows below."""
    width, height = _IMAGE
    pixels = np.asarray(read_image(images.paths[row], format="RGB"))
    sheet.image(pixels, x - width / 2, y, width, height, frame=frame)
    below = y + height + 0.07
    if caption:
        sheet.text(x, below, caption, size=6.5, color=frame or MUTED, weight="bold")
        below += 0.13
    who = identity_and_camera(images, row)
    sheet.text(x, below, " · ".join(who), size=5.5, color=MUTED)
