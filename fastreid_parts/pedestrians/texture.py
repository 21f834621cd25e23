"""The surfaces of a figure, unrolled: fabric, prints, straps, skin, hair and face.

A texture is (T, W, 3): rows run down the body part, columns around it, from angle -pi over the front (0) to pi. Angles
grow towards the left hand of the person. Turning the person by `yaw` rolls the columns and shows half of them.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from .color import Color, toned
from .identity import Garment, Identity, Pattern

SHOULDER, CROTCH, ANKLE = 0.855, 0.47, 0.04  # heights where the textures of torso and legs start and end
LEG_LENGTH, ARM_LENGTH, TORSO_RADIUS = 0.46, 0.32, 0.105


class Textures(NamedTuple):
    """The unrolled surfaces of one identity, uint8 BGR; `skirt` is what hangs below the hips, where something does."""

    torso: np.ndarray
    hips: np.ndarray
    leg: np.ndarray
    arm: np.ndarray
    head: np.ndarray
    skirt: np.ndarray | None


def visible(texture: np.ndarray, yaw: float, columns: int) -> np.ndarray:
    """Take the half of a texture that faces the viewer.

    Args:
        texture: (T, W, 3), unrolled.
        yaw: heading in radians; 0 faces the viewer, pi turns its back, pi/2 walks to the right of the image.
        columns: width S of what comes back.

    Returns:
        (T, S, 3): what an upright cylinder with this surface shows, from its left edge to its right edge.
    """
    return texture.take(_shown(columns, texture.shape[1], round(math.degrees(yaw)) % 360), axis=1)


@lru_cache(maxsize=4096)
def _shown(columns: int, width: int, degrees: int) -> np.ndarray:
    """Which columns of a texture, `width` wide, are seen from a heading."""
    turned = _angles(columns) - math.radians(degrees) + math.pi
    return np.floor(turned * (width / (2 * math.pi))).astype(np.intp) % width


@cache
def _angles(columns: int) -> np.ndarray:
    return np.arcsin((np.arange(columns) + 0.5) / columns * 2 - 1)


@lru_cache(maxsize=512)
def _shading(rows: int, columns: int, light: float, contrast: float) -> np.ndarray:
    lit = np.cos(_angles(columns) - light).clip(0)
    rim = 1 - 0.25 * np.abs(np.linspace(-1, 1, columns)) ** 4
    level = (1 - contrast + contrast * lit) * rim * 255
    # contiguous, or OpenCV would copy it at every use
    return np.ascontiguousarray(np.broadcast_to(level[None, :, None], (rows, columns, 3)), np.uint8)


def shade(strip: np.ndarray, light: float, contrast: float = 0.5) -> np.ndarray:
    """Shade a visible half as a cylinder that is lit from a side.

    Args:
        strip: (T, S, 3), from `visible`.
        light: direction of the light in radians, positive from the right.
        contrast: between the lit and the dark side.
    """
    rows, columns = strip.shape[:2]
    return cv2.multiply(strip, _shading(rows, columns, light, contrast), scale=1 / 255)


def _grid(rows: int, columns: int, radius: float, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angle (1, W), distance around (1, W) and distance down (T, 1), the distances in body heights."""
    angle = ((np.arange(columns) + 0.5) / columns * 2 - 1)[None] * np.pi
    down = ((np.arange(rows) + 0.5) / rows * length)[:, None]
    return angle, angle * radius, down


@lru_cache(maxsize=1)
def _folds() -> tuple[np.ndarray, ...]:
    """Soft wrinkles, (96, 192) factors around 1, the same in every data set and seamless at the back."""
    rng = np.random.default_rng(20150101)
    maps = []
    for _ in range(8):
        total = np.zeros((96, 192), np.float32)
        for rows, columns, weight in ((6, 8, 0.07), (18, 14, 0.05)):
            low = rng.normal(size=(rows, columns)).astype(np.float32)
            low = np.concatenate([low[:, -2:], low, low[:, :2]], axis=1)
            wide = cv2.resize(low, (192 * (columns + 4) // columns, 96), interpolation=cv2.INTER_CUBIC)
            start = (wide.shape[1] - 192) // 2
            total += weight * wide[:, start : start + 192]
        slant = np.sin(np.arange(192)[None] * 0.131 + np.arange(96)[:, None] * rng.uniform(0.1, 0.25))
        maps.append(np.clip(1 + total + 0.03 * slant, 0.72, 1.15).astype(np.float32))
    return tuple(maps)


def _fold(key: int, rows: int, columns: int) -> np.ndarray:
    maps = _folds()
    return cv2.resize(np.roll(maps[key % len(maps)], key % 192, axis=1), (columns, rows))[..., None]


def _wave(distance: np.ndarray, pitch: float, phase: float) -> np.ndarray:
    return np.clip(0.5 + 2 * np.sin(2 * np.pi * (distance / pitch + phase)), 0, 1)


def _fabric(color: Color, pattern: Pattern, around: np.ndarray, down: np.ndarray, length: float) -> np.ndarray:
    """(T, W, 3) float32: a color with its pattern, before folds."""
    shape = (down.shape[0], around.shape[1])
    p, phase = pattern.pitch, pattern.phase
    if pattern.kind == "stripes":
        second = _wave(down, p, phase)
    elif pattern.kind == "bars":
        second = _wave(around, p, phase)
    elif pattern.kind == "checks":
        second = (_wave(around, p, phase) + _wave(down, p, phase)) / 2
    elif pattern.kind == "dots":
        row = np.floor(down / p + phase)
        dx = (around / p + 0.5 * (row % 2)) % 1 - 0.5
        dy = (down / p + phase) % 1 - 0.5
        second = np.clip((0.36 - np.sqrt(dx**2 + dy**2)) * 8, 0, 1)
    elif pattern.kind == "two_tone":
        second = np.clip((length * (0.36 + 0.3 * phase) - down) * 200, 0, 1)
    else:
        return np.broadcast_to(np.float32(color), (*shape, 3)).copy()
    second = np.broadcast_to(second, shape)[..., None].astype(np.float32)
    return np.float32(color) * (1 - second) + np.float32(pattern.second) * second


def _blend(image: np.ndarray, mask: np.ndarray, color: Color) -> None:
    """Lay a color over `image` where `mask` (broadcast to (T, W), true or false or 0 to 1) says."""
    if mask.dtype == bool:
        image[np.broadcast_to(mask, image.shape[:2])] = color
        return
    weight = np.broadcast_to(mask, image.shape[:2])[..., None].astype(np.float32)
    image += weight * (np.float32(color) - image)


def _print_mask(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A printed shape about (0, 0), about 0.1 wide."""
    if kind == "logo":
        return (np.abs(x) < 0.021) & (np.abs(y) < 0.018)
    if kind == "disc":
        return x**2 + y**2 < 0.05**2
    if kind == "square":
        return (np.abs(x) < 0.045) & (np.abs(y) < 0.04)
    if kind == "triangle":
        return (y < 0.045) & (y > -0.05) & (np.abs(x) < (y + 0.05) * 0.6)
    if kind == "band":
        return (np.abs(y) < 0.02) & (np.abs(x) < 1)
    return ((np.abs(x) < 0.012) & (np.abs(y) < 0.055)) | ((np.abs(y + 0.04) < 0.013) & (np.abs(x) < 0.045))  # letter


def _torso(person: Identity) -> np.ndarray:
    top, length = person.top, SHOULDER - person.top.hem
    rows, columns = 96, 192
    angle, x, y = _grid(rows, columns, TORSO_RADIUS, length)
    image = _fabric(top.color, top.pattern, x, y, length)
    is_open = top.kind in ("jacket", "coat")
    width = (0.2 + 0.22 * (y / length)) if is_open else 0.0
    if is_open:
        _blend(image, np.abs(angle) < width + 0.13, toned(top.color, 0.75))
        _blend(image, np.abs(angle) < width, top.inner)
    elif top.kind == "jumper":
        _blend(image, y > length - 0.02, toned(top.color, 0.8))
    elif top.kind == "dress":
        _blend(image, np.abs(y - 0.225) < 0.012, toned(top.color, 0.55))
    _add_print(image, person, angle, x, y)
    neck = 0.03 + (0.012 if top.kind in ("shirt", "vest", "dress") else 0.0)
    _blend(image, (y < neck) & (np.abs(x) < 0.045 - y * 0.5), person.body.skin)
    if top.kind == "vest":
        _blend(image, (y < 0.09) & (np.abs(np.sin(angle)) > 0.8), person.body.skin)
    _blend(image, (y < 0.022) & (np.abs(angle) > 1.2) & (np.abs(angle) < 1.9), toned(top.color, 0.9))
    folds = _fold(person.key, rows, columns)
    image *= folds * (1.03 - 0.12 * y / length)[..., None]
    _add_straps(image, person, angle, x, y, length)
    return image.clip(0, 255).astype(np.uint8)


def _add_print(image: np.ndarray, person: Identity, angle: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    kind, color = person.printed.kind, person.printed.color
    if kind == "none":
        return
    shift, level = (0.052, 0.1) if kind == "logo" else (0.0, 0.135)
    is_open = person.top.kind in ("jacket", "coat")
    front = np.abs(angle) < (np.pi if kind == "band" else np.pi / 2)
    if is_open and kind == "logo":
        shift = 0.08
    if not is_open or kind != "band":
        _blend(image, _print_mask(kind, x - shift, y - level) & front, color)
    if person.printed.on_back and kind != "logo":
        behind = np.where(x > 0, x - np.pi * TORSO_RADIUS, x + np.pi * TORSO_RADIUS)
        _blend(image, _print_mask(kind, behind, y - 0.13) & (np.abs(angle) > np.pi / 2), color)


def _add_straps(
    image: np.ndarray, person: Identity, angle: np.ndarray, x: np.ndarray, y: np.ndarray, length: float
) -> None:
    color = toned(person.bag.color, 0.85)
    front = np.abs(angle) < np.pi / 2
    if person.bag.kind == "backpack":
        _blend(image, (np.abs(np.abs(x) - 0.068) < 0.014) & (y < 0.2) & front, color)
        _blend(image, (np.abs(y - 0.13) < 0.006) & (np.abs(x) < 0.068), color)
    elif person.bag.kind == "shoulder":
        # from the right shoulder to the left hip, in front and, mirrored, behind
        line = -0.07 + 0.19 * y / length
        behind = np.where(x > 0, np.pi * TORSO_RADIUS - x, -np.pi * TORSO_RADIUS - x)
        _blend(image, (np.abs(x - line) < 0.012) & front, color)
        _blend(image, (np.abs(behind - line) < 0.012) & ~front, color)


def _leg(person: Identity) -> np.ndarray:
    bottom, rows, columns = person.bottom, 112, 64
    angle, x, y = _grid(rows, columns, 0.05, LEG_LENGTH)
    image = np.empty((rows, columns, 3), np.float32)
    image[:] = person.body.skin
    if bottom.kind != "skirt" and person.top.kind != "dress":
        end = bottom.length * LEG_LENGTH
        fabric = _fabric(bottom.color, bottom.pattern, x, y, LEG_LENGTH)
        fabric *= _fold(person.key + 5, rows, columns)
        _blend(fabric, np.abs(np.abs(angle) - np.pi / 2) < 0.1, toned(bottom.color, 0.72))  # side seams
        _blend(fabric, np.abs(y - end + 0.006) < 0.005, toned(bottom.color, 0.7))
        image = np.where((y < end)[..., None], fabric, image)
    if person.shoes.kind == "boots" and bottom.length < 1:
        image[int(rows * 0.68) :] = person.shoes.color
    elif person.shoes.kind == "trainers" and bottom.length < 1:
        image[int(rows * 0.93) :] = (225, 228, 230)  # socks
    image *= (1.02 - 0.16 * y / LEG_LENGTH)[..., None]
    return image.clip(0, 255).astype(np.uint8)


def _arm(person: Identity) -> np.ndarray:
    top, rows, columns = person.top, 80, 48
    _, x, y = _grid(rows, columns, 0.03, ARM_LENGTH)
    image = np.empty((rows, columns, 3), np.float32)
    image[:] = person.body.skin
    if top.length > 0:
        pattern = top.pattern if top.pattern.kind != "two_tone" else Pattern()
        fabric = _fabric(top.color, pattern, x, y, ARM_LENGTH) * _fold(person.key + 11, rows, columns)
        end = top.length * ARM_LENGTH
        _blend(fabric, np.abs(y - end + 0.006) < 0.006, toned(top.color, 0.72))
        image = np.where((y < end)[..., None], fabric, image)
    return image.clip(0, 255).astype(np.uint8)


def _hem_piece(person: Identity, garment: Garment, start: float, end: float) -> np.ndarray:
    """What hangs from height `start` to height `end`: a skirt, or the lower part of a coat or dress."""
    rows, columns, length = 80, 192, start - end
    _, x, y = _grid(rows, columns, 0.12, length)
    pattern = garment.pattern if garment.pattern.kind != "two_tone" else Pattern()
    image = _fabric(garment.color, pattern, x, y, length) * _fold(person.key + 17, rows, columns)
    pleats = 1 + 0.07 * np.sin(x * 95) * (y / length)
    image *= pleats[..., None]
    _blend(image, y > length - 0.012, toned(garment.color, 0.75))
    return image.clip(0, 255).astype(np.uint8)


def _hips(person: Identity) -> np.ndarray:
    rows, columns = 32, 128
    angle, x, y = _grid(rows, columns, TORSO_RADIUS, 0.15)
    image = _fabric(person.bottom.color, person.bottom.pattern, x, y, 0.15) * _fold(person.key + 23, rows, columns)
    _blend(image, y < 0.018, toned(person.bottom.color, 0.55))  # belt
    _blend(image, (np.abs(x) < 0.004) & (y > 0.02), toned(person.bottom.color, 0.7))
    pocket = (np.abs(np.abs(angle) - 2.6) < 0.25) & (y > 0.045) & (y < 0.1)
    _blend(image, 0.3 * pocket, toned(person.bottom.color, 0.5))
    return image.clip(0, 255).astype(np.uint8)


def _head(person: Identity) -> np.ndarray:
    rows, columns = 64, 96
    angle, _, t = _grid(rows, columns, 1.0, 1.0)
    turn = np.abs(angle)
    image = np.empty((rows, columns, 3), np.float32)
    image[:] = person.body.skin
    dark, ruddy = toned(person.body.skin, 0.55), toned(person.body.skin, 0.8)
    _blend(image, 0.6 * np.exp(-(((turn - 1.5) / 0.22) ** 2) - ((t - 0.55) / 0.1) ** 2), dark)  # ears
    _blend(image, 0.5 * np.exp(-((angle / 0.16) ** 2) - ((t - 0.68) / 0.035) ** 2), dark)  # below the nose
    _blend(image, 0.5 * ((turn > 0.12) & (turn < 0.75) & (t > 0.47) & (t < 0.6)), dark)  # sockets
    _blend(image, ((turn - 0.42) / 0.2) ** 2 + ((t - 0.54) / 0.045) ** 2 < 1, (40, 36, 34))  # eyes
    _blend(image, (np.abs(turn - 0.44) < 0.28) & (np.abs(t - 0.45) < 0.02), person.hair.color)  # brows
    red = (ruddy[0], ruddy[1], min(255, ruddy[2] + 25))
    _blend(image, (turn < 0.3) & (np.abs(t - 0.79) < 0.03), toned(red, 0.75))  # mouth
    _blend(image, 0.5 * (t > 0.93), dark)  # shade under the chin
    kind = person.hair.kind
    if kind != "bald":
        front = {"parted": 0.22 + 0.08 * angle, "bob": 0.27, "long": 0.27, "afro": 0.3}.get(kind, 0.24)
        side = {"bob": 0.95, "long": 1.0, "buzz": 0.42, "afro": 0.6}.get(kind, 0.5)
        back = {"bob": 0.98, "long": 1.0}.get(kind, 0.8)
        edge = np.where(turn < 0.85, front, np.where(turn < 1.8, side, back))
        edge = cv2.blur(edge.astype(np.float32), (7, 1))
        cover = np.clip((edge - t) * 25, 0, 1) * (0.55 if kind == "buzz" else 1.0)
        strands = 1 + 0.12 * np.sin(angle * 19 + t * 3) + 0.2 * np.exp(-(((t - 0.16) / 0.07) ** 2))
        hair = np.float32(person.hair.color) * strands[..., None].astype(np.float32)
        image += cover[..., None].astype(np.float32) * (hair - image)
    return image.clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def make_textures(person: Identity) -> Textures:
    """Draw all surfaces of an identity; the latest are kept, so do not write into them."""
    top, bottom, skirt = person.top, person.bottom, None
    if top.kind in ("coat", "dress"):
        skirt = _hem_piece(person, top, 0.56, top.hem)
    elif bottom.kind == "skirt":
        skirt = _hem_piece(person, bottom, 0.6, CROTCH - (CROTCH - ANKLE) * bottom.length)
    return Textures(_torso(person), _hips(person), _leg(person), _arm(person), _head(person), skirt)
