"""Scores of identities against counts by hand and the numbers of motmetrics and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, precision_recall_curve

from fastreid_parts.identification.scores import identification_scores, rejection_curve

# Found and true identities, numbers of images, and idf1 by motmetrics 1.4.0, each image a frame
BY_MOTMETRICS = [
    ([2, 2, 1, 1, 0, 0, 0, 0], [3, 2, 3, 2, 2, 3, 2, 2], [3, 3, 5, 2, 5, 4, 1, 2], 0.52),
    ([2, 0, 3, 2, 3, 0, 0, 3], [0, 2, 0, 1, 1, 1, 1, 0], [1, 1, 1, 4, 3, 4, 2, 4], 0.55),
    ([1, 1, 3, 3, 3, 1, 2], [3, 2, 3, 2, 2, 1, 3], [1, 3, 4, 5, 3, 2, 2], 0.6),
    ([1, 2, 3, 0, 3], [2, 1, 2, 2, 1], [2, 4, 3, 3, 2], 0.5),
    ([1, 1, 3, 1, 0, 2, 2], [0, 0, 1, 3, 1, 3, 1], [2, 4, 5, 1, 1, 4, 2], 0.7894736842105263),
    ([0, 3, 1, 3, 3, 2], [0, 3, 0, 2, 1, 3], [1, 5, 1, 4, 3, 5], 0.5263157894736842),
]


def test_they_are_what_they_say() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        size = int(random.integers(2, 9))
        found, true = random.integers(0, 3, size).tolist(), random.integers(0, 4, size).tolist()
        images = random.integers(1, 6, size)
        scores = identification_scores(found, true, images)
        best = 0
        people = [*sorted(set(true)), *[None] * 3]
        for order in itertools.permutations(people, len(set(found))):
            assigned = dict(zip(sorted(set(found)), order))
            best = max(best, sum(n for one, who, n in zip(found, true, images) if assigned[one] == who))
        assert scores["IDF1"] == pytest.approx(best / images.sum())
        pairs = list(itertools.combinations(range(size), 2))
        joined = {pair for pair in pairs if found[pair[0]] == found[pair[1]]}
        same = {pair for pair in pairs if true[pair[0]] == true[pair[1]]}
        assert scores["pairwise_precision"] == (len(joined & same) / len(joined) if joined else 1)
        assert scores["pairwise_recall"] == (len(joined & same) / len(same) if same else 1)
        assert (scores["identities"], scores["people"]) == (len(set(found)), len(set(true)))
    perfect = identification_scores(["a", "b", "a"], [1, 2, 1], [1, 1, 1])
    assert {perfect[name] for name in ("IDF1", "pairwise_F1", "adjusted_rand")} == {1.0}
    with pytest.raises(ValueError, match="2 identities found for 1 tracklets"):
        identification_scores([1, 2], [1], [1, 1])
    with pytest.raises(ValueError):
        identification_scores([], [], [])


@pytest.mark.parametrize(("found", "true", "images", "idf1"), BY_MOTMETRICS)
def test_they_are_those_of_motmetrics_and_scikit_learn(
    found: list[int], true: list[int], images: list[int], idf1: float
) -> None:
    scores = identification_scores(found, true, images)
    assert scores["IDF1"] == pytest.approx(idf1, abs=1e-12)
    assert scores["adjusted_rand"] == pytest.approx(adjusted_rand_score(true, found))


def test_a_rejection_curve_counted_by_hand() -> None:
    curve = rejection_curve([0.1, 0.5, np.nan, 0.1, 0.3], [False, True, True, True, False])
    assert curve.margin.tolist() == [np.inf, 0.5, 0.3, 0.1]
    assert curve.answered.tolist() == [0.2, 0.4, 0.6, 1.0]
    assert curve.right.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 5])
    # Trapezoids: 0.2 and 0.2 wide at 1, then down to 2/3, then to 3/5
    assert curve.area == pytest.approx(0.4 + 0.2 * (1 + 2 / 3) / 2 + 0.4 * (2 / 3 + 3 / 5) / 2)
    assert rejection_curve([1.0], [False]).area == 0
    with pytest.raises(ValueError, match="0 margins of 0"):
        rejection_curve([], [])
    with pytest.raises(ValueError, match="1 margins of 2"):
        rejection_curve([1.0], [True, False])


def test_a_rejection_curve_has_the_precisions_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    margins, right = random.integers(0, 12, 60) / 10, random.random(60) < 0.7
    curve = rejection_curve(margins, right)
    precision, _, thresholds = precision_recall_curve(right, margins)
    assert np.array_equal(curve.margin, thresholds[::-1])
    assert np.allclose(curve.right, precision[:-1][::-1])
    assert np.allclose(curve.answered, [(margins >= one).mean() for one in thresholds[::-1]])
