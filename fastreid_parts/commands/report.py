"""One HTML file on what trained models retrieve, which a browser opens without anything beside it.

It holds the scores of each model and what is in the test set, CMC and precision-recall curves, a histogram of the
queries' average precision, rank lists of the best, median and worst queries with the frames of matches, non-matches and
junk, each model's worst queries with the rank of their first match, activation maps of the shown queries, every
config, and versions.

Scores and rank lists are made as each model's TEST section says: TEST.METRIC, TEST.FLIP, TEST.AQE, TEST.RERANK. The
test set is the first of DATASETS.TESTS, or each that --datasets names.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import torch

from ..analysis.searched import Searched, add_query_options, check_query_options, chosen_queries, search_test_set
from ..analysis.trained_models import add_model_options, chosen_models, inference_config
from ..arguments import not_negative, output_file, positive
from ..data.build import load_dataset
from ..evaluation import MatchRanks, Ranking, describe_settings, lists_from_distances
from ..report import Report, ReportedModel, ReportedTest, write_report
from ..version import versions
from ..visualization import RankedExamples, activation_maps, load_images, worst_examples, worst_queries


def run(args: argparse.Namespace) -> None:
    """Write the report on the models of --model.

    Raises:
        OSError: a config, a weights file or a dataset is not there, or the report cannot be written.
        KeyError: a key does not exist.
        ValueError: the options, or models, weights and images, do not fit together.
    """
    check_query_options(args)
    if args.queries and len(args.datasets) > 1:
        raise ValueError("--queries names images of one test set: give one name to --datasets")
    models = chosen_models(args)
    for name in args.datasets[1:]:  # the first is read at once; a later one is not to fail after long passes
        load_dataset(name, inference_config(models[0].config_file, models[0].opts))
    tests: list[ReportedTest] = []
    described: list[ReportedModel] = []
    for name in args.datasets or [""]:
        opts = ["DATASETS.TESTS", repr((name,))] if name else []
        searched = search_test_set([replace(model, opts=[*model.opts, *opts]) for model in models])
        tests.append(_test(searched, args))
        described = described or [_model(one) for one in searched]
    made_with = {**versions(), "torch": torch.__version__, "Python": platform.python_version()}
    date = datetime.now().astimezone().isoformat(timespec="minutes")
    write_report(Report(args.title, described, tests, made_with, date, args.max_rank), args.output)
    print(f"Report: {args.output}, {os.path.getsize(args.output) / 1e6:.1f} MB")


def _test(searched: Sequence[Searched], args: argparse.Namespace) -> ReportedTest:
    first = searched[0]
    rankings = {one.trained.name: Ranking(one.features, len(one.query), one.cfg) for one in searched}
    ranks = {name: ranking.ranks() for name, ranking in rankings.items()}
    chosen = chosen_queries(first.query, [own.average_precision() for own in ranks.values()], args)
    rows = [row for row, _ in chosen]
    lists, notes, worst = {}, {}, {}
    for one in searched:
        name = one.trained.name
        shown = sorted({*rows, *worst_queries(ranks[name], args.worst)})
        near = dict(zip(shown, rankings[name].distances(shown)))
        distances = np.stack([near[row] for row in rows])
        lists[name] = lists_from_distances(one.query, one.gallery, rows, distances, args.k, with_junk=True)
        precisions = ranks[name].average_precision()[rows]
        notes[name] = ["no match" if np.isnan(value) else f"AP {value:.1%}" for value in precisions]
        if args.worst:
            worst[name] = worst_examples(one.query, one.gallery, ranks[name], near, args.worst, args.k)
    examples = RankedExamples(first.query, first.gallery, lists, [label for _, label in chosen], notes)
    images, maps, remarks = _maps(searched, [first.query.paths[row] for row in rows]) if args.maps else ([], {}, [])
    return ReportedTest(
        first.cfg.DATASETS.TESTS[0],
        _counts(first, ranks[first.trained.name]),
        ranks,
        examples,
        worst,
        images,
        maps,
        _choice(
            [one.trained.name for one in searched], args, int(ranks[searched[-1].trained.name].matched.sum()), len(rows)
        ),
        remarks,
    )


def _choice(names: Sequence[str], args: argparse.Namespace, counted: int, shown: int) -> str:
    """How `chosen_queries` chose `shown` of the `counted` queries."""
    if args.queries:
        return "Queries that were asked for."
    if (args.by or "gain") == "gain" and len(names) > 1:
        by = f"by how much the average precision (AP) of {names[-1]} exceeds that of {names[0]}"
        groups = "the greatest gain, those in the middle, and the greatest loss"
    else:
        by = f"by the average precision (AP) of {names[-1]}"
        groups = "the best, those in the middle, and the worst"
    return f"All queries that count, {by}: the highest first." if shown == counted else f"Queries {by}: {groups}."


def _maps(
    searched: Sequence[Searched], paths: Sequence[str]
) -> tuple[Sequence[np.ndarray], dict[str, np.ndarray], list[str]]:
    """Images, the activation maps of each model that has a feature map, and a sentence on each that has none."""
    shown: Sequence[np.ndarray] = []
    maps, remarks = {}, []
    for one in searched:
        shown, images = load_images(one.cfg, paths)
        try:
            maps[one.trained.name] = activation_maps(one.model, images)
        except ValueError as error:
            remarks.append(f"No activation maps of {one.trained.name}: {error}.")
    return shown, maps, remarks


def _counts(one: Searched, ranks: MatchRanks) -> dict[str, float]:
    query, gallery = one.query, one.gallery
    junk = len(gallery) - ranks.candidates
    return {
        "queries": len(query),
        "queries without a match, which are not scored": int((~ranks.matched).sum()),
        "identities of the queries": len(np.unique(query.pids)),
        "gallery images": len(gallery),
        "gallery images of identities that no query shows": int((~np.isin(gallery.pids, query.pids)).sum()),
        "identities of the gallery": len(np.unique(gallery.pids)),
        "cameras": len(np.union1d(query.camids, gallery.camids)),
        "junk: pairs of a query and a gallery image that does not count for it": int(junk.sum()),
    }


def _model(one: Searched) -> ReportedModel:
    height, width = one.cfg.INPUT.SIZE_TEST
    facts = {
        "architecture": one.cfg.MODEL.META_ARCHITECTURE,
        "input": f"{height}x{width} pixels",
        "features": f"{one.features.features.shape[1]} dimensions",
        "ranked by": describe_settings(one.cfg),
    }
    return ReportedModel(one.trained.name, facts, one.trained.files(), one.cfg.dump())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_model_options(parser)
    add_query_options(parser, k=10, each=3)
    text = "worst queries of each model; 0 for none (default: 5)"
    parser.add_argument("--worst", type=not_negative, default=5, metavar="N", help=text)
    parser.add_argument("--max-rank", type=positive, default=20, help="last rank of the CMC (default: 20)")
    parser.add_argument("--no-maps", dest="maps", action="store_false", help="leave out the activation maps")
    text = "test sets instead of the first of DATASETS.TESTS"
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help=text)
    parser.add_argument("--output", type=output_file, required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--title", default="Retrieval report", help="heading (default: %(default)s)")
