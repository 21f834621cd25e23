"""What several figures and the report share: one style, drawn without a display."""

from __future__ import annotations

from ..evaluation.feature_maps import backbone_map
from .activation import activation_maps, branch_activation_maps, draw_activation_maps, load_images
from .contact_sheet import draw_contact_sheet
from .curves import draw_training_curves, read_metrics
from .hardness import draw_hardness
from .loss_distribution import draw_loss_distribution
from .overview import draw_overview, strip_of_people
from .rank_list import (
    MarkedImages,
    RankedExamples,
    choose_queries,
    compare_rank_lists,
    draw_rank_lists,
    rank_examples,
    worst_examples,
    worst_queries,
)
from .retrieval_curves import CURVES, draw_retrieval_curves, retrieval_curve
from .single_features import draw_single_features

__all__ = [
    "CURVES",
    "MarkedImages",
    "RankedExamples",
    "activation_maps",
    "backbone_map",
    "branch_activation_maps",
    "choose_queries",
    "compare_rank_lists",
    "draw_activation_maps",
    "draw_contact_sheet",
    "draw_hardness",
    "draw_loss_distribution",
    "draw_overview",
    "draw_rank_lists",
    "draw_retrieval_curves",
    "draw_single_features",
    "draw_training_curves",
    "load_images",
    "rank_examples",
    "read_metrics",
    "retrieval_curve",
    "strip_of_people",
    "worst_examples",
    "worst_queries",
]
