"""Pictures: rank lists, training curves and activation maps, all in one style and without a display."""

from __future__ import annotations

from .activation import activation_maps, backbone_map, draw_activation_maps, load_images
from .curves import draw_training_curves, read_metrics
from .overview import draw_overview, strip_of_people
from .rank_list import RankedExamples, draw_rank_lists, rank_examples

__all__ = [
    "RankedExamples",
    "activation_maps",
    "backbone_map",
    "draw_activation_maps",
    "draw_overview",
    "draw_rank_lists",
    "draw_training_curves",
    "load_images",
    "rank_examples",
    "read_metrics",
    "strip_of_people",
]
