"""A whole person on a canvas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fastreid_parts.pedestrians.canvas import Canvas
from fastreid_parts.pedestrians.figure import Light, draw_figure
from fastreid_parts.pedestrians.identity import Bag, Hair, Hat, Identity, Shoes, sample_identities
from fastreid_parts.pedestrians.pose import Gait
from fastreid_parts.pedestrians.texture import make_textures

BASE = sample_identities(0, 0, 1)[0]
PERSON = replace(
    BASE, bag=Bag("none", (0, 0, 0), (0, 0, 0), 1.0), hat=Hat("none", (0, 0, 0)), hair=Hair("short", (30, 30, 30))
)
DAY = Light()


def drawn(person: Identity = PERSON, yaw: float = 0.0, light: Light = DAY, **gait) -> Canvas:
    canvas = Canvas(np.full((220, 120, 3), 128, np.uint8), 60.0, 210.0, 190.0, np.zeros((220, 120), np.uint8))
    draw_figure(canvas, person, make_textures(person), yaw, Gait(**gait), light)
    return canvas


def count(canvas: Canvas, color: tuple[int, int, int], near: int = 60) -> int:
    return int((np.abs(canvas.image.astype(int) - color).max(axis=2) < near).sum())


@pytest.mark.parametrize("yaw", [0.0, 1.0, math.pi / 2, math.pi, 5.0])
def test_a_person_stands_on_the_ground_and_is_as_high_as_the_unit(yaw: float) -> None:
    rows, columns = np.nonzero(drawn(yaw=yaw).stencil)
    assert abs(rows.max() - 210) < 6 and abs(np.ptp(rows) - 190) < 12
    assert abs(columns.mean() - 60) < 6 and 25 < np.ptp(columns) < 90
    assert np.array_equal(drawn(yaw=yaw).image, drawn(yaw=yaw).image)


def test_a_face_is_seen_from_the_front_and_hair_from_behind() -> None:
    person = replace(PERSON, hair=Hair("short", (0, 200, 0)))
    assert count(drawn(person, math.pi), (0, 180, 0)) > 2 * count(drawn(person), (0, 180, 0)) > 0


def test_steps_light_and_clothes_change_what_is_seen() -> None:
    plain = drawn()
    assert np.ptp(np.nonzero(drawn(yaw=math.pi / 2, stride=1.0, phase=1.5).stencil)[1]) > 1.3 * np.ptp(
        np.nonzero(drawn(yaw=math.pi / 2).stencil)[1]
    )
    left, right = drawn(light=Light(-1.0, 0.8)), drawn(light=Light(1.0, 0.8))
    brighter = right.image.astype(int).sum(axis=2) - left.image.astype(int).sum(axis=2)
    inside = plain.stencil > 0
    assert brighter[:, 62:][inside[:, 62:]].mean() > 10 and brighter[:, :58][inside[:, :58]].mean() < -10
    shod = replace(PERSON, shoes=Shoes("boots", (255, 0, 255)))
    rows = np.argwhere((drawn(shod).image != plain.image).any(axis=2))[:, 0]
    assert len(rows) > 20 and rows.min() > 150  # at the feet alone
