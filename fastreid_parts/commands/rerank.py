"""Results of stored features with re-ranking and other gains without training.

--methods compares several in one table: none; aqe, average query expansion (TEST.AQE); nfc, neighbor feature
centralization (TEST.NFC); k-reciprocal and gnn, re-ranking (TEST.RERANK, TEST.RERANK.GNN); and some of them joined, as
in nfc+k-reciprocal. Each is measured with all queries together and, a fairer comparison, with each query and the
gallery alone (TEST.QUERIES, --queries). Settings are the config's, by --opts. Seconds are from the features to the
ranks, memory is what comes on top of the features.

Without --methods, re-ranking is by k-reciprocal neighbors (Zhong et al., CVPR 2017). k1, k2 and lambda are
TEST.RERANK's of the config that the features were extracted with, or those given here. Each may have several values:
then every combination is measured, and neighbors are searched once. Distances are by TEST.METRIC, of features after
TEST.NFC and TEST.AQE where these are enabled.
Settings that are chosen by a test set's own results make these too good: choose them on other images.

--lists writes what each query finds first after re-ranking: gallery images without those that do not count, with the
re-ranked distance.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from fastreid.config import CfgNode
from tabulate import tabulate

from ..analysis.searched import describe_list
from ..arguments import add_opts, output_file, positive, table_file
from ..evaluation import Features, MatchRanks, Ranking, RankList, describe_settings, lists_from_distances, who_and_where
from ..evaluation.ranks import count_ranks
from ..evaluation.reranking import check_distance_share, check_neighbor_counts
from ..files import write_csv, write_json
from ..retrieval import FeatureSet, load_feature_set
from ..words import test_set
from ._rerank_methods import METHODS, QUERIES, measure_methods, method, methods_table
from .evaluate import MEASURES, change_test_keys, check_stored, describe_evaluation

Blocks = Iterable[tuple[slice, torch.Tensor]]
Setting = tuple[int, int, float]

_LIST_COLUMNS = ("query", "rank", "image", "identity", "camera", "distance", "correct")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--features", required=True, metavar="DIR", help="a folder that `extract` wrote")
    parser.add_argument("--k1", type=int, nargs="+", default=[], help="neighbors (default: TEST.RERANK.K1)")
    parser.add_argument("--k2", type=int, nargs="+", default=[], help="neighbors averaged (default: TEST.RERANK.K2)")
    text = "share of the distance itself, 0 to 1 (default: TEST.RERANK.LAMBDA)"
    parser.add_argument("--lambda", dest="weights", type=float, nargs="+", default=[], metavar="LAMBDA", help=text)
    parser.add_argument("--lists", type=table_file, metavar="FILE", help="a .csv or .json of rank lists")
    parser.add_argument("--top", type=positive, default=10, help="their length (default: 10)")
    text = f"compare these: {', '.join(METHODS)}, or some joined by +"
    parser.add_argument("--methods", type=method, nargs="+", default=[], metavar="METHOD", help=text)
    text = "with --methods: together, alone (default: both)"
    parser.add_argument("--queries", choices=QUERIES, nargs="+", default=[], help=text)
    parser.add_argument("--output", type=output_file, metavar="FILE", help="the JSON to write the numbers to")
    add_opts(parser, "of TEST")


def run(args: argparse.Namespace) -> None:
    """Re-rank, and print and write the results.

    Raises:
        OSError: the folder is not there.
        KeyError: a key does not exist.
        ValueError: a setting cannot be, or the arguments do not fit together.
    """
    if args.methods and (args.lists or args.k1 or args.k2 or args.weights):
        raise ValueError("--lists, --k1, --k2 and --lambda are without --methods, which takes its settings by --opts")
    if args.queries and not args.methods:
        raise ValueError("--queries is of --methods; without it, give --opts TEST.QUERIES alone")
    if args.lists and max(len(args.k1), len(args.k2), len(args.weights)) > 1:
        raise ValueError("--lists are of one setting: give --k1, --k2 and --lambda one value each")
    there = load_feature_set(args.features)
    cfg = change_test_keys(there.to_cfg(), args.opts)
    query, gallery = check_stored(args.features, there)
    if args.methods:
        _compare_methods(args, there, cfg)
        return
    if cfg.TEST.RERANK.METHOD != "k-reciprocal":
        name = cfg.TEST.RERANK.METHOD
        raise ValueError(
            f"TEST.RERANK.METHOD is {name}, and without --methods re-ranking is by k-reciprocal neighbors: add --opts "
            f"TEST.RERANK.METHOD k-reciprocal, or --methods {name} in place of --k1, --k2, --lambda and --lists"
        )
    settings = _settings(args, cfg.TEST.RERANK)
    cfg.TEST.RERANK.ENABLED = False  # of the row without it
    print(f"{args.features}: {test_set(len(query), len(gallery))}", flush=True)

    ranking = Ranking(there.features, there.num_query, cfg)
    query, gallery = ranking.query, ranking.gallery
    measured: dict[Setting | None, MatchRanks] = {None: count_ranks(ranking.blocks(), ranking.relevance)}
    neighbors = ranking.neighbors(max(k1 for k1, _, _ in settings))
    lists: list[RankList] = []
    for (k1, k2), group in itertools.groupby(settings, key=lambda setting: setting[:2]):
        reciprocal = ranking.k_reciprocal(k1, k2, neighbors)
        for setting in group:
            blocks: Blocks = reciprocal.blocks(ranking.similarity, setting[2], cfg.TEST.BLOCK_ROWS)
            if args.lists:
                blocks = _kept_lists(blocks, query, gallery, args.top, lists)
            measured[setting] = count_ranks(blocks, ranking.relevance)

    print(f"\n{_table(measured)}\n\n{describe_settings(cfg)}")
    if args.lists:
        _write_lists(args.lists, query, gallery, lists)
        print(f"Rank lists: {args.lists}")
    if args.output:
        results = {"results": [_describe(setting, ranks) for setting, ranks in measured.items()]}
        described = {"features": args.features, **describe_evaluation(there, cfg, measured[None]), **results}
        write_json(args.output, described)
        print(f"Numbers: {args.output}")


def _compare_methods(args: argparse.Namespace, there: FeatureSet, cfg: CfgNode) -> None:
    print(f"{args.features}: {test_set(there.num_query, len(there.features) - there.num_query)}", flush=True)
    measured = measure_methods(there, cfg, args.methods, args.queries or QUERIES)
    print(f"\n{methods_table(measured)}")
    for settings in dict.fromkeys(describe_settings(one.cfg) for one in measured):
        print(settings)
    if args.output:
        described = {"features": args.features, **describe_evaluation(there, measured[0].cfg, measured[0].ranks)}
        described["results"] = [one.described() for one in measured]
        write_json(args.output, described)
        print(f"Numbers: {args.output}")


def _settings(args: argparse.Namespace, default: Any) -> list[Setting]:
    """Every combination of k1, k2 and lambda, those of one neighborhood beside each other.

    Raises:
        ValueError: one of them cannot be.
    """
    weights = args.weights or [default.LAMBDA]
    for weight in weights:
        check_distance_share(weight)
    settings = itertools.product(args.k1 or [default.K1], args.k2 or [default.K2], weights)
    distinct = list(dict.fromkeys(settings))
    for k1, k2, _ in distinct:
        check_neighbor_counts(k1, k2)
    return distinct


def _kept_lists(blocks: Blocks, query: Features, gallery: Features, top: int, lists: list[RankList]) -> Blocks:
    """The same blocks; `lists` gets the first images of each query on the way."""
    for rows, scores in blocks:
        distances = -scores.cpu().numpy()
        lists.extend(lists_from_distances(query, gallery, range(rows.start, rows.stop), distances, top))
        yield rows, scores


def _write_lists(path: str, query: Features, gallery: Features, lists: Sequence[RankList]) -> None:
    described: list[dict[str, Any]] = [
        {"image": query.paths[one.query], **who_and_where(query, one.query), "found": describe_list(one, gallery)}
        for one in lists
    ]
    if not path.lower().endswith(".csv"):
        write_json(path, {"queries": described})
        return
    rows = (
        (one["image"], *({**found, "correct": int(found["correct"])}[name] for name in _LIST_COLUMNS[1:]))
        for one in described
        for found in one["found"]
    )
    write_csv(path, _LIST_COLUMNS, rows)


def _table(measured: dict[Setting | None, MatchRanks]) -> str:
    """Percentages, one row a setting, and how much it adds to mAP."""
    before = measured[None].results()["mAP"]
    rows = []
    for setting, ranks in measured.items():
        results = ranks.results()
        gain = None if setting is None else results["mAP"] - before
        rows.append([*(setting or (None, None, None)), *(results[measure] for measure in MEASURES), gain])
    heads = ["k1", "k2", "lambda", *(f"{measure} [%]" for measure in MEASURES), "gain in mAP"]
    formats = ("g", "g", "g", *(".1f" for _ in MEASURES), "+.1f")
    return tabulate(rows, headers=heads, tablefmt="pipe", floatfmt=formats, missingval="-")


def _describe(setting: Setting | None, ranks: MatchRanks) -> dict[str, Any]:
    words = dict(zip(("k1", "k2", "lambda"), setting)) if setting else None
    return {"rerank": words, "results": ranks.results()}
