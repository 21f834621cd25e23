"""Trained models and what they find in a test set, for rank lists, relation maps and the report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from fastreid.config import CfgNode
from torch import nn

from ..arguments import positive
from ..evaluation import Features, RankList, average_precisions, extract, who_and_where
from ..visualization import RankedExamples, choose_queries, compare_rank_lists
from ..words import test_set
from .trained_models import TrainedModel, load_on_test_set

_GROUPS = {
    "ap": {"best": "best AP", "median": "median\nAP", "worst": "worst AP"},
    "gain": {"best": "greatest\ngain", "median": "median\ngain", "worst": "greatest\nloss"},
}


@dataclass(frozen=True)
class Searched:
    """A trained model and its features of the test set.

    Attributes:
        trained: how the command line names it.
        cfg: its config.
        model: in evaluation mode.
        features: of the query images and then the gallery.
        query: the query images.
        gallery: the gallery images.
    """

    trained: TrainedModel
    cfg: CfgNode
    model: nn.Module
    features: Features
    query: Features
    gallery: Features

    @cached_property
    def precisions(self) -> np.ndarray:
        """The average precision of each query, (Q,), without re-ranking."""
        return average_precisions(self.query, self.gallery, self.cfg.TEST.METRIC)


def search_test_set(
    models: Sequence[TrainedModel], check: Callable[[nn.Module], Any] = lambda model: None
) -> list[Searched]:
    """Take each model's features of the test set, which is to be the same for all.

    Args:
        models: as the command line names them.
        check: called with each model before the long passes; it raises a ValueError where one does not fit.

    Raises:
        FileNotFoundError: there is no such config or weights file.
        KeyError: a key does not exist.
        ValueError: a dataset or weights cannot be read, or the test sets differ.
    """
    prepared = [load_on_test_set(trained) for trained in models]  # what does not fit shows before the long passes
    first = [item[0] for item in prepared[0][2].dataset.img_items]
    for trained, (cfg, model, loader, _) in zip(models, prepared):
        try:
            check(model)
        except ValueError as error:
            raise ValueError(f"{trained.name}: {error}") from error
        if [item[0] for item in loader.dataset.img_items] != first:
            raise ValueError(
                f"{models[0].name} and {trained.name} have different test images, {prepared[0][0].DATASETS.TESTS[0]} "
                f"and {cfg.DATASETS.TESTS[0]}: their rank lists do not compare"
            )
    searched = []
    for trained, (cfg, model, loader, num_query) in zip(models, prepared):
        features = extract(model, loader, flip=cfg.TEST.FLIP.ENABLED)
        searched.append(Searched(trained, cfg, model, features, *features.split(num_query)))
        print(f"{trained.name}: {test_set(num_query, len(features) - num_query)}", flush=True)
    return searched


def ranked_examples(searched: Sequence[Searched], args: argparse.Namespace, with_junk: bool = False) -> RankedExamples:
    """Rank with all models for the queries that the options of `add_query_options` choose.

    Args:
        searched: the models.
        args: with the options.
        with_junk: keep images that do not count where they stand.

    Raises:
        ValueError: an image is no query, or no query counts.
    """
    chosen = chosen_queries(searched[0].query, [one.precisions for one in searched], args)
    models = {one.trained.name: (one.query, one.gallery, one.cfg.TEST.METRIC) for one in searched}
    return compare_rank_lists(models, chosen, args.k, with_junk)


def chosen_queries(
    query: Features, precisions: Sequence[np.ndarray], args: argparse.Namespace
) -> list[tuple[int, str]]:
    """Choose queries by the options of `add_query_options`.

    Args:
        query: the query images.
        precisions: (Q,) average precisions, of each model.
        args: with the options.

    Returns:
        Their rows, each with why it was chosen.

    Raises:
        ValueError: an image is no query, or no query counts.
    """
    if args.queries:
        return [(row, "named") for row in _named_queries(args.queries, query.paths)]
    by = args.by or ("gain" if len(precisions) > 1 else "ap")
    worth = precisions[-1] - precisions[0] if by == "gain" else precisions[-1]
    return [(row, _GROUPS[by].get(group, group)) for row, group in choose_queries(worth, query.pids, each=args.each)]


def _named_queries(names: Sequence[str], paths: Sequence[str]) -> list[int]:
    rows = []
    for name in names:
        found = [row for row, path in enumerate(paths) if name in (path, os.path.basename(path))]
        if len(found) != 1:
            raise ValueError(
                f"'{name}' names {len(found) or 'no'} query images: --queries takes paths such as {paths[0]}"
            )
        rows += found
    return rows


def tested(trained: TrainedModel, cfg: CfgNode) -> dict[str, Any]:
    """Say what a model is made of and how it is tested.

    Args:
        trained: the model.
        cfg: its config.
    """
    test = {"dataset": cfg.DATASETS.TESTS[0], "metric": cfg.TEST.METRIC, "flip": cfg.TEST.FLIP.ENABLED}
    return {**trained.files(), **test}


def describe_list(found: RankList, gallery: Features) -> list[dict[str, Any]]:
    """Describe a rank list as it is written to JSON.

    Args:
        found: the list.
        gallery: the images that it is of.
    """
    columns = (found.gallery, found.distances, found.correct, found.places)
    return [
        {
            "image": gallery.paths[image],
            **who_and_where(gallery, image),
            "distance": distance,
            "correct": correct,
            "rank": place or None,
        }
        for image, distance, correct, place in zip(*(column.tolist() for column in columns))
    ]


def describe_lists(searched: Sequence[Searched], examples: RankedExamples) -> dict[str, Any]:
    """Describe models and rank lists as they are written to JSON.

    Args:
        searched: the models.
        examples: their lists.
    """
    lists: list[dict[str, Any]] = []
    for place, row in enumerate(examples.rows):
        models = {}
        for one in searched:
            found = describe_list(examples.lists[one.trained.name][place], examples.gallery)
            precision = None if np.isnan(one.precisions[row]) else float(one.precisions[row])
            models[one.trained.name] = {"average_precision": precision, "found": found}
        query = {"image": examples.query.paths[row], **who_and_where(examples.query, row)}
        lists.append({**query, "chosen": examples.labels[place].replace("\n", " "), "models": models})
    described = {one.trained.name: tested(one.trained, one.cfg) for one in searched}
    return {"models": described, "queries": lists}


def add_query_options(parser: argparse.ArgumentParser, k: int, each: int = 1) -> None:
    """Give a command the options that `chosen_queries` and `ranked_examples` read.

    Args:
        parser: of the command.
        k: default of --k.
        each: default of --each.
    """
    parser.add_argument("--queries", nargs="+", default=[], metavar="IMAGE", help="query images, by file name or path")
    parser.add_argument(
        "--by",
        choices=tuple(_GROUPS),
        help="otherwise best, median and worst queries: by the last model's average precision, or by its gain over the "
        "first model's (default: gain, with a single model ap)",
    )
    parser.add_argument("--each", type=positive, default=each, help=f"queries of each of three kinds (default: {each})")
    parser.add_argument("--k", type=positive, default=k, help=f"length of a list (default: {k})")


def check_query_options(args: argparse.Namespace) -> None:
    """Check the options of `add_query_options`.

    Raises:
        ValueError: --by does not fit the number of models.
    """
    if args.by == "gain" and len(args.models) < 2:
        raise ValueError("--by gain compares the last model with the first: name at least two with --model")
