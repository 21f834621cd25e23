"""Bags, hair and hats: where they are, and before or after what they are painted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fastreid_parts.pedestrians.canvas import Canvas
from fastreid_parts.pedestrians.extras import bag_layer, draw_bag, draw_hair, draw_hat
from fastreid_parts.pedestrians.identity import Bag, Hair, Hat, Identity, sample_identities
from fastreid_parts.pedestrians.pose import Gait, pose

BASE = sample_identities(0, 0, 1)[0]
GREEN, PINK = (0, 255, 0), (255, 0, 255)


def person(bag: str = "none", hair: str = "bald", hat: str = "none") -> Identity:
    return replace(BASE, bag=Bag(bag, GREEN, PINK, 1.0), hair=Hair(hair, GREEN), hat=Hat(hat, GREEN))


def rows_of(draw, who: Identity, yaw: float = 0.0) -> np.ndarray:
    """Heights above the ground, in body heights, of what is painted."""
    canvas = Canvas(np.zeros((240, 120, 3), np.uint8), 60.0, 220.0, 200.0, np.zeros((240, 120), np.uint8))
    draw(canvas, who, pose(who.body, Gait(), yaw, 0.0))
    return (220 - np.argwhere(canvas.stencil)[:, 0]) / 200


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("none", (-1, -1, -1)), ("backpack", (0, 1, 1)), ("shoulder", (1, 0, 1)), ("handbag", (2, 2, 2))],
)
def test_when_a_bag_is_painted(kind: str, layers: tuple[int, int, int]) -> None:
    who = person(kind)
    if kind == "handbag":  # a hand in front of the body: over everything
        assert bag_layer(who, pose(who.body, Gait(bend=(1.0, 1.0)), 0.0, 0.0)) == 2
        assert bag_layer(who, pose(who.body, Gait(bend=(1.0, 1.0)), math.pi, 0.0)) == 0
        return
    assert tuple(bag_layer(who, pose(who.body, Gait(), yaw, 0.0)) for yaw in (0.0, 2.0, math.pi)) == layers


def test_where_bags_are() -> None:
    assert len(rows_of(draw_bag, person())) == 0
    backpack, handbag, shoulder = (
        rows_of(draw_bag, person(kind), math.pi) for kind in ("backpack", "handbag", "shoulder")
    )
    assert 0.6 < backpack.mean() < 0.8 and 0.45 < shoulder.mean() < 0.6 and handbag.mean() < 0.5
    larger = replace(person("backpack"), bag=Bag("backpack", GREEN, PINK, 1.3))
    assert len(rows_of(draw_bag, larger, math.pi)) > 1.3 * len(backpack)


def test_hair_by_its_length() -> None:
    lowest = {
        kind: rows_of(draw_hair, person(hair=kind))
        for kind in ("bald", "buzz", "short", "bob", "long", "afro", "bun", "ponytail")
    }
    assert all(len(lowest[kind]) == 0 for kind in ("bald", "buzz", "short"))  # painted on the head itself
    assert lowest["long"].min() < lowest["bob"].min() - 0.05 and lowest["bob"].min() < lowest["afro"].min()
    assert lowest["bun"].min() > 0.9 and lowest["ponytail"].min() < 0.85


def test_hats_are_on_the_head() -> None:
    assert len(rows_of(draw_hat, person())) == 0
    hats = [rows_of(draw_hat, person(hat=kind)) for kind in ("cap", "beanie", "brim")]
    assert all(len(rows) > 50 and rows.min() > 0.88 for rows in hats)
    assert len({len(rows) for rows in hats}) == 3
