"""Retrieval results of stored features or of a trained model.

Stored features are folders that `extract` wrote, evaluated by the config that they were extracted with. A trained model
is evaluated on the datasets of --datasets, by default on DATASETS.TESTS: with datasets that it was not trained on, this
is the evaluation across datasets. --opts changes how: TEST.METRIC, TEST.AQE, TEST.RERANK, TEST.ROC, and, for a trained
model, any other key.

mAP, mINP and Rank-k are of the queries whose identity another camera of the gallery saw; how many did not count is
said. The JSON holds the average precision of every query with its image.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastreid.config import CfgNode
from tabulate import tabulate

from ..analysis.trained_models import TrainedModel, check_models, inference_config, load_model
from ..arguments import add_config_options, output_file
from ..data.build import build_reid_test_loader
from ..data.checks import Item, evaluation_problem, unmatched_queries, unmatched_warning
from ..data.names import names_of
from ..evaluation import Features, MatchRanks, Ranking, describe_settings, extract, who_and_where
from ..evaluation.evaluator import check_test_keys
from ..files import write_csv, write_json
from ..retrieval import FeatureSet, load_feature_set, model_fingerprint
from ..words import test_set

#: What the tables show, in percent.
MEASURES = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")
_PER_QUERY = (
    "image", "identity", "camera", "average_precision", "inverse_negative_penalty", "first_match", "matches",
    "candidates",
)  # fmt: skip
# Keys of TEST that decide what features are, not what becomes of them
_FIXED = ("TEST.FLIP", "TEST.FEATURES", "TEST.PRECISE_BN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--features", nargs="+", default=[], metavar="DIR", help="folders that `extract` wrote")
    add_config_options(parser, required=False)
    text = "datasets for the model (default: DATASETS.TESTS)"
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help=text)
    text = "the JSON to write, with every query's precision"
    parser.add_argument("--output", type=output_file, metavar="FILE", help=text)
    text = "a CSV to write, with a row for each query"
    parser.add_argument("--per-query", type=output_file, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> None:
    """Evaluate, and print and write the results.

    Raises:
        OSError: a folder, a config or a weights file is not there.
        KeyError: a key does not exist.
        ValueError: the arguments do not fit together.
    """
    if bool(args.config_file) != bool(args.weights) or bool(args.features) == bool(args.weights):
        raise ValueError("name what to evaluate: --features, or --config-file with --weights")
    if args.datasets and not args.weights:
        raise ValueError("--datasets are for a model; stored features are of one dataset")
    work = _stored_features(args) if args.features else _features_of_a_model(args)
    evaluated: list[dict[str, Any]] = []
    for name, source, cfg, there in work:
        query, gallery = there.split()
        dataset = f" ({there.dataset})" if there.dataset not in ("", name) else ""
        print(f"{name}{dataset}: {test_set(len(query), len(gallery))}", flush=True)
        ranking = Ranking(there.features, there.num_query, cfg)
        ranks = ranking.ranks()
        numbers = {"results": dict(ranking.results(ranks)), "queries": _per_query(query, ranks)}
        evaluated.append({"name": name, **source, **describe_evaluation(there, cfg, ranks), **numbers})
    print(f"\n{_table(evaluated)}\n")
    settings: dict[str, list[str]] = {}
    for one in evaluated:
        settings.setdefault(one["settings"], []).append(one["name"])
    for setting, names in settings.items():
        print(f"{setting}{': ' + ', '.join(names) if len(settings) > 1 else ''}", flush=True)
    if args.per_query:
        rows = ([one["name"], *row.values()] for one in evaluated for row in one["queries"])
        write_csv(args.per_query, ["name", *_PER_QUERY], rows)
        print(f"Queries: {args.per_query}")
    if args.output:
        write_json(args.output, {"evaluated": evaluated})
        print(f"Numbers: {args.output}")


def _stored_features(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], CfgNode, FeatureSet]]:
    """Name, source, config and features of each folder; all are checked before the first is given.

    Raises:
        FileNotFoundError: a folder is not there.
        KeyError: a key does not exist.
        ValueError: a folder holds no feature set or one without queries, no query has a match, or a key cannot be
            changed any more.
    """
    prepared = []
    for folder in args.features:
        there = load_feature_set(folder)
        cfg = change_test_keys(there.to_cfg(), args.opts)
        check_stored(folder, there)
        prepared.append((folder, {"features": folder}, cfg, there))
    yield from prepared


def _features_of_a_model(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], CfgNode, FeatureSet]]:
    """The same of each dataset, whose features are computed when its turn comes.

    Raises:
        FileNotFoundError: there is no such config or weights file.
        KeyError: a key does not exist.
        ValueError: no dataset is named or one cannot be read, no query has a match, the file holds the weights of
            another model, or a key of TEST has a value that cannot be.
    """
    trained = TrainedModel("", args.config_file, args.weights)
    check_models([trained])
    cfg = inference_config(args.config_file, args.opts)
    check_test_keys(cfg)
    names = list(dict.fromkeys(args.datasets or cfg.DATASETS.TESTS))
    if not names:
        raise ValueError("the config names no test set: set DATASETS.TESTS, or name some with --datasets")
    loaders = []
    for name in names:  # what does not fit shows before the long passes
        loader, num_query = build_reid_test_loader(cfg, dataset_name=name)
        called = loader.dataset.names
        items = [(path, called.identity(pid), called.camera(camid)) for path, pid, camid in loader.dataset.img_items]
        note_unmatched(name, items[:num_query], items[num_query:])
        loaders.append((loader, num_query))
    model = load_model(cfg, args.weights)
    fingerprint = model_fingerprint(cfg, model)
    for name, (loader, num_query) in zip(names, loaders):
        features = extract(model, loader, flip=cfg.TEST.FLIP.ENABLED)
        yield name, trained.files(), cfg, FeatureSet(features, num_query, fingerprint, cfg.dump(), name)


def change_test_keys(cfg: CfgNode, opts: Sequence[str]) -> CfgNode:
    """Change how features that are there already are evaluated.

    Args:
        cfg: that they were extracted with; changed in place.
        opts: KEY, VALUE pairs.

    Returns:
        The same config.

    Raises:
        KeyError: a key does not exist.
        ValueError: a key is not of evaluation, or has a value that cannot be.
    """
    for key in opts[::2]:
        if key != "MODEL.DEVICE" and (not key.startswith("TEST.") or key.startswith(_FIXED)):
            raise ValueError(
                f"{key} cannot be changed for features that are there already, only keys of TEST that say how they are "
                "evaluated, such as TEST.METRIC: extract features with it"
            )
    cfg.merge_from_list(list(opts))
    check_test_keys(cfg)
    return cfg


def note_unmatched(name: str, query: Sequence[Item], gallery: Sequence[Item]) -> None:
    """Print how many queries do not count, before anything is computed.

    Args:
        name: of the dataset.
        query: the query items.
        gallery: the gallery items.

    Raises:
        ValueError: none counts.
    """
    if problem := evaluation_problem(query, gallery):
        raise ValueError(f"{name}: {problem}")
    if unmatched := unmatched_queries(query, gallery):
        print(f"{name}: {unmatched_warning(unmatched, len(query))}", flush=True)


def check_stored(folder: str, there: FeatureSet) -> tuple[Features, Features]:
    """Take query and gallery of a feature set, and print how many queries cannot be scored.

    Args:
        folder: of the feature set.
        there: what is in it.

    Raises:
        ValueError: there are no queries, or none counts; the message names the folder.
    """
    try:
        query, gallery = there.split()
    except ValueError as error:
        raise ValueError(f"'{folder}': {error}") from error
    items = [list(zip(part.paths, *names_of(part.pids, part.camids, part.names))) for part in (query, gallery)]
    note_unmatched(folder, *items)
    return query, gallery


def describe_evaluation(there: FeatureSet, cfg: CfgNode, ranks: MatchRanks) -> dict[str, Any]:
    """Describe what was evaluated as it is written to JSON, beside the results.

    Args:
        there: the features.
        cfg: by which they were evaluated.
        ranks: where the matches of each query stand.
    """
    return {
        "dataset": there.dataset,
        "fingerprint": there.fingerprint,
        "settings": describe_settings(cfg),
        "query": there.num_query,
        "gallery": len(there.features) - there.num_query,
        "without_match": int((~ranks.matched).sum()),
    }


def _table(evaluated: Sequence[Mapping[str, Any]]) -> str:
    """Percentages, one row a set of features."""
    rates = list(dict.fromkeys(key for one in evaluated for key in one["results"] if key.startswith("TPR@FPR")))
    rows = []
    for one in evaluated:
        results = one["results"]
        known = [100 * results[rate] if rate in results else None for rate in rates]
        measured = [results[measure] for measure in MEASURES]
        rows.append([one["name"], *measured, *known, one["query"], one["without_match"]])
    heads = ["[%]", *MEASURES, *rates, "queries", "without a match"]
    return tabulate(rows, headers=heads, tablefmt="pipe", floatfmt=".1f", missingval="-")


def _per_query(query: Features, ranks: MatchRanks) -> list[dict[str, Any]]:
    """A row for each query, under the names of `_PER_QUERY`."""
    columns = (
        query.paths,
        *zip(*(who_and_where(query, row).values() for row in range(len(query)))),
        (None if math.isnan(value) else value for value in ranks.average_precision().tolist()),
        (None if math.isnan(value) else value for value in ranks.inverse_negative_penalty().tolist()),
        (value or None for value in ranks.first_match().tolist()),
        ranks.matches.tolist(),
        ranks.candidates.tolist(),
    )
    return [dict(zip(_PER_QUERY, values)) for values in zip(*columns)]
