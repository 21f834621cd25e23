"""How well each single feature of a representation retrieves (RRID, Park and Ham, AAAI 2020, Tables 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from fastreid.config import CfgNode

from .evaluator import evaluate_features
from .features import Features

__all__ = ["WHOLE", "single_feature_results"]

#: Name of the representation itself, beside the names of its features.
WHOLE = "all features"

#: What the evaluator measures, in percent.
_MEASURES = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")


def single_feature_results(
    features: Features, num_query: int, cfg: CfgNode, columns: Mapping[str, slice], names: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Evaluation of every single feature, and of all of them side by side.

    Each is compared by itself: with the metric `cosine` every feature is normalised alone.

    Args:
        features: representations of the query images and then of the gallery, taken once.
        num_query: how many of them are queries.
        cfg: its TEST section says which metric, re-ranking and query expansion to use.
        columns: where each feature lies in a representation, as from `parts_baseline.feature_columns`.
        names: the features to evaluate, default all of them.

    Returns:
        {name of a feature, last `WHOLE`: {`mAP`, `Rank-1`, `Rank-5`, `Rank-10`, `mINP`: percent}}.

    Raises:
        ValueError: there are no features, or none of such a name; query or gallery is empty.
    """
    names = list(names or columns)
    unknown = [name for name in names if name not in columns]
    if unknown or not names:
        raise ValueError(f"the representation has the features {', '.join(columns) or '(none)'}, got {unknown}")
    single = {name: features.features[:, columns[name]] for name in names}
    single[WHOLE] = np.concatenate(list(single.values()), axis=1)
    results = {}
    for name, values in single.items():
        measured = evaluate_features(replace(features, features=values), num_query, cfg)
        results[name] = {measure: float(measured[measure]) for measure in _MEASURES}
    return results
