"""Scores of identities against counts by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastreid_parts.identification.scores import identification_scores


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
