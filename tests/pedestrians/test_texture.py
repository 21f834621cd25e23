"""Unrolled surfaces: which half is seen, how it is lit, and whose it is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fastreid_parts.pedestrians.identity import Pattern, Print, sample_identities
from fastreid_parts.pedestrians.texture import make_textures, shade, visible

PEOPLE = sample_identities(0, 0, 12)


def test_the_half_that_faces_the_viewer() -> None:
    # Columns go around from the back over the person's right, the front and the left to the back
    texture = np.zeros((2, 64, 3), np.uint8)
    texture[:, :16], texture[:, 16:48], texture[:, 48:] = 10, 200, 10
    front, back, side = (visible(texture, yaw, 16) for yaw in (0.0, math.pi, math.pi / 2))
    assert front.shape == (2, 16, 3) and (front == 200).all() and (back == 10).all()
    assert sorted(np.unique(side).tolist()) == [10, 200] and (side == 200).mean() == 0.5
    assert np.array_equal(visible(texture, 2 * math.pi, 16), front)
    ramp = np.arange(64, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    columns = visible(ramp, 0.0, 16)[0, :, 0].astype(int)
    assert (np.diff(columns) > 0).all()
    assert np.diff(columns)[0] > np.diff(columns)[8]  # a cylinder: its edges turn away


def test_light_from_a_side() -> None:
    strip = np.full((3, 20, 3), 200, np.uint8)
    right, left = shade(strip, 0.8), shade(strip, -0.8)
    assert right[:, 15].mean() > right[:, 4].mean() + 20 and np.array_equal(right, left[:, ::-1])
    assert right.max() <= 200 and shade(strip, 0.8, contrast=1.0).min() < right.min()
    even = shade(strip, 0.8, contrast=0.0)
    assert np.array_equal(even, even[:, ::-1])


def test_people_have_surfaces_of_their_own() -> None:
    textures = [make_textures(person) for person in PEOPLE]
    assert len({texture.torso.tobytes() for texture in textures}) == len(PEOPLE)
    for person, texture in zip(PEOPLE, textures):
        assert (texture.skirt is not None) == (person.top.kind in ("coat", "dress") or person.bottom.kind == "skirt")
        assert all(part is None or (part.dtype == np.uint8 and part.ndim == 3) for part in texture)
    make_textures.cache_clear()
    again = make_textures(PEOPLE[0])
    assert all(np.array_equal(a, b) for a, b in zip(again, textures[0]) if a is not None)


def test_patterns_and_prints_are_seen() -> None:
    plain = replace(
        PEOPLE[0], printed=Print(), top=PEOPLE[0].top._replace(kind="jumper", pattern=Pattern(), color=(90, 90, 90))
    )
    torsos = {"plain": make_textures(plain).torso}
    for kind in ("stripes", "bars", "checks", "dots", "two_tone"):
        pattern = Pattern(kind, (255, 255, 255), 0.06, 0.0)
        torsos[kind] = make_textures(replace(plain, top=plain.top._replace(pattern=pattern))).torso
        assert torsos[kind].std() > torsos["plain"].std() + 5
    assert len({torso.tobytes() for torso in torsos.values()}) == 6
    for on_back in (False, True):
        printed = make_textures(replace(plain, printed=Print("disc", (255, 255, 255), on_back))).torso
        changed = (printed != torsos["plain"]).any(axis=(0, 2))
        assert changed[len(changed) // 2] and changed[[0, -1]].all() == on_back  # the chest in any case
