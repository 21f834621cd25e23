"""Retrieval with each single feature of a model's representation, for one or more trained models.

Tables 3 and 4 of RRID (Park and Ham, AAAI 2020): what one local or one global feature finds by itself, with and without
the relation module or with one pooling beside another. The test images go through a model once; each feature is some
columns of the representation and is evaluated as the whole is, with TEST.METRIC, TEST.FLIP and the other settings of
the model's config. It works for every head with named features, such as RRID's and CAN's. TEST.FEATURES narrows the
features to those that it names. The test set is the first of DATASETS.TESTS.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from ..config import find_config
from ..evaluation import extract, single_feature_results
from ..parts_baseline import PartsBaseline
from ..parts_head import PartsHead
from ..visualization import draw_single_features
from ._trained_models import (
    TrainedModel,
    add_model_options,
    check_models,
    chosen_models,
    load_on_test_set,
    run_and_report,
    write_json,
)

__all__ = ["main"]

_ALONE = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")
_BESIDE = ("mAP", "Rank-1")  # of several models, as in Table 3


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`.

    Returns:
        0 when table and picture are there, 1 when the arguments do not fit together; the reason is printed.
    """
    return run_and_report(_measure, *_parse(argv))


def _measure(models: list[TrainedModel], args: argparse.Namespace) -> None:
    check_models(models)
    prepared = []
    for trained in models:  # what does not fit shows before the long passes
        cfg, model, loader, num_query = load_on_test_set(trained)
        head = model.heads if isinstance(model, PartsBaseline) else None
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
        print(
            f"{trained.name}: {num_query} queries, {images} images of the gallery, {len(columns)} features", flush=True
        )
        described[trained.name] = {
            "config": find_config(trained.config_file),
            "weights": trained.weights,
            "dataset": cfg.DATASETS.TESTS[0],
            "metric": cfg.TEST.METRIC,
            "flip": cfg.TEST.FLIP.ENABLED,
            "query": num_query,
            "gallery": images,
            "results": results[trained.name],
        }
    datasets = {model["dataset"] for model in described.values()}
    if len(datasets) > 1:
        print(f"Models on different test sets are not compared alike: {', '.join(sorted(datasets))}")
    draw_single_features(results, args.output, args.title)
    numbers_path = write_json(args.output, described)
    print(f"\n{_table(results)}\n\nPicture: {args.output}, numbers: {numbers_path}")


def _table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One row a feature in percent, the models side by side."""
    measures = _BESIDE if len(results) > 1 else _ALONE
    features = dict.fromkeys(name for model in results.values() for name in model)
    rows = [
        [name, *(model[name][measure] if name in model else None for model in results.values() for measure in measures)]
        for name in features
    ]
    beside = len(results) > 1
    heads = [f"{model}: {measure}" if beside else measure for model in results for measure in measures]
    return tabulate(rows, headers=["[%]", *heads], tablefmt="pipe", floatfmt=".1f", missingval="-")


def _parse(argv: list[str] | None) -> tuple[list[TrainedModel], argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="single-features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument("--output", required=True, help="the PNG to write; the numbers stand beside it as .json")
    parser.add_argument("--title", default="", help="a line above the charts")
    args = parser.parse_args(argv)
    return chosen_models(parser, args), args
