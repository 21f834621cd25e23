"""Scenes: six kinds of place with a geometry that people fit into."""

from __future__ import annotations

import numpy as np

from fastreid_parts.pedestrians.scene import MARGIN, WIDTH, make_scene


def test_every_camera_has_a_place_of_its_own() -> None:
    scenes = [make_scene(0, camera) for camera in range(1, 8)]
    for scene in scenes:
        assert scene.image.shape == (480 + 2 * MARGIN, WIDTH + 2 * MARGIN, 3) and scene.image.dtype == np.uint8
        assert scene.horizon < scene.far < scene.near < 480
        assert 60 < scene.rise * (scene.far - scene.horizon) < scene.rise * (scene.near - scene.horizon) < 300
        assert 0.06 <= scene.pitch <= 0.22
        inner = scene.image[MARGIN : MARGIN + 480, MARGIN : MARGIN + WIDTH]
        assert inner.std() > 10  # there is something to see
        assert np.array_equal(scene.image[MARGIN : MARGIN + 480, :MARGIN], inner[:, MARGIN - 1 :: -1])  # mirrored
    assert len({scene.image.tobytes() for scene in scenes}) == 7
    assert np.array_equal(make_scene(0, 3).image, scenes[2].image)
    assert not np.array_equal(make_scene(1, 3).image, scenes[2].image)
