"""What several figures and the report share: one style, drawn without a display."""

from __future__ import annotations

from ..evaluation.feature_maps import backbone_map
from .activation import (
    activation_maps,
    branch_activation_maps,
    dependence_maps,
    draw_activation_maps,
    load_images,
)
from .curves import draw_training_curves, read_metrics
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
