"""Painting in body heights: what is where, and the stencil of it."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_parts.pedestrians.canvas import Canvas

RED, BLUE = (0, 0, 255), (255, 0, 0)


def canvas(unit: float = 40.0) -> Canvas:
    """60 columns and 80 rows; the ground is at column 30 and row 60."""
    return Canvas(np.zeros((80, 60, 3), np.uint8), 30.0, 60.0, unit, np.zeros((80, 60), np.uint8))


def painted(there: Canvas) -> np.ndarray:
    """(N, 2) rows and columns of what was painted; the stencil is of the same."""
    mask = there.image.any(axis=2)
    assert np.array_equal(there.stencil == 255, mask)
    return np.argwhere(mask)


def test_a_polygon_stands_on_the_ground_and_up_is_up() -> None:
    there = canvas()
    there.fill(np.array(((-0.25, 0.0), (0.25, 0.0), (0.25, 1.0), (-0.25, 1.0))), RED)
    rows, columns = painted(there).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((20, 60, 20, 40), abs=1)
    assert tuple(there.image[40, 30]) == RED


def test_a_disc_and_its_tilt() -> None:
    there = canvas()
    there.disc(np.array((0.0, 0.5)), 0.3, 0.1, BLUE)
    rows, columns = painted(there).T
    assert len(rows) == pytest.approx(np.pi * 12 * 4, rel=0.2)
    assert (rows.mean(), columns.mean()) == pytest.approx((40, 30), abs=0.6) and np.ptp(columns) > 2 * np.ptp(rows)
    upright = canvas()
    upright.disc(np.array((0.0, 0.5)), 0.3, 0.1, BLUE, tilt=90)
    rows, columns = painted(upright).T
    assert np.ptp(rows) > 2 * np.ptp(columns)


def test_a_texture_follows_its_axis_inside_its_outline() -> None:
    strip = np.zeros((20, 8, 3), np.uint8)
    strip[:10], strip[10:] = RED, BLUE
    outline = np.array(((-0.1, 1.0), (0.1, 1.0), (0.1, 0.0), (-0.1, 0.0)))
    for start, end, above, below in ((1.0, 0.0, RED, BLUE), (0.0, 1.0, BLUE, RED)):
        there = canvas()
        there.wrap(strip, np.array(((0.0, start), (0.0, end))), 0.1, outline)
        assert tuple(there.image[25, 30]) == above and tuple(there.image[55, 30]) == below
        rows, columns = painted(there).T
        assert np.ptp(columns) == pytest.approx(8, abs=1) and np.ptp(rows) == pytest.approx(40, abs=1)


def test_a_round_end_reaches_beyond_the_outline() -> None:
    strip, axis = np.full((4, 4, 3), 200, np.uint8), np.array(((0.0, 0.8), (0.0, 0.4)))
    outline = np.array(((-0.1, 0.8), (0.1, 0.8), (0.1, 0.4), (-0.1, 0.4)))
    tops = []
    for caps in ((), ((0, 0.1),)):
        there = canvas()
        there.wrap(strip, axis, 0.1, outline, caps)
        tops.append(painted(there)[:, 0].min())
    assert tops[0] - tops[1] == pytest.approx(4, abs=1)


def test_what_lies_outside_is_not_painted() -> None:
    there = canvas()
    outline = np.array(((5.0, 0.0), (6.0, 0.0), (6.0, 1.0)))
    there.wrap(np.full((4, 4, 3), 9, np.uint8), outline[:2], 0.1, outline)
    there.fill(outline, RED)
    assert len(painted(there)) == 0
    bare = Canvas(np.zeros((80, 60, 3), np.uint8), 30.0, 60.0, 40.0)  # without a stencil
    bare.disc(np.array((0.0, 0.5)), 0.1, 0.1, RED)
    assert bare.image.any()
