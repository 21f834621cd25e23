"""Which mechanisms of trained models act, and what the results are without each of them.

The figures are those that a training logs, here of the test images: `change` is how much a mechanism changes what it
acts on, the others are named beside their method. Then each mechanism is replaced by its neutral form, with the same
weights, and the test set is evaluated anew: CMBN's mask by its mean, RRID's relation and contrast by nothing, CAN's
attention by no neighbor, balanced stripes by uniform ones, one of RMGL's two paths by zeros. It says what the trained
model owes to a mechanism, and not what it would be if it had been trained without.

A mechanism is `idle` that moves mAP by less than 0.1 points, and Rank-1 by less than 0.1 points or by one at most of
the queries that have a match. CGE's weights and CMBN's reversal mask have no part in evaluation; such a mechanism is
idle that changes what it acts on by less than 1 %, where the checkpoint has what it takes to measure that, the
classifiers and the memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.utils.events import EventStorage
from matplotlib.axes import Axes
from tabulate import tabulate
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import safe_load
from ..evaluation import Ranking, extract
from ..files import read_yaml
from ..mechanisms import CHANGE, averages, mechanisms_of, neutral_form, watching
from ..parts_baseline import PartsBaseline
from ..visualization.style import INK, MARGIN, MUTED, Sheet, literal
from ..words import test_set
from .loss_distribution import training_outputs
from .searched import tested
from .trained_models import (
    TrainedModel,
    add_figure_options,
    chosen_models,
    finish,
    inference_config,
    load_test_images,
    load_with_missing,
)

MEASURES = ("mAP", "Rank-1")
IDLE_POINTS, IDLE_CHANGE = 0.1, 0.01

# inches
_ROW, _PANEL, _GAP = 0.26, 2.6, 0.3


@dataclass(frozen=True)
class Examined:
    """What a trained model's mechanism does on a test set.

    Attributes:
        figures: {name: mean over batches}.
        without: {neutral form: {measure: percent}}; of a mechanism of training alone, what it is with it.
        training_only: whether it has no part in evaluation.
        idle: whether it has no effect; None where that is not known.
    """

    figures: Mapping[str, float]
    without: Mapping[str, Mapping[str, float]]
    training_only: bool
    idle: bool | None

    @property
    def verdict(self) -> str:
        """In a word or two."""
        word = "not measured" if self.idle is None else "idle" if self.idle else "acts"
        return f"{word} in training" if self.training_only else word


@dataclass(frozen=True)
class Examination:
    """A trained model on a test set.

    Attributes:
        results: {measure: percent} of the whole model.
        mechanisms: by name.
    """

    results: Mapping[str, float]
    mechanisms: Mapping[str, Examined]

    @property
    def idle(self) -> list[str]:
        """Name the mechanisms without effect."""
        return [name for name, one in self.mechanisms.items() if one.idle]


def run(args: argparse.Namespace) -> None:
    """Examine the mechanisms of the models of --model, and draw what they are for the results.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    models = chosen_models(args)
    prepared = [_prepare(trained) for trained in models]  # what does not fit shows before the long passes
    examined: dict[str, Examination] = {}
    described: dict[str, dict[str, Any]] = {}
    for trained, (cfg, model, loader, num_query, trainable) in zip(models, prepared):
        print(f"{trained.name}: {test_set(num_query, len(loader.dataset) - num_query)}", flush=True)
        one = examined[trained.name] = examine(model, loader, num_query, cfg, trainable)
        described[trained.name] = {**tested(trained, cfg), **asdict(one), "idle": one.idle}
    finish(args, described, _table(examined), lambda path: draw_mechanisms(examined, path, args.title))
    for name, one in examined.items():
        if one.idle:
            print(f"{name}: {', '.join(one.idle)} had no effect")


def _prepare(trained: TrainedModel) -> tuple[CfgNode, nn.Module, DataLoader, int, bool]:
    """Config, model, test images, the number of queries, and whether the weights are all that training needs."""
    cfg = inference_config(trained.config_file, trained.opts)
    saved = safe_load(trained.weights).get("config")  # of a checkpoint of PartsTrainer: with the number of identities
    identities = read_yaml(saved)["MODEL"]["HEADS"]["NUM_CLASSES"] if saved else 0
    cfg.MODEL.HEADS.NUM_CLASSES = identities or cfg.MODEL.HEADS.NUM_CLASSES
    loader, num_query, _ = load_test_images(cfg)
    model, missing = load_with_missing(cfg, trained.weights)
    if not mechanisms_of(model):
        raise ValueError(f"{trained.name} has no mechanism: nothing in this {type(model).__name__} declares one")
    return cfg, model, loader, num_query, not [key for key in missing if not key.endswith("num_batches_tracked")]


def examine(model: nn.Module, loader: DataLoader, num_query: int, cfg: CfgNode, trainable: bool = True) -> Examination:
    """Measure a model with and without each of its mechanisms.

    Args:
        model: with trained weights; it has them as they were, and its mode, afterwards.
        loader: of the test images, query images first.
        num_query: how many of them are queries.
        cfg: its TEST section says how features are evaluated.
        trainable: the model has all that its training had, so that mechanisms of training alone can be measured.
    """

    scored: set[int] = set()

    def evaluate() -> dict[str, float]:
        ranking = Ranking(extract(model, loader, flip=cfg.TEST.FLIP.ENABLED), num_query, cfg)
        ranks = ranking.ranks()
        scored.add(int(ranks.matched.sum()))  # the same each time: it depends on identities and cameras
        results = ranking.results(ranks)
        return {measure: float(results[measure]) for measure in MEASURES}

    with watching(model) as seen:
        whole = evaluate()
    figures, in_evaluation = averages(seen), set(seen)
    found = mechanisms_of(model)
    if trainable and found.keys() - in_evaluation:
        with contextlib.suppress(ValueError):  # of a model with a loss of its own: not measured
            figures = {**_figures_in_training(model, loader), **figures}
    mechanisms = {}
    for name, placed in found.items():
        own, training_only = figures.get(name, {}), name not in in_evaluation
        without: dict[str, Mapping[str, float]] = dict.fromkeys(placed.mechanism.neutral, whole)
        idle = own[CHANGE] < IDLE_CHANGE if CHANGE in own else None
        if not training_only:
            for form in without:
                with neutral_form(model, name, form):
                    without[form] = evaluate()
            idle = all(_alike(whole, results, max(scored)) for results in without.values())
        mechanisms[name] = Examined(own, without, training_only, idle)
    return Examination(whole, mechanisms)


def _alike(whole: Mapping[str, float], without: Mapping[str, float], scored: int) -> bool:
    moved = {measure: abs(whole[measure] - without[measure]) for measure in MEASURES}
    one_query = 100 / scored + 1e-6
    return moved["mAP"] < IDLE_POINTS and moved["Rank-1"] < max(IDLE_POINTS, one_query)


@torch.no_grad()
def _figures_in_training(model: nn.Module, loader: DataLoader) -> dict[str, dict[str, float]]:
    """Figures of what a model does in training, on test images, whose identities it does not know."""
    step = {"step": model.update_steps[0]} if isinstance(model, PartsBaseline) else {}
    with training_outputs(model) as outputs, watching(model) as seen, EventStorage():
        for batch in loader:
            model({**batch, "images": batch["images"].clone(), "targets": torch.zeros_like(batch["targets"])}, **step)
            outputs.clear()
    return averages(seen)


def _table(examined: Mapping[str, Examination]) -> str:
    """One row a model, and one for each neutral form of its mechanisms."""
    rows: list[list[Any]] = []
    for model, examination in examined.items():
        whole = examination.results
        rows.append([model, "", "", "", *(cell for measure in MEASURES for cell in (whole[measure], None)), ""])
        for name, one in examination.mechanisms.items():
            figures = ", ".join(f"{figure} {value:.3g}" for figure, value in one.figures.items())
            for number, (form, results) in enumerate(one.without.items()):
                cells = [cell for m in MEASURES for cell in (results[m], results[m] - whole[m])]
                first = [name, figures] if not number else ["", ""]
                rows.append(["", *first, form, *cells, one.verdict if not number else ""])
    heads = ["model", "mechanism", "figures", "instead", *(h for m in MEASURES for h in (f"{m} [%]", "moved")), ""]
    floats = ("", "", "", "", ".2f", "+.2f", ".2f", "+.2f", "")
    return tabulate(rows, headers=heads, tablefmt="pipe", floatfmt=floats, missingval="")


def draw_mechanisms(examined: Mapping[str, Examination], path: str | os.PathLike, title: str = "") -> None:
    """Draw how mAP and Rank-1 move without each mechanism, a bar a neutral form; idle ones are said.

    Args:
        examined: name of a model -> what `examine` gave.
        path: the PNG to write.
        title: a line above the charts.

    Raises:
        ValueError: there are no mechanisms.
    """
    bars: list[tuple[str, list[float]]] = []
    for model, examination in examined.items():
        for name, one in examination.mechanisms.items():
            note = "" if one.verdict == "acts" else f" ({one.verdict})"
            for form, results in one.without.items():
                label = f"{model}: " if len(examined) > 1 else ""
                bars.append((f"{label}{name}, {form}{note}", [results[m] - examination.results[m] for m in MEASURES]))
    if not bars:
        raise ValueError("a chart of mechanisms needs a model that has one")
    names = 0.068 * max(len(label) for label, _ in bars) + 0.1
    height = _ROW * len(bars)
    sheet, top = Sheet.titled(names + len(MEASURES) * (_PANEL + _GAP), 0.25 + height, title)
    for number, measure in enumerate(MEASURES):
        left = MARGIN + names + number * (_PANEL + _GAP)
        axes = sheet.axes(left, top + 0.25, _PANEL, height, f"{measure} without it, points")
        _draw_bars(axes, [moved[number] for _, moved in bars])
        axes.set_yticklabels([literal(label) for label, _ in bars] if not number else [], color=INK, fontsize=7)
    sheet.save(path)


def _draw_bars(axes: Axes, moved: list[float]) -> None:
    places = np.arange(len(moved))
    bars = axes.barh(places, moved, height=0.6, zorder=2)
    axes.bar_label(bars, labels=[f"{value:+.2f}" for value in moved], padding=2, fontsize=6, color=MUTED)
    widest = max(1.0, *map(abs, moved))  # a bar of hundredths of a point does not fill the panel
    axes.set(xlim=(-1.45 * widest, 1.45 * widest), ylim=(len(moved) - 0.5, -0.5), yticks=places, xticks=[])
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_figure_options(parser)
