from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fastreid.config import CfgNode

from fastreid_parts.evaluation import WHOLE, Features, evaluate_features, single_feature_results

COLUMNS = {"top": slice(0, 2), "bottom": slice(2, 4)}


@pytest.fixture
def features() -> Features:
    """Two queries and their gallery images: the first feature tells the people apart, the second is all wrong."""
    right = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1]], np.float32)
    wrong = np.array([[1, 0], [0, 1], [0.1, 1], [1, 0.1]], np.float32)
    both = np.concatenate([3 * right, wrong], axis=1)
    return Features(both, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), list("abcd"))


def test_each_feature_alone_and_all_together(tiny_cfg: Callable[..., CfgNode], features: Features) -> None:
    cfg = tiny_cfg("TEST.METRIC", "cosine")
    results = single_feature_results(features, 2, cfg, COLUMNS)
    assert list(results) == ["top", "bottom", WHOLE]
    assert results["top"]["mAP"] == results["top"]["Rank-1"] == 100
    assert results["bottom"]["mAP"] == 50 and results["bottom"]["Rank-1"] == 0
    whole = evaluate_features(features, 2, cfg)
    assert all(results[WHOLE][measure] == pytest.approx(float(whole[measure])) for measure in results[WHOLE])


def test_the_metric_is_the_configs(tiny_cfg: Callable[..., CfgNode]) -> None:
    """The right image is nearer in direction, the wrong one in distance."""
    vectors = np.array([[1, 0], [0, 5], [9, 0], [1, 1]], np.float32)
    features = Features(vectors, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), list("abcd"))
    first = {
        metric: single_feature_results(features, 2, tiny_cfg("TEST.METRIC", metric), {"f": slice(0, 2)})["f"]["Rank-1"]
        for metric in ("cosine", "euclidean")
    }
    assert first == {"cosine": 100, "euclidean": 50}


def test_named_features_alone(tiny_cfg: Callable[..., CfgNode], features: Features) -> None:
    results = single_feature_results(features, 2, tiny_cfg(), COLUMNS, ["bottom"])
    assert list(results) == ["bottom", WHOLE] and results["bottom"] == results[WHOLE]
    with pytest.raises(ValueError, match=r"has the features top, bottom, got \['middle'\]"):
        single_feature_results(features, 2, tiny_cfg(), COLUMNS, ["middle"])
    with pytest.raises(ValueError, match="features \\(none\\)"):
        single_feature_results(features, 2, tiny_cfg(), {})
