"""From a model to numbers: features, exact search, rank lists, and simple baselines."""

from __future__ import annotations

from .baselines import color_histogram, color_histogram_features
from .centralization import centralize
from .descriptions import describe_settings
from .evaluator import PartsEvaluator, Ranking, evaluate_features, rank_features
from .exact import match_ranks
from .feature_maps import backbone_map, branch_maps
from .features import Features, extract, identity_and_camera, who_and_where
from .graph import GraphReranking, GraphSettings
from .neighborhoods import Neighborhoods, find_neighborhoods
from .occlusion import occlusion_maps
from .query_expansion import expand_queries
from .ranks import MatchRanks
from .reranking import KReciprocal
from .search import RankList, average_precisions, lists_from_distances, rank_lists, topk
