"""Constrained clustering against a slow one that does what the definition says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastreid_parts.identification import batch
from fastreid_parts.identification.batch import cluster
from fastreid_parts.identification.constraints import Constraints, Rules
from fastreid_parts.identification.distances import Compared, TrackletDistances

from .sightings import prepared, walks

RULES = Rules(travel={("c0", "c1"): (8.0, np.inf), ("c2", "c2"): (10.0, 60.0)})


def slow(distances: TrackletDistances, constraints: Constraints, threshold: float, linkage: str) -> list[int]:
    """Join the two nearest clusters that may be joined, again and again; first those that corrections join."""
    every = np.arange(len(distances))
    table = distances.block(every, every).astype(np.float64)
    apart = constraints.forbidden(every, every)
    clusters = [np.flatnonzero(constraints.together == group).tolist() for group in np.unique(constraints.together)]
    while True:
        best = (threshold, -1, -1)
        for a, b in itertools.combinations(range(len(clusters)), 2):
            pairs = np.ix_(clusters[a], clusters[b])
            if not apart[pairs].any():
                best = min(best, (table[pairs].mean() if linkage == "average" else table[pairs].max(), a, b))
        if best[1] < 0:
            break
        clusters[best[1]] += clusters.pop(best[2])
    clusters.sort(key=min)
    return [next(n for n, members in enumerate(clusters) if place in members) for place in every]


@pytest.mark.parametrize("linkage", batch.LINKAGES)
@pytest.mark.parametrize(
    "compared", [Compared(), Compared("pairs", "euclidean", best=2, images=3)], ids=lambda c: c.kind
)
def test_it_is_what_the_definition_says(linkage: str, compared: Compared) -> None:
    acted = set()
    for seed in range(12):
        data = walks(noise=0.5, seed=seed)
        threshold = (0.25 if compared.metric == "cosine" else 3.0) * (1 + seed % 3) / 2
        corrections = [] if seed % 2 else [(0, 20, True), (20, 31, True), (3, 7, False), (1, 2, False)]
        try:
            distances, constraints = prepared(data, compared, RULES, corrections)
        except ValueError as error:
            assert "cannot be one person" in str(error)
            continue
        found, merges = cluster(distances, constraints, threshold, linkage)
        assert found.tolist() == slow(distances, constraints, threshold, linkage), seed
        free = Constraints(constraints.sighted)
        acted.add(slow(distances, free, threshold, linkage) != found.tolist())
        # The joins are those that the identities came from
        rebuilt = {place: {place} for place in range(len(found))}
        for merge in merges:
            both = {*merge.one.tolist(), *merge.other.tolist()}
            assert rebuilt[int(merge.one[0])] == {*merge.one.tolist()} and merge.distance < threshold
            assert rebuilt[int(merge.other[0])] == {*merge.other.tolist()}
            rebuilt.update(dict.fromkeys(both, both))
        assert all(found[a] == found[b] for a, members in rebuilt.items() for b in members)
        assert len({id(members) for members in rebuilt.values()}) == len(set(found.tolist()))
    assert True in acted  # what is forbidden changed something


def test_nobody_is_at_two_places_at_once() -> None:
    data = walks(people=20, noise=0.9, seed=4)
    distances, constraints = prepared(data)
    found, _ = cluster(distances, constraints, 0.9)
    _, _, _, _, start, end, _ = data
    together = [(a, b) for a, b in itertools.combinations(range(len(found)), 2) if found[a] == found[b]]
    assert len(together) > 30
    assert not [pair for pair in together if max(start[[*pair]]) <= min(end[[*pair]])]


def test_the_number_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    distances, constraints = prepared(walks(people=15, noise=0.5, seed=2))
    whole, _ = cluster(distances, constraints, 0.4)
    monkeypatch.setattr(TrackletDistances, "row_blocks", lambda self: [slice(n, n + 7) for n in range(0, len(self), 7)])
    assert cluster(distances, constraints, 0.4)[0].tolist() == whole.tolist()


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    distances, constraints = prepared(walks())
    with pytest.raises(ValueError, match="unknown linkage 'single', choose one of: average, complete"):
        cluster(distances, constraints, 0.4, "single")
    for threshold in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="the threshold is a distance above 0"):
            cluster(distances, constraints, threshold)
    monkeypatch.setattr(batch, "LARGEST", 5)
    with pytest.raises(ValueError, match="at most 5 are clustered together: take a lower threshold, or mode streaming"):
        cluster(distances, constraints, 5.0)
