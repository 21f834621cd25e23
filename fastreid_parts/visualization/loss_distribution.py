"""How the loss is spread over training images, one model beside another."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ..evaluation.image_losses import cumulative_loss
from .style import MUTED, SERIES, Sheet

__all__ = ["draw_loss_distribution"]

_MARGIN = 0.16
_SIDE = (4.4, 3.3)


def draw_loss_distribution(losses: Mapping[str, np.ndarray], path: str | os.PathLike, title: str = "") -> None:
    """Write a picture with the cumulative share of the loss over the images, easiest first, one curve a model.

    Args:
        losses: name of a model -> (N,), the loss of each image.
        path: the PNG to write.
        title: a line above the plot.

    Raises:
        ValueError: no models, or losses that cannot be divided by their sum.
    """
    if not losses:
        raise ValueError("a distribution needs the losses of at least one model")
    top = _MARGIN + (0.3 if title else 0.05)
    sheet = Sheet(0.55 + _SIDE[0] + 2 * _MARGIN, top + _SIDE[1] + 0.6)
    if title:
        sheet.text(_MARGIN, _MARGIN, title, size=10, align="left", bold=True)
    axes = sheet.axes(_MARGIN + 0.5, top, *_SIDE)
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (2, 2)), label="the same for every image")
    for number, (name, values) in enumerate(losses.items()):
        curve = 100 * cumulative_loss(values)
        axes.plot(
            np.linspace(0, 100, len(curve)),
            curve,
            color=SERIES[number % len(SERIES)],
            linewidth=1.5,
            label=name.replace("$", r"\$"),
        )
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.set_xlabel("training images, from the lowest loss to the highest [%]")
    axes.set_ylabel("cumulative share of the loss [%]")
    axes.legend(loc="upper left", frameon=False, fontsize=7)
    sheet.save(path)
