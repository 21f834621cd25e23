"""From a model to numbers: features, exact search, rank lists, simple baselines, and a look at the training set."""

from __future__ import annotations

from .baselines import colour_histogram, colour_histogram_features
from .feature_maps import backbone_map, response_spread
from .features import Features, evaluate_features, extract
from .image_losses import ImageLosses, cumulative_loss, image_losses, share_of_hardest
from .local_classifiers import (
    LocalDecisions,
    build_local_classifiers,
    find_local_classifiers,
    local_decisions,
)
from .search import RankList, average_precisions, rank_lists, topk

__all__ = [
    "Features",
    "ImageLosses",
    "LocalDecisions",
    "RankList",
    "average_precisions",
    "backbone_map",
    "build_local_classifiers",
    "colour_histogram",
    "colour_histogram_features",
    "cumulative_loss",
    "evaluate_features",
    "extract",
    "find_local_classifiers",
    "image_losses",
    "local_decisions",
    "rank_lists",
    "response_spread",
    "share_of_hardest",
    "topk",
]
