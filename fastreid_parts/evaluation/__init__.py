"""From a model to numbers: features, exact search, rank lists, simple baselines, and a look at the training set."""

from __future__ import annotations

from .baselines import colour_histogram, colour_histogram_features
from .evaluator import PartsEvaluator, Ranking, describe_settings, evaluate_features, rank_features
from .exact import match_ranks
from .feature_maps import backbone_map, branch_maps, response_spread
from .features import Features, extract
from .image_losses import ImageLosses, cumulative_loss, image_losses, share_of_hardest
from .local_classifiers import (
    LocalDecisions,
    build_local_classifiers,
    find_local_classifiers,
    local_decisions,
)
from .query_expansion import expand_queries
from .ranks import MatchRanks
from .relation_maps import find_relation, part_of, part_shares, relation_maps
from .reranking import KReciprocal
from .search import RankList, average_precisions, lists_from_distances, rank_lists, topk
from .single_features import WHOLE, single_feature_results

__all__ = [
    "WHOLE",
    "Features",
    "ImageLosses",
    "KReciprocal",
    "LocalDecisions",
    "MatchRanks",
    "PartsEvaluator",
    "RankList",
    "Ranking",
    "average_precisions",
    "backbone_map",
    "branch_maps",
    "build_local_classifiers",
    "colour_histogram",
    "colour_histogram_features",
    "cumulative_loss",
    "describe_settings",
    "evaluate_features",
    "expand_queries",
    "extract",
    "find_local_classifiers",
    "find_relation",
    "image_losses",
    "lists_from_distances",
    "local_decisions",
    "match_ranks",
    "part_of",
    "part_shares",
    "rank_features",
    "rank_lists",
    "relation_maps",
    "response_spread",
    "share_of_hardest",
    "single_feature_results",
    "topk",
]
