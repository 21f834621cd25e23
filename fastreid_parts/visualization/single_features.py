"""Retrieval with single features, one model beside another: RRID's Tables 3 and 4 as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from .style import INK, MUTED, SERIES, Sheet

__all__ = ["draw_single_features", "grouped_features"]

_MEASURES = ("mAP", "Rank-1")
_GROUP_GAP = 0.5  # between scales, in rows

# inches
_MARGIN = 0.16
_BAR = 0.13
_PANEL = 2.9
_GAP = 0.25


def grouped_features(names: Sequence[str]) -> list[list[str]]:
    """Features by what stands before the first `_` of their names, the scale or the branch, in order of appearance.

    So the regions of a scale stand one below the other, from the top of the image to the bottom, even where a head
    lists all global features first.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split("_")[0], []).append(name)
    return list(groups.values())


def draw_single_features(
    results: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | os.PathLike, title: str = ""
) -> None:
    """Write a picture with bars of mAP and Rank-1 for each feature, a bar a model, the features from top to bottom.

    Args:
        results: name of a model -> name of a feature -> measures in percent, as from
            `evaluation.single_feature_results`. A model may lack a feature that another one has.
        path: the PNG to write.
        title: a line above the charts.

    Raises:
        ValueError: no models, or no features.
    """
    groups = grouped_features(list(dict.fromkeys(name for features in results.values() for name in features)))
    if not groups:
        raise ValueError("a chart of single features needs a model with features")
    rows, at = {}, 0.0
    for group in groups:
        for name in group:
            rows[name] = at
            at += 1
        at += _GROUP_GAP
    names = 0.068 * max(map(len, rows)) + 0.1
    row = max(0.2, _BAR * len(results) + 0.08)
    height = row * (at - _GROUP_GAP)
    legend = 0.17 * len(results) + 0.05 if len(results) > 1 else 0
    top = _MARGIN + (0.3 if title else 0)
    width = 2 * _MARGIN + names + len(_MEASURES) * (_PANEL + _GAP)
    sheet = Sheet(width, top + 0.25 + height + legend + _MARGIN)
    if title:
        sheet.text(_MARGIN, _MARGIN, title, size=10, align="left", bold=True)
    for number, measure in enumerate(_MEASURES):
        left = _MARGIN + names + number * (_PANEL + _GAP)
        axes = sheet.axes(left, top + 0.25, _PANEL, height, f"{measure} [%]")
        _draw_bars(axes, results, rows, measure, labelled=number == 0)
        if legend and not number:
            axes.legend(loc="upper left", bbox_to_anchor=(0, 0), handlelength=1, frameon=False, fontsize=7)
    sheet.save(path)


def _draw_bars(
    axes: Axes,
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    rows: Mapping[str, float],
    measure: str,
    labelled: bool,
) -> None:
    thick = 0.8 / len(results)
    for number, (model, features) in enumerate(results.items()):
        places = np.array([rows[name] for name in features]) + (number - (len(results) - 1) / 2) * thick
        values = [measures[measure] for measures in features.values()]
        colour = SERIES[number % len(SERIES)]
        axes.barh(places, values, height=0.9 * thick, color=colour, label=model.replace("$", r"\$"), zorder=2)
        for place, value in zip(places, values):
            axes.text(value + 1, place, f"{value:.1f}", va="center", fontsize=6, color=MUTED)
    axes.set(xlim=(0, 110), ylim=(max(rows.values()) + 0.5, -0.5), yticks=list(rows.values()), xticks=[])
    axes.set_yticklabels([name.replace("$", r"\$") for name in rows] if labelled else [], color=INK, fontsize=7)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
