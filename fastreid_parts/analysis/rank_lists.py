"""Draw what one or more trained models find for the same queries.

Matches are framed green, non-matches red, and with --junk gray what does not count: images of the query's identity from
its own camera. As in Fig. 4 and 5 of RRID (Park and Ham, AAAI 2020), with --k 1 for the latter. The queries are the
best, the median and the worst of the test set, by the average precision of the last model (--by ap), or by how much it
exceeds the first model's (--by gain, the default for several models): what is lost is shown as well as what is gained.
--queries names images instead. The test set is the first of DATASETS.TESTS, ranked by TEST.METRIC without re-ranking,
with TEST.FLIP.
"""

from __future__ import annotations

import argparse
import os

from tabulate import tabulate

from ..evaluation import RankList
from ..visualization import RankedExamples, draw_rank_lists
from .searched import add_query_options, check_query_options, describe_lists, ranked_examples, search_test_set
from .trained_models import add_figure_options, chosen_models, finish


def run(args: argparse.Namespace) -> None:
    """Draw the rank lists of the models of --model.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    check_query_options(args)
    searched = search_test_set(chosen_models(args))
    examples = ranked_examples(searched, args, args.junk)
    described = describe_lists(searched, examples)
    finish(args, described, _table(examples), lambda path: draw_rank_lists(examples, path, args.title))


def _table(examples: RankedExamples) -> str:
    """Average precision and matches of each list, one row a query."""
    rows = []
    for place, row in enumerate(examples.rows):
        lists = examples.lists.items()
        cells = [f"{examples.notes[name][place]}, {_matches_of(found[place])} matches" for name, found in lists]
        path = os.path.basename(examples.query.paths[row])
        rows.append([path, examples.labels[place].replace("\n", " "), *cells])
    return tabulate(rows, headers=["query", "chosen", *examples.lists], tablefmt="pipe")


def _matches_of(found: RankList) -> str:
    counted = found.places > 0
    return f"{int(found.correct[counted].sum())} of {int(counted.sum())}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_figure_options(parser)
    add_query_options(parser, k=5)
    text = "show what does not count where it stands, framed gray, beside the k images"
    parser.add_argument("--junk", action="store_true", help=text)
