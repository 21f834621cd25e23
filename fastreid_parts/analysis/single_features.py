"""Retrieval with each single feature of a model's representation, for one or more trained models.

Tables 3 and 4 of RRID (Park and Ham, AAAI 2020): what one local or one global feature finds by itself, with and without
the relation module or with one pooling beside another. The test images go through a model once; each feature is some
columns of the representation and is evaluated as the whole is, with TEST.METRIC, TEST.FLIP and the other settings of
the model's config. It works for every head with named features, such as RRID's and CAN's. TEST.FEATURES narrows the
features to those that it names. The test set is the first of DATASETS.TESTS.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fastreid.config import CfgNode
from matplotlib.axes import Axes
from tabulate import tabulate

from ..evaluation import Features, evaluate_features, extract
from ..parts_baseline import head_of
from ..parts_head import PartsHead
from ..visualization.style import INK, MARGIN, MUTED, Sheet, literal
from ..words import count, test_set
from .searched import tested
from .trained_models import add_figure_options, chosen_models, finish, load_on_test_set

#: Name of the representation itself, beside the names of its features.
WHOLE = "all features"

# What is measured, in percent
_ALONE = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")
_BESIDE = ("mAP", "Rank-1")  # of several models, as in Table 3

Results = Mapping[str, Mapping[str, Mapping[str, float]]]  # model -> feature -> measure

_GROUP_GAP = 0.5  # between scales, in rows

_BAR, _PANEL, _GAP = 0.13, 2.9, 0.25  # inches


def run(args: argparse.Namespace) -> None:
    """Evaluate and draw every single feature of the models of --model.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    models = chosen_models(args)
    prepared = []
    for trained in models:  # what does not fit shows before the long passes
        cfg, model, loader, num_query = load_on_test_set(trained)
        head = head_of(model)
        if not isinstance(head, PartsHead) or len(head.feature_dims) < 2:
            raise ValueError(
                f"the head of {trained.name}, {type(head).__name__}, has one feature and no names: there is nothing to "
                "evaluate by itself"
            )
        names = model.test_features
        model.test_features = ()  # all of them; those that TEST.FEATURES names are taken out below
        prepared.append((cfg, model, loader, num_query, names))
    results: dict[str, dict[str, dict[str, float]]] = {}
    described: dict[str, dict[str, Any]] = {}
    for trained, (cfg, model, loader, num_query, names) in zip(models, prepared):
        features = extract(model, loader, flip=cfg.TEST.FLIP.ENABLED)
        columns = model.heads.feature_columns()
        results[trained.name] = single_feature_results(features, num_query, cfg, columns, names)
        images = len(features) - num_query
        numbers = f"{test_set(num_query, images)}, {count(len(columns), 'feature')}"
        print(f"{trained.name}: {numbers}", flush=True)
        counts = {"query": num_query, "gallery": images}
        described[trained.name] = {**tested(trained, cfg), **counts, "results": results[trained.name]}
    datasets = {model["dataset"] for model in described.values()}
    if len(datasets) > 1:
        print(f"Models on different test sets are not compared alike: {', '.join(sorted(datasets))}")
    finish(args, described, _table(results), lambda path: draw_single_features(results, path, args.title))


def _table(results: Results) -> str:
    """One row a feature in percent, the models beside each other."""
    measures = _BESIDE if len(results) > 1 else _ALONE
    features = dict.fromkeys(name for model in results.values() for name in model)
    rows = [
        [name, *(model[name][measure] if name in model else None for model in results.values() for measure in measures)]
        for name in features
    ]
    beside = len(results) > 1
    heads = [f"{model}: {measure}" if beside else measure for model in results for measure in measures]
    return tabulate(rows, headers=["[%]", *heads], tablefmt="pipe", floatfmt=".1f", missingval="-")


def single_feature_results(
    features: Features, num_query: int, cfg: CfgNode, columns: Mapping[str, slice], names: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Evaluate every single feature, and all of them concatenated.

    Each is compared by itself: with the metric `cosine` every feature is normalized alone.

    Args:
        features: representations of the query images and then of the gallery, taken once.
        num_query: how many of them are queries.
        cfg: its TEST section says which metric, re-ranking and query expansion to use.
        columns: where each feature lies in a representation, as from `PartsHead.feature_columns`.
        names: the features to evaluate, default all of them.

    Returns:
        {name of a feature, last `WHOLE`: {`mAP`, `Rank-1`, `Rank-5`, `Rank-10`, `mINP`: percent}}.

    Raises:
        ValueError: there are no features, or none of such a name; query or gallery is empty.
    """
    names = list(names or columns)
    unknown = [name for name in names if name not in columns]
    if unknown or not names:
        raise ValueError(f"the representation has the features {', '.join(columns) or '(none)'}, got {unknown}")
    single = {name: features.features[:, columns[name]] for name in names}
    single[WHOLE] = np.concatenate(list(single.values()), axis=1)
    results = {}
    for name, values in single.items():
        measured = evaluate_features(replace(features, features=values), num_query, cfg)
        results[name] = {measure: float(measured[measure]) for measure in _ALONE}
    return results


def grouped_features(names: Sequence[str]) -> list[list[str]]:
    """Group features by the branch or scale that they are of, the rest of their names after `part_<k>_` or `global_`.

    Groups come in order of appearance. So the parts of a scale stand one below the other, from the top of the image to
    the bottom, even where a head lists all global features first.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(part_\d+|global)_of_", "", name), []).append(name)
    return list(groups.values())


def draw_single_features(results: Results, path: str | os.PathLike, title: str = "") -> None:
    """Draw bars of mAP and Rank-1 for each feature, a bar a model, the features from top to bottom.

    Args:
        results: name of a model -> name of a feature -> measures in percent, as from
            `single_feature_results`. A model may lack a feature that another one has.
        path: the PNG to write.
        title: a line above the charts.

    Raises:
        ValueError: no models, or no features.
    """
    groups = grouped_features(list(dict.fromkeys(name for features in results.values() for name in features)))
    if not groups:
        raise ValueError("a chart of single features needs a model with features")
    grouped = [(name, number) for number, group in enumerate(groups) for name in group]
    rows = {name: place + _GROUP_GAP * number for place, (name, number) in enumerate(grouped)}
    names = 0.068 * max(map(len, rows)) + 0.1
    row = max(0.2, _BAR * len(results) + 0.08)
    height = row * (max(rows.values()) + 1)
    legend = 0.17 * len(results) + 0.05 if len(results) > 1 else 0
    width = names + len(_BESIDE) * (_PANEL + _GAP)
    sheet, top = Sheet.titled(width, 0.25 + height + legend, title)
    for number, measure in enumerate(_BESIDE):
        left = MARGIN + names + number * (_PANEL + _GAP)
        axes = sheet.axes(left, top + 0.25, _PANEL, height, f"{measure} [%]")
        _draw_bars(axes, results, rows, measure, labeled=number == 0)
        if legend and not number:
            axes.legend(loc="upper left", bbox_to_anchor=(0, 0), handlelength=1, frameon=False, fontsize=7)
    sheet.save(path)


def _draw_bars(axes: Axes, results: Results, rows: Mapping[str, float], measure: str, labeled: bool) -> None:
    thick = 0.8 / len(results)
    for number, (model, features) in enumerate(results.items()):
        places = np.array([rows[name] for name in features]) + (number - (len(results) - 1) / 2) * thick
        values = [measures[measure] for measures in features.values()]
        bars = axes.barh(places, values, height=0.9 * thick, label=literal(model), zorder=2)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=6, color=MUTED)
    axes.set(xlim=(0, 110), ylim=(max(rows.values()) + 0.5, -0.5), yticks=list(rows.values()), xticks=[])
    axes.set_yticklabels([literal(name) for name in rows] if labeled else [], color=INK, fontsize=7)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_figure_options(parser)
