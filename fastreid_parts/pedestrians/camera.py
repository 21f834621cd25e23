"""A camera: what it does to colors, sharpness and noise, always in the same way."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

_LUMA = np.array((0.114, 0.587, 0.299))


class Camera(NamedTuple):
    """Photometric properties of a camera.

    Attributes:
        number: from 1, as in file names.
        gain: factor of blue, green and red: the color cast together with the exposure.
        gamma: of the tone curve; above 1 darkens the middle.
        saturation: 0 is black and white, 1 keeps colors.
        hue: rotation of all colors about the grey axis, radians.
        lift: black level, 0 to 255.
        blur: sigma in pixels of a 128 pixel high image.
        resolution: part of the height in pixels that the camera really resolves.
        noise: standard deviation, 0 to 255.
        quality: of the JPEG.
        light: where the light comes from, radians, positive from the right of the image.
    """

    number: int
    gain: tuple[float, float, float]
    gamma: float
    saturation: float
    hue: float
    lift: float
    blur: float
    resolution: float
    noise: float
    quality: int
    light: float


def _levels(rng: np.random.Generator, count: int, low: float, high: float) -> list[float]:
    """`count` values that cover a range evenly, in random order, so that no seed gives alike cameras."""
    spots = (np.arange(count) + rng.uniform(0.25, 0.75, size=count)) / count
    return [float(v) for v in low + (high - low) * rng.permutation(spots)]


def make_cameras(seed: int, count: int, strength: float = 1.0) -> list[Camera]:
    """Make the cameras of a dataset.

    Args:
        seed: of the dataset.
        count: how many.
        strength: of all their departures from a perfect camera; 0 leaves only the direction of the light.

    Returns:
        Cameras 1 to `count`, the same ones for the same arguments.
    """
    rng = np.random.default_rng([seed, 5])
    warm = _levels(rng, count, -0.17, 0.17)
    green = _levels(rng, count, -0.08, 0.08)
    exposure = _levels(rng, count, -0.26, 0.2)
    gamma = _levels(rng, count, -0.2, 0.2)
    saturation = _levels(rng, count, 0.7, 1.15)
    hue = _levels(rng, count, -0.15, 0.15)
    lift = _levels(rng, count, 0, 16)
    blur = _levels(rng, count, 0.0, 0.6)
    resolution = _levels(rng, count, 0.62, 1.0)
    noise = _levels(rng, count, 2, 7)
    quality = _levels(rng, count, 66, 92)
    light = _levels(rng, count, -1.0, 1.0)
    cameras = []
    for k in range(count):
        cast = (-warm[k], green[k], warm[k])
        gain = tuple(math.exp(strength * (c + exposure[k])) for c in cast)
        cameras.append(
            Camera(
                number=k + 1,
                gain=gain,  # type: ignore[arg-type]
                gamma=math.exp(strength * gamma[k]),
                saturation=max(0.0, 1 + strength * (saturation[k] - 1)),
                hue=strength * hue[k],
                lift=strength * lift[k],
                blur=strength * blur[k],
                resolution=max(0.3, 1 + strength * (resolution[k] - 1)),
                noise=strength * noise[k],
                quality=round(max(40.0, 95 + min(1.0, strength) * (quality[k] - 95))),
                light=light[k],
            )
        )
    return cameras


def noise_tile(seed: int, camera: Camera, size: tuple[int, int]) -> np.ndarray | None:
    """Make the sensor noise of a camera, int16 (H + 256, W + 256, 3), from which each photograph takes a window.

    Args:
        seed: of the dataset.
        camera: whose noise; None comes back where it has none.
        size: (H, W) of the photographs.
    """
    if camera.noise <= 0:
        return None
    rng = np.random.default_rng([seed, 6, camera.number])
    height, width = size[0] + 256, size[1] + 256
    grain = 0.85 * rng.normal(size=(height, width, 3)) + 0.53 * rng.normal(size=(height, width, 1))
    return np.rint(camera.noise * grain).astype(np.int16)


@lru_cache(maxsize=64)
def _color_matrix(camera: Camera) -> np.ndarray:
    """(3, 4): hue rotation about the grey axis, then saturation."""
    cos, third = math.cos(camera.hue), (1 - math.cos(camera.hue)) / 3
    side = math.sin(camera.hue) / math.sqrt(3)
    a, b, c = cos + third, third - side, third + side
    rotate = np.array(((a, b, c), (c, a, b), (b, c, a)))
    saturate = camera.saturation * np.eye(3) + (1 - camera.saturation) * np.tile(_LUMA, (3, 1))
    return np.concatenate((saturate @ rotate, np.zeros((3, 1))), axis=1).astype(np.float32)


@lru_cache(maxsize=1024)
def _tone_curves(camera: Camera, stop: int) -> np.ndarray:
    """(1, 256, 3) uint8: gain, gamma and black level of each channel, at an exposure of exp(stop / 50)."""
    exposure = math.exp(stop / 50)
    level = np.arange(256)[:, None] / 255 * np.array(camera.gain) * exposure
    soft = level / (1 + np.maximum(0, level - 0.8) ** 2)  # highlights roll off
    out = camera.lift + (255 - camera.lift) * np.clip(soft, 0, 1) ** camera.gamma
    return out.clip(0, 255).astype(np.uint8)[None]


def photograph(
    image: np.ndarray, camera: Camera, exposure: float, tile: np.ndarray | None, window: tuple[float, float]
) -> np.ndarray:
    """Take a photograph of an ideal image with a camera.

    Args:
        image: (H, W, 3) uint8 BGR.
        camera: which.
        exposure: factor of this image, on top of the camera's.
        tile: of this camera, from `noise_tile`.
        window: two numbers from 0 to 1: which part of the tile to take.

    Returns:
        (H, W, 3) uint8 BGR, a new array.
    """
    height, width = image.shape[:2]
    if camera.resolution < 1:
        small = (max(1, round(width * camera.resolution)), max(1, round(height * camera.resolution)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_LINEAR)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    sigma = camera.blur * height / 128
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if camera.hue != 0 or camera.saturation != 1:
        image = cv2.transform(image, _color_matrix(camera))
    image = cv2.LUT(image, _tone_curves(camera, round(50 * math.log(exposure))))
    if tile is not None:
        y, x = int(window[0] * (tile.shape[0] - height)), int(window[1] * (tile.shape[1] - width))
        image = cv2.add(image, tile[y : y + height, x : x + width], dtype=cv2.CV_8U)
    return image
