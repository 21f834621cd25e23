"""Who is seen where: counts, and a match under another camera for every query."""

from __future__ import annotations

from collections import Counter

import pytest

from fastreid_parts.pedestrians import SCALES, Scale, plan
from fastreid_parts.pedestrians.plan import GALLERY, QUERY, TRAIN

from .tiny import TINY


@pytest.mark.parametrize("scale", [TINY, SCALES["small"], SCALES["market"]], ids=["tiny", "small", "market"])
def test_plan_has_exact_counts_and_a_cross_camera_match_for_every_query(scale):
    shots = plan(scale, 3)
    assert len({(shot.folder, shot.name) for shot in shots}) == len(shots)
    assert plan(scale, 3) == shots and plan(scale, 4) != shots
    train = [shot for shot in shots if shot.folder == TRAIN]
    query = [shot for shot in shots if shot.folder == QUERY]
    gallery = [shot for shot in shots if shot.folder == GALLERY]
    kinds = Counter(min(shot.pid, 1) for shot in gallery)
    assert (len(train), len(query)) == (scale.train_images, scale.queries)
    assert (kinds[1], kinds[0], kinds[-1]) == (scale.gallery, scale.distractors, scale.junk)
    assert {shot.pid for shot in train} == set(range(1, scale.train_ids + 1))
    assert {shot.pid for shot in query} == set(range(scale.train_ids + 1, scale.train_ids + scale.test_ids + 1))
    assert {shot.camera for shot in shots} == set(range(1, scale.cameras + 1))
    assert len({(shot.pid, shot.camera) for shot in query}) == len(query)
    cameras: dict[int, set[int]] = {}
    for shot in gallery:
        cameras.setdefault(shot.pid, set()).add(shot.camera)
    assert all(cameras[shot.pid] - {shot.camera} for shot in query)
    assert all(len({s.camera for s in train if s.pid == pid}) > 1 for pid in range(1, 5))


def test_market_scale_is_as_large_as_market():
    assert SCALES["market"] == Scale(751, 12936, 750, 3368, 13115, 2798, 3819, 6)
    assert SCALES["market"].gallery + SCALES["market"].distractors == 15913


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": 1}, "at least 2 cameras"),
        ({"train_images": 7}, "too few for 4 training"),
        ({"queries": 5}, "6 to 9 queries"),
        ({"queries": 10}, "6 to 9 queries"),
        ({"gallery": 6}, "too few for 7 queries"),
    ],
)
def test_scales_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plan(TINY._replace(**change), 0)
