"""From a model to numbers: features, exact search, rank lists and simple baselines."""

from __future__ import annotations

from .baselines import colour_histogram, colour_histogram_features
from .features import Features, evaluate_features, extract
from .search import RankList, average_precisions, rank_lists, topk

__all__ = [
    "Features",
    "RankList",
    "average_precisions",
    "colour_histogram",
    "colour_histogram_features",
    "evaluate_features",
    "extract",
    "rank_lists",
    "topk",
]
