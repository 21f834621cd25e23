"""How well models retrieve, drawn over all queries: CMC, precision over recall, and how precision is spread."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..evaluation.ranks import MatchRanks
from .style import Sheet, literal

_BINS = 10  # of the histogram
_LONGEST_NAME = 32  # letters of a legend

# inches
_PANEL = (3.1, 2.35)
_LEFT, _BELOW = 0.55, 0.5
_RIGHT = 0.16
_HEADING = 0.3
_SIZE = (_LEFT + _PANEL[0] + _RIGHT, _HEADING + _PANEL[1] + _BELOW)
_MARGIN = 0.14

Models = Mapping[str, MatchRanks]


def draw_retrieval_curves(models: Models, path: str | os.PathLike, max_rank: int = 20, title: str = "") -> None:
    """Draw the CMC, precision over recall and a histogram of average precision beside each other.

    Args:
        models: name of a model -> where the matches of each query stand, as from `evaluation.match_ranks`; drawn in
            this order. The queries that no other camera of the gallery has a match of are in none of the curves.
        path: the PNG to write.
        max_rank: the last rank of the CMC; fewer in a smaller gallery.
        title: a line above the plots.

    Raises:
        ValueError: no models, a model none of whose queries has a match, or a `max_rank` below 1.
    """
    _check(models, max_rank)
    width, height = _SIZE
    sheet, top = Sheet.titled(len(CURVES) * width - _MARGIN, height - _MARGIN, title, _MARGIN)
    for number, kind in enumerate(CURVES):
        _panel(sheet, number * width, top, kind, models, max_rank)
    sheet.save(path)


def retrieval_curve(kind: str, models: Models, max_rank: int = 20) -> bytes:
    """Draw one of the plots of `draw_retrieval_curves` alone, as the content of a PNG file.

    Args:
        kind: one of `CURVES`.
        models: as in `draw_retrieval_curves`.
        max_rank: as in `draw_retrieval_curves`.

    Raises:
        ValueError: there is no such plot, or as `draw_retrieval_curves`.
    """
    if kind not in CURVES:
        raise ValueError(f"unknown plot '{kind}', choose one of: {', '.join(CURVES)}")
    _check(models, max_rank)
    sheet = Sheet(_SIZE[0], _SIZE[1] + _MARGIN)
    _panel(sheet, 0, _MARGIN, kind, models, max_rank)
    content = io.BytesIO()
    sheet.save(content)
    return content.getvalue()


def _check(models: Models, max_rank: int) -> None:
    if not models:
        raise ValueError("retrieval curves need at least one model")
    if max_rank < 1:
        raise ValueError(f"the last rank of the CMC must be at least 1, got {max_rank}")
    for name, ranks in models.items():
        if not ranks.matched.any():
            raise ValueError(
                f"no query of '{name}' has a match: no other camera of the gallery saw the identities of the queries"
            )


def _panel(sheet: Sheet, x: float, y: float, kind: str, models: Models, max_rank: int) -> None:
    heading, draw = CURVES[kind]
    axes = sheet.axes(x + _LEFT, y + _HEADING, *_PANEL, heading)
    draw(axes, models, max_rank)


def _draw_cmc(axes: Axes, models: Models, max_rank: int) -> None:
    last = min(max_rank, max(int(ranks.candidates.max()) for ranks in models.values()))
    places = np.arange(1, last + 1)
    for name, ranks in models.items():
        rates = 100 * ranks.cmc(last)
        label = f"{_named(name)}Rank-1 {rates[0]:.1f}"
        axes.plot(places, rates, label=label, marker="o" if last <= 20 else None, markersize=3)
    axes.set(xlim=(0.5, last + 0.5), ylim=(max(0, 10 * (axes.dataLim.ymin // 10) - 10), 102))
    ticks = MaxNLocator(nbins=6, integer=True).tick_values(0, last).astype(int)
    axes.set_xticks(sorted({1, *(tick for tick in ticks.tolist() if 1 < tick <= last)}))
    axes.set(xlabel="rank", ylabel="queries with a match up to this rank [%]")
    axes.legend(loc="lower right", frameon=False, fontsize=7)


def _draw_precision_recall(axes: Axes, models: Models, max_rank: int) -> None:
    for name, ranks in models.items():
        recall, precision = ranks.precision_recall()
        label = f"{_named(name)}mAP {100 * np.nanmean(ranks.average_precision()):.1f}"
        axes.plot(100 * recall, 100 * precision, label=label)
    axes.set(xlim=(0, 100), ylim=(0, 102), xlabel="recall [%]", ylabel="precision, mean over the queries [%]")
    axes.legend(loc="best", frameon=False, fontsize=7)


def _draw_histogram(axes: Axes, models: Models, max_rank: int) -> None:
    edges = np.linspace(0, 100, _BINS + 1)
    width = 0.84 * (edges[1] - edges[0]) / len(models)
    for number, (name, ranks) in enumerate(models.items()):
        precisions = ranks.average_precision()[ranks.matched]
        shares = 100 * np.histogram(100 * precisions, edges)[0] / len(precisions)
        centers = (edges[:-1] + edges[1:]) / 2 + (number - (len(models) - 1) / 2) * width
        label = f"{_named(name)}median {100 * np.median(precisions):.1f}"
        axes.bar(centers, shares, 0.92 * width, label=label, zorder=2)
    # Room for the legend above the bars
    axes.set(xlim=(0, 100), ylim=(0, axes.dataLim.ymax * (1.1 + 0.1 * len(models))), xticks=edges[::2])
    axes.set(xlabel="average precision of a query [%]", ylabel="queries [%]")
    axes.legend(loc="upper center", handlelength=1, frameon=False, fontsize=7)


def _named(name: str) -> str:
    """What stands before a measure in a legend; a single model may have no name."""
    short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return literal(short) + ": " if short else ""


#: Plots by name: each with its heading.
CURVES: Mapping[str, tuple[str, Callable[[Axes, Models, int], None]]] = {
    "cmc": ("Cumulative match characteristic (CMC)", _draw_cmc),
    "precision_recall": ("Precision and recall", _draw_precision_recall),
    "average_precision": ("Average precision of the queries", _draw_histogram),
}
