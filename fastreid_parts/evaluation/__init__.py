"""From a model to numbers: features, exact search, rank lists, and simple baselines."""

from __future__ import annotations

from .baselines import colour_histogram, colour_histogram_features
from .evaluator import PartsEvaluator, Ranking, describe_settings, evaluate_features, rank_features
from .exact import match_ranks
from .feature_maps import backbone_map, branch_maps
from .features import Features, camera_number, extract, identity_and_camera
from .query_expansion import expand_queries
from .ranks import MatchRanks
from .reranking import KReciprocal
from .search import RankList, average_precisions, lists_from_distances, rank_lists, topk

__all__ = [
    "Features",
    "KReciprocal",
    "MatchRanks",
    "PartsEvaluator",
    "RankList",
    "Ranking",
    "average_precisions",
    "backbone_map",
    "branch_maps",
    "camera_number",
    "colour_histogram",
    "colour_histogram_features",
    "describe_settings",
    "evaluate_features",
    "expand_queries",
    "extract",
    "identity_and_camera",
    "lists_from_distances",
    "match_ranks",
    "rank_features",
    "rank_lists",
    "topk",
]
