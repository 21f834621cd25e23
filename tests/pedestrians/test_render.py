"""Images of drawn people: what each nuisance does, and what is seen from where."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import cv2
import numpy as np
import pytest

from fastreid_parts.pedestrians import Nuisances, Studio, View, sample_identities, sample_view
from fastreid_parts.pedestrians.identity import Bag

from .tiny import SIZE

PERSON = sample_identities(0, 0, 1)[0]
STRENGTHS = [field.name for field in fields(Nuisances)]


@cache
def studio_with(nuisances: Nuisances) -> Studio:
    return Studio(0, 2, nuisances, SIZE)


def render(nuisances: Nuisances, draw: int) -> np.ndarray:
    return studio_with(nuisances).render(PERSON, 1, View(), np.random.default_rng(draw))


def test_with_every_nuisance_off_nothing_is_left_to_chance():
    assert np.array_equal(render(Nuisances.none(), 0), render(Nuisances.none(), 1))
    border = render(Nuisances.none(), 0)[:2]
    assert np.ptp(border) <= 2  # plain grey


@pytest.mark.parametrize("name", [name for name in STRENGTHS if name != "viewpoint"])
def test_each_nuisance_alone_changes_the_image(name):
    off, on = Nuisances.none(), replace(Nuisances.none(), **{name: 1.0})
    still = render(off, 0)
    images = [render(on, draw) for draw in range(24)]
    assert any(not np.array_equal(image, still) for image in images)
    assert len({image.tobytes() for image in images}) > 1
    weak = [render(replace(off, **{name: 0.25}), draw) for draw in range(24)]
    assert np.mean([cv2.absdiff(i, still).mean() for i in weak]) < np.mean(
        [cv2.absdiff(i, still).mean() for i in images]
    )


def test_one_nuisance_leaves_the_random_numbers_of_the_others_alone():
    scene = replace(Nuisances.none(), background=1.0)
    for draw in range(6):
        posed, upright = render(replace(scene, pose=1.0), draw), render(scene, draw)
        assert not np.array_equal(posed, upright)
        assert np.array_equal(posed[:, :2], upright[:, :2])  # scene and walkers beside the person


def test_viewpoint_decides_the_headings():
    headings = [sample_view(np.random.default_rng(k), 1.0).yaw for k in range(200)]
    assert np.mean(np.cos(headings) < -0.5) > 0.2 and np.mean(np.cos(headings) > 0.5) > 0.2
    assert np.mean(np.abs(np.sin(headings)) > 0.8) > 0.15
    frontal = [sample_view(np.random.default_rng(k), 0.0) for k in range(20)]
    assert {view.yaw for view in frontal} == {0.0}
    assert [view.across for view in frontal] == [sample_view(np.random.default_rng(k)).across for k in range(20)]


def count(image: np.ndarray, low: tuple[int, int, int], high: tuple[int, int, int]) -> int:
    return int(cv2.inRange(image, low, high).sum()) // 255


def test_a_backpack_is_seen_from_behind_and_its_straps_from_the_front():
    studio = Studio(0, 2, Nuisances.none())
    base = replace(sample_identities(0, 0, 1)[0], bag=Bag("backpack", (0, 255, 0), (255, 0, 255), 1.0))

    def seen(yaw):
        image = studio.render(base, 1, View(yaw=yaw), np.random.default_rng(0))
        return count(image, (150, 0, 150), (255, 90, 255)), count(image, (0, 90, 0), (80, 255, 80))

    (pocket_front, straps), (pocket_back, bag) = seen(0.0), seen(np.pi)
    assert pocket_front == 0 and pocket_back > 40
    assert 0 < straps < bag


def test_rendering_refuses_a_camera_that_is_not_there():
    with pytest.raises(ValueError, match="cameras 1 to 2"):
        Studio(0, 2, size=SIZE).render(sample_identities(0, 0, 1)[0], 3, View(), np.random.default_rng(0))


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), "1", True])
def test_strengths_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="nuisance 'pose'"):
        Nuisances(pose=value)
