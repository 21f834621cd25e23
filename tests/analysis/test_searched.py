"""Which queries are shown, and how a rank list is written; the tests of rank-lists and relation-maps search."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from fastreid_parts.analysis.searched import (
    add_query_options,
    check_query_options,
    chosen_queries,
    describe_list,
)
from fastreid_parts.evaluation import Features, RankList

PATHS = ["a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg"]
QUERY = Features(np.zeros((4, 1), np.float32), np.arange(4), np.zeros(4, int), PATHS)
FIRST, LAST = np.array([0.9, 0.5, 0.1, np.nan]), np.array([0.8, 0.6, 0.7, np.nan])


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_query_options(parser, k=5)
    return parser.parse_args(words)


def test_by_the_gain_over_the_first_model_unless_told_otherwise() -> None:
    gain = [(2, "greatest\ngain"), (1, "median\ngain"), (0, "greatest\nloss")]
    assert chosen_queries(QUERY, [FIRST, LAST], options()) == gain
    by_precision = [(0, "best AP"), (2, "median\nAP"), (1, "worst AP")]
    assert chosen_queries(QUERY, [FIRST, LAST], options("--by", "ap")) == by_precision
    assert chosen_queries(QUERY, [LAST], options()) == by_precision


def test_a_gain_needs_two_models() -> None:
    args = options("--by", "gain")
    args.models = ["one"]
    with pytest.raises(ValueError, match="name at least two with --model"):
        check_query_options(args)
    args.models = ["one", "two"]
    check_query_options(args)


def test_named_queries_come_in_the_order_of_their_names() -> None:
    named = [(2, "named"), (3, "named")]
    assert chosen_queries(QUERY, [FIRST], options("--queries", "3.jpg", "b/1.jpg")) == named
    with pytest.raises(ValueError, match=r"'1.jpg' names 2 query images: --queries takes paths such as a/1.jpg"):
        chosen_queries(QUERY, [FIRST], options("--queries", "1.jpg"))
    with pytest.raises(ValueError, match="'4.jpg' names no query images"):
        chosen_queries(QUERY, [FIRST], options("--queries", "4.jpg"))


def test_junk_has_no_rank_in_the_description() -> None:
    distances = np.array([0.5, 1.5], np.float32)
    found = RankList(0, np.array([2, 1]), distances, np.array([True, False]), np.array([0, 1]))
    assert describe_list(found, QUERY) == [
        {"image": "a/3.jpg", "identity": 2, "camera": 1, "distance": 0.5, "correct": True, "rank": None},
        {"image": "a/2.jpg", "identity": 1, "camera": 1, "distance": 1.5, "correct": False, "rank": 1},
    ]
