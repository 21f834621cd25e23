"""Measure how hard training images are, and how well single stripes tell people apart.

n local classifiers each see one horizontal stripe of the feature map. Images that all of them get right are the
easiest, images that none gets right the hardest (CGE, Fig. 4); the precision of a classifier is the share of the
images that it gets right (Tables 1b and 2).

A model that was trained with CGE is read with its own memories, from its checkpoint. For any other model, memories are
built first: the normalized mean of the local features of each identity's training images. Such a memory has seen the
very images that it classifies, each with the weight of one of an identity's images; --rebuild builds them for every
model, so that models with and without CGE are compared alike. The training images are not augmented, and batch norm
uses its running statistics.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from tabulate import tabulate
from torch import nn
from torch.utils.data import DataLoader

from ..arguments import positive
from ..methods.cge import LocalClassifiers
from ..visualization.style import INK, MARGIN, MUTED, Sheet, literal
from ..words import count
from .local_classifiers import LocalDecisions, build_local_classifiers, find_local_classifiers, local_decisions
from .trained_models import (
    TrainedModel,
    add_figure_options,
    chosen_models,
    finish,
    inference_config,
    load_on_training_set,
    note_different_images,
)

CHECKPOINT, BUILT = "its own", "built from the training images"

_COLORS = colormaps["YlOrRd"]
_LABELED = 0.09  # a narrower piece of a bar has no room for its number

# inches
_BAR = 0.30
_BARS = 3.9
_PRECISION = 2.6
_GAP = 0.75


def run(args: argparse.Namespace) -> None:
    """Measure and draw the hardness of the training images for the models of --model.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    models = chosen_models(args)
    prepared = [_prepare(trained, args) for trained in models]  # what does not fit shows before the long passes
    _common_stripes({trained.name: stripes for trained, (_, _, _, stripes) in zip(models, prepared)})
    note_different_images([loader for _, loader, _, _ in prepared])
    decisions: dict[str, LocalDecisions] = {}
    described: dict[str, dict[str, Any]] = {}
    for trained, (model, loader, classifiers, stripes) in zip(models, prepared):
        identities = loader.dataset.num_classes
        source = CHECKPOINT if classifiers is not None else BUILT
        if classifiers is None:
            classifiers = build_local_classifiers(model, loader, identities, stripes, trained.name)
        result = local_decisions(model, loader, classifiers, trained.name)
        decisions[trained.name] = result
        images = f"{count(len(result.correct), 'image')} of {count(identities, 'identity', 'identities')}"
        print(f"{trained.name}: {images}; memories: {source}", flush=True)
        described[trained.name] = {
            **trained.files(),
            "memories": source,
            "images": len(result.correct),
            "identities": identities,
            "stripes": stripes,
            "levels": dict(zip(level_names(stripes), result.level_shares().tolist())),
            "precision": result.precision().tolist(),
        }
    if len({model["memories"] for model in described.values()}) > 1:
        print("Memories of different origin are not compared alike: --rebuild builds them for every model")
    finish(args, described, _table(decisions), lambda path: draw_hardness(decisions, path, args.title))


def _prepare(
    trained: TrainedModel, args: argparse.Namespace
) -> tuple[nn.Module, DataLoader, LocalClassifiers | None, int]:
    """Model, training images, the memories to read (None: to be built), and the number of stripes."""
    model, loader, missing = load_on_training_set(trained)
    own = find_local_classifiers(model)
    if own is None or args.rebuild:
        default = inference_config(trained.config_file, trained.opts).MODEL.CGE.NUM_STRIPES
        return model, loader, None, args.stripes or default
    stripes = len(own.memory)
    if any(key.endswith("local_classifiers.memory") for key in missing) or not own.memory.any():
        raise ValueError(
            f"'{trained.weights}' holds no memories of {stripes} stripes, which {trained.name}'s config has: change "
            "MODEL.CGE.NUM_STRIPES, or make memories from the training images with --rebuild"
        )
    if args.stripes not in (None, stripes):
        raise ValueError(f"{trained.name} has memories of {stripes} stripes: --stripes {args.stripes} needs --rebuild")
    return model, loader, own, stripes


def _table(decisions: dict[str, LocalDecisions]) -> str:
    """Levels and precision in percent, one column a model."""
    models = list(decisions.values())
    stripes = models[0].correct.shape[1]
    names = [*level_names(stripes), *(f"precision of M_{i + 1}" for i in range(stripes))]
    columns = [100 * np.concatenate([model.level_shares(), model.precision()]) for model in models]
    rows = zip(names, *columns)
    return tabulate(rows, headers=["[%]", *decisions], tablefmt="pipe", floatfmt=".1f")


def level_names(stripes: int) -> list[str]:
    """Name the levels of images that n, n - 1, ..., 0 classifiers get right; those of the paper for n = 3."""
    counted = [f"{right} of {stripes} right" for right in range(stripes, -1, -1)]
    words = {0: "easiest", stripes: "hardest"}
    if stripes == 3:
        words = dict(enumerate(("easiest", "mid-easy", "mid-hard", "hardest")))
    return [f"{words[level]}: {text}" if level in words else text for level, text in enumerate(counted)]


def draw_hardness(decisions: Mapping[str, LocalDecisions], path: str | os.PathLike, title: str = "") -> None:
    """Draw the share of each level as one bar a model, and the precision of each local classifier.

    Args:
        decisions: name of a model -> what its local classifiers get right; all of the same number of classifiers.
        path: the PNG to write.
        title: a line above the charts.

    Raises:
        ValueError: no models, or models with different numbers of local classifiers.
    """
    stripes = _common_stripes({name: model.correct.shape[1] for name, model in decisions.items()})
    names = 0.075 * max(map(len, decisions)) + 0.1
    # The legend stands below the bars, two entries a row
    height = max(1.55, 2 * _BAR * len(decisions)) + 0.3
    legend = 0.2 * -(-(stripes + 1) // 2) + 0.2
    width = names + _BARS + _GAP + _PRECISION
    sheet, top = Sheet.titled(width, height + max(legend, 0.35), title)
    left = MARGIN + names
    bars = sheet.axes(left, top + 0.25, _BARS, height - 0.25, "share of the images")
    _draw_levels(bars, decisions, level_names(stripes))
    bars.legend(loc="upper left", bbox_to_anchor=(0, 0), ncol=2, handlelength=1, frameon=False, fontsize=7)
    heading = "precision of the local classifiers [%]"
    points = sheet.axes(left + _BARS + _GAP, top + 0.25, _PRECISION, height - 0.25, heading)
    _draw_precision(points, decisions, stripes)
    sheet.save(path)


def _common_stripes(numbers: Mapping[str, int]) -> int:
    if len(set(numbers.values())) != 1:
        listed = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise ValueError(f"a figure and its table need models with the same number of local classifiers, got {listed}")
    return next(iter(numbers.values()))


def _draw_levels(axes: Axes, decisions: Mapping[str, LocalDecisions], names: Sequence[str]) -> None:
    rows = np.arange(len(decisions))
    shares = np.stack([model.level_shares() for model in decisions.values()])  # (models, levels)
    starts = shares.cumsum(axis=1) - shares
    for level, name in enumerate(names):
        color = _COLORS(0.12 + 0.73 * level / (len(names) - 1))
        bright = np.dot(color[:3], (0.299, 0.587, 0.114)) > 0.5
        own = shares[:, level]
        bars = axes.barh(rows, own, left=starts[:, level], height=0.6, color=color, label=name, zorder=2)
        numbers = [f"{100 * share:.1f} %" if share >= _LABELED else "" for share in own]
        axes.bar_label(bars, numbers, label_type="center", fontsize=7, color=INK if bright else "white")
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xticks=[], yticks=rows)
    axes.set_yticklabels([literal(name) for name in decisions], color=INK, fontsize=8)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _draw_precision(axes: Axes, decisions: Mapping[str, LocalDecisions], stripes: int) -> None:
    stripe = np.arange(1, stripes + 1)
    for name, model in decisions.items():
        axes.plot(stripe, 100 * model.precision(), marker="o", markersize=4, linewidth=1.2, label=literal(name))
    axes.set_xlim(0.6, stripes + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _position: f"$M_{{{value:.0f}}}$")
    axes.set_xlabel("stripe, from the top of the image", color=MUTED)
    if len(decisions) > 1:
        axes.legend(loc="best", frameon=False, fontsize=7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_figure_options(parser)
    text = "n, for memories that are built (default: MODEL.CGE.NUM_STRIPES of the model's config)"
    parser.add_argument("--stripes", type=positive, help=text)
    parser.add_argument("--rebuild", action="store_true", help="build memories, also for models that have their own")
