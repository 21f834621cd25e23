"""Training curves from the metrics.json that fast-reid writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .style import INK, MUTED, Sheet

_RETRIEVAL = ("mAP", "Rank-1")
_DASHES = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1, 2)))

Curve = tuple[np.ndarray, np.ndarray]


def read_metrics(path: str | os.PathLike) -> dict[str, Curve]:
    """Read every scalar of a metrics.json, as written by fast-reid's JSONWriter, one JSON object a line.

    Where training was interrupted and resumed from an earlier iteration, the file holds some iterations
    twice: the later lines count. A line that was cut off when the process was killed is left out.

    Returns:
        name -> (iterations (n,) int64, ascending; values (n,) float64).

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds no scalars.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no training log '{path}': it is written while a model trains, in OUTPUT_DIR")
    with open(path, encoding="utf-8") as file:
        try:
            return read_log(file.read())
        except ValueError as error:
            raise ValueError(f"the training log '{path}' holds no scalars: {error}") from error


def read_log(text: str) -> dict[str, Curve]:
    """Read every scalar of a training log, as `read_metrics` does of its file.

    Args:
        text: what is in the file.

    Raises:
        ValueError: it holds no scalars.
    """
    kept: list[dict] = []
    for line in text.splitlines():
        try:
            scalars = json.loads(line)
            iteration = scalars["iteration"]
        except (ValueError, TypeError, KeyError):
            continue
        if type(iteration) is not int:
            continue
        while kept and kept[-1]["iteration"] > iteration:
            kept.pop()
        kept.append(scalars)
    points: dict[str, dict[int, float]] = {}
    for scalars in kept:
        for name, value in scalars.items():
            if name != "iteration" and isinstance(value, (int, float)):
                points.setdefault(name, {})[scalars["iteration"]] = float(value)
    if not points:
        raise ValueError("training stopped before its first entry")
    return {
        name: (np.array(list(at), dtype=np.int64), np.array(list(at.values()), dtype=np.float64))
        for name, at in points.items()
    }


def draw_training_curves(
    metrics: Mapping[str, Curve],
    path: str | os.PathLike,
    iters_per_epoch: int | None = None,
    references: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Draw the losses, the training accuracy and the retrieval accuracy over training.

    Args:
        metrics: from `read_metrics`.
        path: the PNG to write.
        iters_per_epoch: draw over epochs; default, over iterations.
        references: mAP in percent of other ways, drawn as level lines to compare with.
        title: a line above the plots.
    """
    step = 1 if iters_per_epoch is None else iters_per_epoch
    unit = "iteration" if iters_per_epoch is None else "epoch"
    # A loss is logged under the number of its iteration, from 0; an evaluation under that of the next one.
    scaled = {name: ((at if name in _RETRIEVAL else at + 1) / step, values) for name, (at, values) in metrics.items()}
    sheet, top = Sheet.titled(9.96, 2.83, title, 0.12)
    left, width = 0.55, 2.72
    panels = [
        sheet.axes(left + column * (width + 0.62), top + 0.25, width, 2.1, heading)
        for column, heading in enumerate(("training loss", "training accuracy [%]", "retrieval on the test set [%]"))
    ]
    losses = {name: curve for name, curve in scaled.items() if name.startswith("loss") or name == "total_loss"}
    _plot(panels[0], losses)
    accuracies = {name: (at, values * 100) for name, (at, values) in scaled.items() if "accuracy" in name}
    _plot(panels[1], accuracies)
    for number, (name, level) in enumerate((references or {}).items()):
        style, label = _DASHES[number % len(_DASHES)], f"mAP, {name}: {level:.1f}"
        panels[2].axhline(level, color=MUTED, linewidth=1.2, linestyle=style, label=label, zorder=1)
    retrieval: dict[str, Curve] = {name: scaled[name] for name in _RETRIEVAL if name in scaled}
    _plot(panels[2], retrieval, marker="o")
    for axes in panels[1:]:
        axes.set_ylim(0, 103)
    last = max(float(at[-1]) for at, _ in scaled.values())
    for axes in panels:
        axes.set(xlabel=unit, xlim=(0, last))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    sheet.save(path)


def _plot(axes: Axes, curves: Mapping[str, Curve], marker: str | None = None) -> None:
    if not curves:
        axes.annotate("not logged", (0.5, 0.5), xycoords="axes fraction", ha="center", color=MUTED)
        return
    for name, (at, values) in sorted(curves.items()):
        own = {"color": INK, "linestyle": "-"} if name == "total_loss" else {}
        label = name.replace("loss_", "").replace("_", " ")
        axes.plot(at, values, label=label, linewidth=1.4, marker=marker, markersize=4, **own)
    axes.set_ylim(bottom=0)
    axes.legend(loc="best", frameon=False, fontsize=7)
