"""What a camera looks at when nobody is there: streets, walls, shop fronts, lawns, halls and stairs in perspective."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .color import Color, toned
from .props import draw_bench, draw_bush, draw_car, draw_pole, paint

HEIGHT, WIDTH = 480, 960
MARGIN = 240  # mirrored on every side of a panorama, for boxes that reach beyond it
GREY = (128, 128, 128)  # what remains of a scene whose contrast is 0


class Scene(NamedTuple):
    """A panorama and its geometry.

    Attributes:
        image: (480, 960, 3) uint8 BGR, with a margin of 240 more pixels all round; rows below count without it.
        horizon: row of the horizon; people further away stand closer to it.
        near, far: rows between which people's feet are.
        rise: height in pixels of a person for one row between the feet and the horizon.
        pitch: how far the camera looks down, see `pose`.
    """

    image: np.ndarray
    horizon: float
    near: float
    far: float
    rise: float
    pitch: float

    def row(self, depth: float) -> float:
        """Give the row of the feet of a person at a depth, from far (0) to near (1)."""
        return self.far + (self.near - self.far) * (0.15 + 0.85 * depth)


def _noise(rng: np.random.Generator, rows: int, columns: int, grain: int, spread: float) -> np.ndarray:
    low = rng.normal(scale=spread, size=(max(2, rows // grain), max(2, columns // grain))).astype(np.float32)
    return cv2.resize(low, (columns, rows), interpolation=cv2.INTER_CUBIC)[..., None]


def _surface(
    rng: np.random.Generator, image: np.ndarray, color: np.ndarray, top: int, bottom: int, rough: float
) -> None:
    """Fill rows `top` to `bottom` with a rough color that gets lighter with the distance to the camera."""
    rows = bottom - top
    if rows <= 0:
        return
    ramp = np.linspace(1.12, 0.88, rows, dtype=np.float32)[:, None, None]
    texture = _noise(rng, rows, WIDTH, 3, rough) + _noise(rng, rows, WIDTH, 40, rough)
    image[top:bottom] = (np.float32(color) * ramp + texture).clip(0, 255)


def _color(rng: np.random.Generator, *options: tuple[int, int, int]) -> np.ndarray:
    return np.array(options[int(rng.integers(len(options)))]) + rng.integers(-6, 7, size=3) + int(rng.integers(-12, 13))


def _rows_to(image: np.ndarray, vanish: tuple[float, float], start: int, color: Color, spacing: int) -> None:
    """Lines on the ground that run to the vanishing point, below row `start`."""
    for x in range(-3 * WIDTH, 4 * WIDTH, spacing):
        fraction = (start - vanish[1]) / (HEIGHT - vanish[1])
        begin = (int(vanish[0] + (x - vanish[0]) * fraction), start)
        cv2.line(image, begin, (x, HEIGHT), color, 1, cv2.LINE_AA)


def _cross_rows(image: np.ndarray, horizon: float, start: int, color: Color, step: float) -> None:
    """Lines across the ground, closer together with the distance, below row `start`."""
    depth = (start - horizon) / (HEIGHT - horizon)
    while depth < 1:
        row = int(horizon + depth * (HEIGHT - horizon))
        cv2.line(image, (0, row), (WIDTH, row), color, 1 + int(depth > 0.6), cv2.LINE_AA)
        depth += step * depth


def _bricks(rng: np.random.Generator, image: np.ndarray, top: int, bottom: int, color: np.ndarray) -> None:
    _surface(rng, image, color, top, bottom, 6)
    height, width = 9, 26
    for k, y in enumerate(range(top, bottom, height)):
        cv2.line(image, (0, y), (WIDTH, y), toned(color, 0.75), 1)
        for x in range(-(k % 2) * width // 2, WIDTH, width):
            cv2.line(image, (x, y), (x, min(y + height, bottom)), toned(color, 0.78), 1)


def _windows(rng: np.random.Generator, image: np.ndarray, top: int, bottom: int) -> None:
    x = int(rng.integers(10, 60))
    while x < WIDTH - 60:
        width = int(rng.integers(50, 120))
        kind = rng.random()
        frame, glass = (
            _color(rng, (60, 60, 60), (190, 195, 200), (40, 60, 90)),
            _color(rng, (90, 80, 60), (150, 140, 120)),
        )
        low = bottom - (0 if kind < 0.35 else int((bottom - top) * 0.25))
        high = top + int((bottom - top) * rng.uniform(0.1, 0.35))
        cv2.rectangle(image, (x, high), (x + width, low), toned(frame, 1), -1)
        cv2.rectangle(image, (x + 5, high + 5), (x + width - 5, low - 4), toned(glass, 1), -1)
        shine = np.array(
            [(x + 8, low - 6), (x + width // 2, high + 7), (x + width // 2 + 12, high + 7), (x + 26, low - 6)]
        )
        cv2.fillPoly(image, [shine.astype(np.int32)], toned(glass, 1.25))
        cv2.line(image, (x + width // 2, high), (x + width // 2, low), toned(frame, 1), 3)
        x += width + int(rng.integers(20, 90))


def _posters(rng: np.random.Generator, image: np.ndarray, top: int, bottom: int, count: int) -> None:
    for _ in range(count):
        x, y = int(rng.integers(0, WIDTH - 60)), int(rng.integers(top, max(top + 1, bottom - 50)))
        w, h = int(rng.integers(22, 60)), int(rng.integers(26, 70))
        back, ink = paint(rng), paint(rng)
        cv2.rectangle(image, (x, y), (x + w, min(y + h, bottom)), toned(back, 1), -1)
        for k in range(3):
            cv2.line(image, (x + 4, y + 8 + 7 * k), (x + w - 5 - 5 * k, y + 8 + 7 * k), toned(ink, 1), 3)


def _fence(image: np.ndarray, top: int, bottom: int, color: np.ndarray) -> None:
    for x in range(4, WIDTH, 17):
        cv2.line(image, (x, top), (x, bottom), toned(color, 0.8), 3, cv2.LINE_AA)
    for y in (top + 6, bottom - 10):
        cv2.line(image, (0, y), (WIDTH, y), toned(color, 1), 4, cv2.LINE_AA)


def _trees(rng: np.random.Generator, image: np.ndarray, ground: int, count: int) -> None:
    for _ in range(count):
        x, size = int(rng.integers(0, WIDTH)), float(rng.uniform(0.7, 1.4))
        cv2.rectangle(image, (x - int(6 * size), 0), (x + int(6 * size), ground), (40, 55, 74), -1)
        for _ in range(26):
            dx, dy = rng.normal(scale=(38 * size, 24 * size))
            green = _color(rng, (40, 92, 58), (52, 120, 74), (30, 70, 44))
            cv2.circle(
                image, (x + int(dx), int(ground * 0.25 + dy)), int(rng.integers(9, 20) * size), toned(green, 1), -1
            )


def _street(rng: np.random.Generator, image: np.ndarray, horizon: int, wall: int) -> None:
    _bricks(rng, image, 0, wall, _color(rng, (70, 84, 140), (120, 140, 165), (96, 104, 112)))
    _windows(rng, image, 0, wall)
    _surface(rng, image, _color(rng, (120, 122, 124), (140, 150, 156)), wall, HEIGHT, 7)
    kerb = wall + (HEIGHT - wall) // 4
    _surface(rng, image, np.array((88, 86, 84)), kerb, HEIGHT, 6)
    cv2.rectangle(image, (0, kerb - 4), (WIDTH, kerb + 2), (168, 172, 174), -1)
    for x in range(-200, WIDTH + 200, 190):
        mark = np.array([(x, HEIGHT - 70), (x + 90, HEIGHT - 70), (x + 96, HEIGHT - 58), (x - 4, HEIGHT - 58)])
        cv2.fillPoly(image, [mark], (205, 210, 212))
    for _ in range(3):
        car = paint(rng)
        draw_car(image, float(rng.integers(0, WIDTH)), wall + 30.0, float(rng.uniform(190, 250)), car)


def _plaza(rng: np.random.Generator, image: np.ndarray, horizon: int, wall: int) -> None:
    _surface(rng, image, _color(rng, (170, 172, 168), (150, 170, 190), (112, 130, 150)), 0, wall, 5)
    _windows(rng, image, 0, wall)
    _posters(rng, image, 10, wall, 5)
    ground = _color(rng, (150, 160, 172), (128, 132, 138), (120, 138, 160))
    _surface(rng, image, ground, wall, HEIGHT, 7)
    _rows_to(image, (WIDTH * rng.uniform(0.3, 0.7), horizon), wall, toned(ground, 0.8), 90)
    _cross_rows(image, horizon, wall, toned(ground, 0.8), 0.16)
    for _ in range(3):
        draw_bench(image, float(rng.integers(40, WIDTH - 40)), wall + float(rng.integers(20, 60)), 110.0, (60, 92, 128))


def _lawn(rng: np.random.Generator, image: np.ndarray, horizon: int, wall: int) -> None:
    _surface(rng, image, _color(rng, (214, 200, 176), (224, 220, 208)), 0, wall, 4)
    _surface(rng, image, _color(rng, (70, 96, 66), (60, 84, 70)), wall // 3, wall, 16)
    _trees(rng, image, wall, 9)
    _surface(rng, image, _color(rng, (62, 128, 92), (70, 140, 120)), wall, HEIGHT, 16)
    edge = wall + (HEIGHT - wall) // 5
    path = np.array([(0, edge + 20), (WIDTH, edge - 10), (WIDTH, HEIGHT), (0, HEIGHT)])
    stones = image.copy()
    _surface(rng, stones, _color(rng, (150, 165, 178), (136, 144, 150)), edge - 10, HEIGHT, 9)
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [path], 255)
    cv2.copyTo(stones, mask, image)
    for _ in range(6):
        draw_bush(rng, image, float(rng.integers(0, WIDTH)), edge + 12.0, float(rng.uniform(60, 120)))


def _hall(rng: np.random.Generator, image: np.ndarray, horizon: int, wall: int) -> None:
    base = _color(rng, (196, 206, 212), (186, 200, 190), (204, 196, 186))
    _surface(rng, image, base, 0, wall, 3)
    cv2.rectangle(image, (0, wall - 14), (WIDTH, wall), toned(base, 0.55), -1)
    x = 30
    while x < WIDTH:
        door = _color(rng, (70, 100, 140), (120, 120, 124), (92, 110, 80))
        cv2.rectangle(image, (x, wall - 190), (x + 84, wall), toned(door, 0.7), -1)
        cv2.rectangle(image, (x + 6, wall - 184), (x + 78, wall), toned(door, 1), -1)
        cv2.rectangle(image, (x + 18, wall - 170), (x + 66, wall - 110), toned(door, 1.35), -1)
        x += int(rng.integers(150, 290))
    _posters(rng, image, 20, wall - 30, 9)
    floor = _color(rng, (150, 158, 166), (120, 140, 160), (166, 168, 160))
    _surface(rng, image, floor, wall, HEIGHT, 3)
    _rows_to(image, (WIDTH * rng.uniform(0.3, 0.7), horizon), wall, toned(floor, 0.88), 70)
    _cross_rows(image, horizon, wall, toned(floor, 0.88), 0.13)
    shine = np.exp(-(((np.arange(WIDTH) - WIDTH * rng.random()) / 150) ** 2)) * 34
    image[wall:] = (image[wall:] + shine[None, :, None]).clip(0, 255)


def _yard(rng: np.random.Generator, image: np.ndarray, horizon: int, wall: int) -> None:
    _surface(rng, image, _color(rng, (216, 204, 190), (190, 186, 180)), 0, wall, 3)
    _trees(rng, image, wall, 4)
    low = wall - 90
    _surface(rng, image, _color(rng, (120, 130, 138), (96, 118, 150)), low, wall, 8)
    _fence(image, low - 60, wall - 20, _color(rng, (70, 74, 70), (150, 160, 164), (60, 84, 60)))
    ground = _color(rng, (104, 106, 108), (118, 128, 140))
    _surface(rng, image, ground, wall, HEIGHT, 10)
    _cross_rows(image, horizon, wall, toned(ground, 0.85), 0.5)
    for _ in range(4):
        draw_pole(image, float(rng.integers(0, WIDTH)), wall + float(rng.integers(5, 40)), float(rng.uniform(9, 16)))
    car = paint(rng)
    draw_car(image, float(rng.integers(100, WIDTH - 100)), wall + 26.0, 220.0, car)


def _steps(rng: np.random.Generator, image: np.ndarray, horizon: int, wall: int) -> None:
    _bricks(rng, image, 0, wall, _color(rng, (150, 160, 168), (110, 124, 160)))
    _posters(rng, image, 0, wall, 8)
    stone = _color(rng, (150, 154, 158), (132, 146, 160))
    _surface(rng, image, stone, wall, HEIGHT, 6)
    for k in range(6):
        y = wall + k * 14
        cv2.rectangle(image, (0, y), (WIDTH, y + 6), toned(stone, 0.7 + 0.03 * k), -1)
        cv2.line(image, (0, y + 7), (WIDTH, y + 7), toned(stone, 1.2), 2)
    _rows_to(image, (WIDTH * rng.uniform(0.2, 0.8), horizon), wall + 90, toned(stone, 0.85), 120)
    for _ in range(3):
        draw_bush(rng, image, float(rng.integers(0, WIDTH)), wall + 90.0, float(rng.uniform(70, 130)))


_KINDS = (_street, _plaza, _lawn, _hall, _yard, _steps)


def make_scene(seed: int, camera: int) -> Scene:
    """Draw the scene of a camera.

    Args:
        seed: of the dataset.
        camera: number of the camera, from 1; six kinds of place follow each other.

    Returns:
        The scene, the same one for the same arguments.
    """
    rng = np.random.default_rng([seed, 3, camera])
    horizon, wall = int(rng.integers(20, 90)), int(rng.integers(190, 250))
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    _KINDS[(camera - 1) % len(_KINDS)](rng, image, horizon, wall)
    far = wall + 45.0
    rise = 235.0 / (HEIGHT - 40 - horizon) * float(rng.uniform(0.95, 1.1))
    image = cv2.copyMakeBorder(image, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REFLECT)
    return Scene(image, float(horizon), HEIGHT - 30.0, far, rise, float(rng.uniform(0.06, 0.22)))
