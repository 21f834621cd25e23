"""Hardness of training images and precision of local classifiers, one model beside another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..evaluation.local_classifiers import LocalDecisions
from .style import INK, MUTED, SERIES, Sheet

__all__ = ["draw_hardness", "level_names"]

_COLOURS = colormaps["YlOrRd"]
_LABELLED = 0.09  # a narrower piece of a bar has no room for its number

# inches
_MARGIN = 0.16
_BAR = 0.30
_BARS = 3.9
_PRECISION = 2.6
_GAP = 0.75


def level_names(stripes: int) -> list[str]:
    """Names of the levels of images that n, n - 1, ..., 0 classifiers get right; those of the paper for n = 3."""
    counted = [f"{right} of {stripes} right" for right in range(stripes, -1, -1)]
    words = {0: "easiest", stripes: "hardest"}
    if stripes == 3:
        words = dict(enumerate(("easiest", "mid-easy", "mid-hard", "hardest")))
    return [f"{words[level]}: {text}" if level in words else text for level, text in enumerate(counted)]


def draw_hardness(decisions: Mapping[str, LocalDecisions], path: str | os.PathLike, title: str = "") -> None:
    """Write a picture with the share of each level as one bar a model, and the precision of each local classifier.

    Args:
        decisions: name of a model -> what its local classifiers get right; all of the same number of classifiers.
        path: the PNG to write.
        title: a line above the charts.

    Raises:
        ValueError: no models, or models with different numbers of local classifiers.
    """
    numbers = {name: model.correct.shape[1] for name, model in decisions.items()}
    if len(set(numbers.values())) != 1:
        raise ValueError(f"one picture needs models with the same number of local classifiers, got {numbers}")
    stripes = next(iter(numbers.values()))
    names = 0.075 * max(map(len, decisions)) + 0.1
    top = _MARGIN + (0.3 if title else 0)
    # The legend stands below the bars, two entries a row
    height = max(1.55, 2 * _BAR * len(decisions)) + 0.3
    legend = 0.2 * -(-(stripes + 1) // 2) + 0.2
    sheet = Sheet(2 * _MARGIN + names + _BARS + _GAP + _PRECISION, top + height + max(legend, 0.35) + _MARGIN)
    if title:
        sheet.text(_MARGIN, _MARGIN, title, size=10, align="left", bold=True)
    left = _MARGIN + names
    bars = sheet.axes(left, top + 0.25, _BARS, height - 0.25, "share of the images")
    _draw_levels(bars, decisions, level_names(stripes))
    bars.legend(loc="upper left", bbox_to_anchor=(0, 0), ncol=2, handlelength=1, frameon=False, fontsize=7)
    points = sheet.axes(
        left + _BARS + _GAP, top + 0.25, _PRECISION, height - 0.25, "precision of the local classifiers [%]"
    )
    _draw_precision(points, decisions, stripes)
    sheet.save(path)


def _draw_levels(axes: Axes, decisions: Mapping[str, LocalDecisions], names: Sequence[str]) -> None:
    rows = np.arange(len(decisions))
    shares = np.stack([model.level_shares() for model in decisions.values()])  # (models, levels)
    starts = np.concatenate([np.zeros((len(rows), 1)), shares.cumsum(axis=1)], axis=1)
    for level, name in enumerate(names):
        colour = _COLOURS(0.12 + 0.73 * level / (len(names) - 1))
        bright = np.dot(colour[:3], (0.299, 0.587, 0.114)) > 0.5
        axes.barh(rows, shares[:, level], left=starts[:, level], height=0.6, color=colour, label=name, zorder=2)
        for row in rows[shares[:, level] >= _LABELLED]:
            middle = starts[row, level] + shares[row, level] / 2
            number = f"{100 * shares[row, level]:.1f} %"
            axes.text(middle, row, number, ha="center", va="center", fontsize=7, color=INK if bright else "white")
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xticks=[], yticks=rows)
    axes.set_yticklabels([name.replace("$", r"\$") for name in decisions], color=INK, fontsize=8)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _draw_precision(axes: Axes, decisions: Mapping[str, LocalDecisions], stripes: int) -> None:
    stripe = np.arange(1, stripes + 1)
    for number, (name, model) in enumerate(decisions.items()):
        axes.plot(
            stripe,
            100 * model.precision(),
            color=SERIES[number % len(SERIES)],
            marker="o",
            markersize=4,
            linewidth=1.2,
            label=name.replace("$", r"\$"),
        )
    axes.set_xlim(0.6, stripes + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _position: f"$M_{{{value:.0f}}}$")
    axes.set_xlabel("stripe, from the top of the image", color=MUTED)
    if len(decisions) > 1:
        axes.legend(loc="best", frameon=False, fontsize=7)
