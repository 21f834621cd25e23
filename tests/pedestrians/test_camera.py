"""Cameras: what each does to an image, and that it always does it."""

from __future__ import annotations

import numpy as np

from fastreid_parts.pedestrians.camera import Camera, make_cameras, noise_tile, photograph

PERFECT = Camera(1, (1.0, 1.0, 1.0), 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 95, 0.0)
IMAGE = np.random.default_rng(0).integers(0, 200, (64, 32, 3)).astype(np.uint8)  # below where highlights roll off


def shot(image: np.ndarray = IMAGE, exposure: float = 1.0, tile: np.ndarray | None = None, **changes) -> np.ndarray:
    return photograph(image, PERFECT._replace(**changes), exposure, tile, (0.25, 0.75))


def test_cameras_are_those_of_the_seed_and_none_is_like_another() -> None:
    cameras = make_cameras(0, 6)
    assert [camera.number for camera in cameras] == [1, 2, 3, 4, 5, 6]
    assert make_cameras(0, 6) == cameras and not set(make_cameras(1, 6)) & set(cameras)
    for values in zip(*(camera[1:] for camera in cameras)):
        assert len(set(values)) > 3
    perfect = make_cameras(0, 6, strength=0.0)
    assert {camera._replace(number=1, light=0.0) for camera in perfect} == {PERFECT}
    assert [camera.light for camera in perfect] == [camera.light for camera in cameras]


def test_a_perfect_camera_changes_next_to_nothing() -> None:
    before = IMAGE.copy()
    taken = shot()
    assert np.abs(taken.astype(int) - IMAGE).max() <= 2 and taken is not IMAGE
    assert np.array_equal(IMAGE, before) and np.array_equal(taken, shot())


def test_exposure_gain_gamma_and_black_level_move_the_brightness() -> None:
    plain = shot().mean()
    assert shot(exposure=1.3).mean() > plain + 10 and shot(exposure=0.7).mean() < plain - 10
    assert shot(gamma=1.3).mean() < plain - 5 and shot(gamma=0.7).mean() > plain + 5
    assert shot(lift=20.0).min() >= 20 > shot().min()
    warm = shot(gain=(0.8, 1.0, 1.2)).mean(axis=(0, 1)) - shot().mean(axis=(0, 1))
    assert warm[0] < -10 and abs(warm[1]) < 1 and warm[2] > 10


def test_without_saturation_nothing_has_a_color_and_a_hue_turns_colors_alone() -> None:
    grey = shot(saturation=0.0)
    assert np.ptp(grey.astype(int), axis=2).max() <= 1 and np.ptp(shot().astype(int), axis=2).max() > 50
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 180
    assert shot(red)[..., 0].max() == 0 and shot(red, hue=1.0)[..., 0].min() > 60
    flat = np.full((8, 8, 3), 90, np.uint8)
    assert np.abs(shot(flat, hue=1.0).astype(int) - shot(flat)).max() <= 1


def test_blur_and_resolution_take_detail() -> None:
    detail = np.diff(shot().astype(int), axis=0).std()
    assert np.diff(shot(blur=2.0).astype(int), axis=0).std() < 0.8 * detail
    assert np.diff(shot(resolution=0.4).astype(int), axis=0).std() < 0.8 * detail
    assert shot(resolution=0.4).shape == IMAGE.shape


def test_noise_is_a_window_of_the_cameras_tile() -> None:
    assert noise_tile(0, PERFECT, (64, 32)) is None
    noisy = PERFECT._replace(noise=6.0)
    tile = noise_tile(0, noisy, (64, 32))
    assert tile.shape == (320, 288, 3) and tile.dtype == np.int16
    assert abs(tile.std() - 6.0) < 0.3 and np.array_equal(tile, noise_tile(0, noisy, (64, 32)))
    assert not np.array_equal(tile, noise_tile(0, noisy._replace(number=2), (64, 32)))
    flat = np.full((64, 32, 3), 120, np.uint8)
    taken = [photograph(flat, noisy, 1.0, tile, window) for window in ((0.0, 0.0), (1.0, 1.0), (0.0, 0.0))]
    assert np.array_equal(taken[0], taken[2]) and not np.array_equal(taken[0], taken[1])
    assert abs(taken[0].std() - 6.0) < 1
