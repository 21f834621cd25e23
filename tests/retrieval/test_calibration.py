from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import roc_curve

from fastreid_parts.evaluation import Features
from fastreid_parts.retrieval import Calibration, FeatureSet, calibrate, calibrate_pairs, calibration, read_pairs


def labeled(queries: int = 40, images: int = 160, noise: float = 1.0, seed: int = 0) -> FeatureSet:
    """Of 12 identities under 4 cameras; identity or camera of some are unknown."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(12, 8))
    pids = random.integers(0, 12, queries + images)
    matrix = (centers[pids] + noise * random.normal(size=(len(pids), 8))).astype(np.float32)
    camids = random.integers(-1, 4, len(pids))
    pids = np.where(random.random(len(pids)) < 0.1, -1, pids)
    features = Features(matrix, pids, camids, [f"{row}.jpg" for row in range(len(pids))])
    return FeatureSet(features, queries, "abc", "", "Set")


def distance(a: np.ndarray, b: np.ndarray, metric: str) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "cosine":
        return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return float(np.linalg.norm(a - b))


def pairs_of(there: FeatureSet, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances and labels, pair by pair."""
    features = there.features
    starts = range(there.num_query) if there.num_query else range(len(features))
    distances, same = [], []
    for i in starts:
        for j in range(there.num_query if there.num_query else i + 1, len(features)):
            if features.pids[i] < 0 or features.pids[j] < 0:
                continue
            one = features.pids[i] == features.pids[j]
            if one and features.camids[i] == features.camids[j] >= 0:
                continue
            distances.append(distance(features.features[i], features.features[j], metric))
            same.append(one)
    return np.array(distances), np.array(same)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("queries", [40, 0])
def test_rates_are_those_of_all_pairs(metric: str, queries: int) -> None:
    there = labeled(queries)
    distances, same = pairs_of(there, metric)
    chosen = calibrate(there, metric, target=0.01)
    assert (chosen.positives, chosen.negatives) == (same.sum(), (~same).sum())
    taken = distances < chosen.threshold
    assert chosen.fpr == pytest.approx(taken[~same].mean(), abs=1e-12) and chosen.fpr <= 0.01
    assert chosen.tpr == pytest.approx(taken[same].mean(), abs=1e-12)
    fpr, tpr, _ = roc_curve(same, -distances, drop_intermediate=False)
    assert chosen.tpr == pytest.approx(tpr[fpr <= 0.01].max())
    assert (chosen.metric, chosen.criterion, chosen.target, chosen.source) == (metric, "fpr", 0.01, "Set")
    np.testing.assert_array_equal(chosen.same_person(distances.astype(np.float32)), taken)


@pytest.mark.parametrize("criterion", ["balanced", "eer"])
def test_other_criteria(criterion: str) -> None:
    there = labeled()
    distances, same = pairs_of(there, "euclidean")
    chosen = calibrate(there, "euclidean", criterion)
    fpr, tpr, _ = roc_curve(same, -distances, drop_intermediate=False)
    if criterion == "balanced":
        assert chosen.tpr - chosen.fpr == pytest.approx((tpr - fpr).max())
    else:
        assert abs(chosen.fpr - (1 - chosen.tpr)) == pytest.approx(np.abs(fpr - (1 - tpr)).min())
        assert 0.01 < chosen.fpr < 0.5
    assert chosen.target == 0


def test_people_that_lie_apart() -> None:
    there = labeled(noise=0.01)
    distances, same = pairs_of(there, "euclidean")
    for criterion in ("balanced", "eer"):
        chosen = calibrate(there, "euclidean", criterion)
        assert (chosen.fpr, chosen.tpr) == (0, 1)
        # In the middle of the gap
        assert chosen.threshold == pytest.approx((distances[same].max() + distances[~same].min()) / 2, rel=1e-3)


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [calibrate(labeled(queries), "cosine", target=0.02) for queries in (40, 0)]
    monkeypatch.setattr(calibration, "_BLOCK_PAIRS", 700)
    for queries, expected in zip((40, 0), whole):
        in_blocks = calibrate(labeled(queries), "cosine", target=0.02)
        assert (in_blocks.positives, in_blocks.negatives) == (expected.positives, expected.negatives)
        assert in_blocks.threshold == pytest.approx(expected.threshold, rel=1e-5)
        assert in_blocks.fpr_high == pytest.approx(expected.fpr_high, rel=0.05)


def test_the_interval_knows_that_pairs_share_people() -> None:
    """100 pairs of each of 50 people; all false positives are of five of them, or of all alike."""
    every = np.full(50, 100)
    concentrated = np.zeros(50)
    concentrated[:5] = 10
    low, high = calibration._interval(concentrated, every)
    even = calibration._interval(np.ones(50), every)
    binomial = beta.ppf([0.025, 0.975], [50, 51], [4951, 4950])
    np.testing.assert_allclose(even, binomial, rtol=1e-9)
    assert low < 0.6 * binomial[0] and high > 1.4 * binomial[1]
    none = calibration._interval(np.zeros(50), every)
    assert none[0] == 0 and none[1] == pytest.approx(1 - 0.025 ** (1 / 5000))  # (1 - p) ** n = 0.025
    assert calibration._interval(every, every)[1] == 1


def test_the_interval_takes_the_memory_of_one_resample() -> None:
    many = np.ones(20_000)
    tracemalloc.start()
    try:
        calibration._interval(many, many)
        assert tracemalloc.get_traced_memory()[1] < 20 * many.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_listed_pairs(metric: str) -> None:
    features = labeled().features
    random = np.random.default_rng(1)
    numbers = random.integers(0, len(features), (500, 2)).tolist()
    pairs = [(f"{a}.jpg", f"{b}.jpg", bool(features.pids[a] == features.pids[b])) for a, b in numbers]
    chosen = calibrate_pairs(features, pairs, metric, target=0.05, source="pairs.csv")
    distances = np.array([distance(features.features[a], features.features[b], metric) for a, b in numbers])
    same = np.array([pair[2] for pair in pairs])
    assert chosen.fpr == pytest.approx((distances[~same] < chosen.threshold).mean()) and 0.03 < chosen.fpr <= 0.05
    assert chosen.tpr == pytest.approx((distances[same] < chosen.threshold).mean())
    assert chosen.fpr_low < chosen.fpr < chosen.fpr_high and chosen.source == "pairs.csv"
    with pytest.raises(ValueError, match=r"no features of 'x.jpg' \(1 such"):
        calibrate_pairs(features, [*pairs, ("x.jpg", "1.jpg", True)], metric)


def test_read_pairs(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("same,image_a,image_b\n1.0,a.jpg,b/c.jpg\nno,a.jpg,/d.jpg\n")
    assert read_pairs(table) == [
        (str(tmp_path / "a.jpg"), str(tmp_path / "b/c.jpg"), True),
        (str(tmp_path / "a.jpg"), "/d.jpg", False),
    ]
    for text, message in (
        ("image_a,same\na,1\n", "no column image_b"),
        ("image_a,image_b,same\na,b,1\na,b,perhaps\n", "line 3: two images and 1 or 0"),
        ("image_a,image_b,same\na,,1\n", "line 2"),
        ("image_a,image_b,same\n", "holds no pairs"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_pairs(table)
    with pytest.raises(FileNotFoundError):
        read_pairs(tmp_path / "nothing.csv")


def with_pids(pids: Any) -> FeatureSet:
    there = labeled()
    features = there.features
    return FeatureSet(
        Features(features.features, np.broadcast_to(pids, len(features)).copy(), features.camids, features.paths),
        there.num_query, "abc", "", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("there", "words", "message"),
    [
        (labeled(), {"metric": "manhattan"}, "unknown metric"),
        (labeled(), {"criterion": "best"}, "unknown criterion 'best', choose one of: fpr, balanced, eer"),
        (labeled(), {"target": 0}, "between 0 and 1, got 0"),
        (labeled(), {"target": 1e-6}, "pairs of different people are too few .* at least 1000000, or a higher target"),
        (with_pids(-1), {}, "no image has a known identity"),
        (with_pids(3), {}, "there is no pair of different people"),
        (with_pids(np.arange(200)), {}, "there is no pair of the same person"),
    ],
)
def test_refused(there: FeatureSet, words: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(there, **words)


def test_features_that_are_no_numbers() -> None:
    there = labeled()
    there.features.features[np.flatnonzero(there.features.pids >= 0)[-1], 1] = np.nan
    with pytest.raises(ValueError, match="hold NaN"):
        calibrate(there)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("threshold", -1.0), ("threshold", np.nan), ("fpr", 1.5), ("fpr_low", None), ("tpr", "0.9"), ("tpr", True)),
        *(("positives", 1.5), ("negatives", -1), ("source", 3), ("metric", "manhattan"), ("criterion", "best")),
    ],
)
def test_a_threshold_refuses_what_none_has(name: str, value: object) -> None:
    chosen = Calibration(0.5, "cosine", "fpr", 0.001, 0.001, 0.0005, 0.002, 0.9, 100, 10000, "Set")
    with pytest.raises(ValueError, match=name):
        replace(chosen, **{name: value})
