"""Things that stand around: drawn into scenes, and in front of people as occluders."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .color import Color, toned

_GLOSS = 250  # the most that a lit edge reaches
_KEY = (255, 0, 255)  # background of a prop before it is cut out; nothing is painted in it


class Prop(NamedTuple):
    """An object cut out of its surroundings.

    Attributes:
        kind: pole, car, bench or bush.
        image: (h, w, 3) uint8 BGR.
        mask: (h, w) uint8, 255 where the object is.
    """

    kind: str
    image: np.ndarray
    mask: np.ndarray


def paint(rng: np.random.Generator) -> Color:
    """Draw a color as cars and posters have them: mostly muted, any hue."""
    grey, hue = rng.uniform(40, 215), rng.uniform(-1, 1, size=3)
    return tuple(int(c) for c in np.clip(grey + 75 * hue * rng.random(), 15, 240))  # type: ignore[return-value]


def _polygon(
    image: np.ndarray, x: float, y: float, size: float, points: list[tuple[float, float]], color: Color
) -> None:
    corners = np.array(points, float) * size + (x, y)
    cv2.fillPoly(image, [np.rint(corners * 16).astype(np.int32)], color, cv2.LINE_8, 4)


def draw_car(image: np.ndarray, x: float, y: float, length: float, color: Color) -> None:
    """Paint a car from the side.

    Args:
        image: (H, W, 3), painted in place.
        x: column of its middle.
        y: row of its wheels.
        length: in pixels.
        color: of the body.
    """
    body = [(-0.5, -0.07), (-0.5, -0.17), (-0.46, -0.2), (-0.3, -0.22), (-0.17, -0.34), (0.15, -0.345), (0.3, -0.225),
            (0.46, -0.2), (0.5, -0.14), (0.49, -0.07)]  # fmt: skip
    _polygon(image, x, y, length, [(-0.5, -0.01), (0.5, -0.01), (0.48, -0.08), (-0.48, -0.08)], (30, 30, 32))
    _polygon(image, x, y, length, body, toned(color, 0.9, _GLOSS))
    _polygon(
        image, x, y, length, [(-0.5, -0.17), (-0.46, -0.2), (0.46, -0.2), (0.5, -0.16)], toned(color, 1.25, _GLOSS)
    )
    glass = (96, 84, 70)
    _polygon(image, x, y, length, [(-0.25, -0.225), (-0.15, -0.32), (-0.02, -0.325), (-0.02, -0.225)], glass)
    _polygon(image, x, y, length, [(0.0, -0.225), (0.0, -0.325), (0.14, -0.325), (0.25, -0.225)], glass)
    _polygon(image, x, y, length, [(-0.2, -0.24), (-0.13, -0.31), (-0.1, -0.31), (-0.17, -0.24)], (150, 140, 126))
    _polygon(
        image,
        x,
        y,
        length,
        [(-0.012, -0.08), (-0.012, -0.22), (-0.008, -0.22), (-0.008, -0.08)],
        toned(color, 0.6, _GLOSS),
    )
    _polygon(image, x, y, length, [(0.45, -0.17), (0.49, -0.16), (0.49, -0.13), (0.46, -0.13)], (190, 225, 240))
    for wheel in (-0.29, 0.3):
        center = (int(x + wheel * length), int(y - 0.07 * length))
        cv2.circle(image, center, max(2, int(0.075 * length)), (28, 28, 30), -1)
        cv2.circle(image, center, max(1, int(0.042 * length)), (150, 152, 154), -1)


def draw_bench(image: np.ndarray, x: float, y: float, length: float, color: Color) -> None:
    """Paint a bench.

    Args:
        image, x, length, color: as of `draw_car`.
        y: row of its feet.
    """
    for leg in (-0.42, 0.38):
        _polygon(image, x, y, length, [(leg, 0), (leg, -0.4), (leg + 0.05, -0.4), (leg + 0.05, 0)], (52, 52, 54))
    for k in range(3):
        top = -0.44 + k * 0.085
        shape = [(-0.5, top), (0.5, top), (0.5, top + 0.062), (-0.5, top + 0.062)]
        _polygon(image, x, y, length, shape, toned(color, 1.15 - 0.12 * k, _GLOSS))
    _polygon(image, x, y, length, [(-0.5, -0.2), (0.5, -0.2), (0.5, -0.13), (-0.5, -0.13)], toned(color, 0.8, _GLOSS))


def draw_pole(image: np.ndarray, x: float, y: float, width: float) -> None:
    """Paint a lamp post that reaches out of the image.

    Args:
        image: (H, W, 3), painted in place.
        x: column of its middle.
        y: row of its foot.
        width: in pixels.
    """
    for k, level in enumerate((70, 120, 168, 140, 92)):
        left = x - width / 2 + k * width / 5
        cv2.rectangle(image, (int(left), 0), (int(left + width / 5), int(y)), (level, level + 2, level), -1)
    cv2.rectangle(image, (int(x - width * 0.9), int(y - width)), (int(x + width * 0.9), int(y)), (84, 86, 84), -1)


def draw_bush(rng: np.random.Generator, image: np.ndarray, x: float, y: float, width: float) -> None:
    """Paint a bush.

    Args:
        rng: decides its leaves.
        image: (H, W, 3), painted in place.
        x: column of its middle.
        y: row that it stands on.
        width: in pixels, about.
    """
    for k in range(46):
        angle, radius = rng.uniform(0, np.pi), 0.4 * width * np.sqrt(rng.random())
        green = (30 + k // 2, int(66 + 1.6 * k), 40 + k // 2)
        center = (int(x + radius * np.cos(angle)), int(y - 0.06 * width - 0.95 * radius * np.sin(angle)))
        cv2.circle(image, center, max(2, int(width * rng.uniform(0.035, 0.09))), green, -1)


def _cut_out(kind: str, image: np.ndarray) -> Prop:
    mask = (image != np.array(_KEY, np.uint8)).any(axis=2)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Prop(kind, image[window].copy(), mask[window].astype(np.uint8) * 255)


def make_props(seed: int) -> list[Prop]:
    """Make the occluders of a dataset: cut-out poles, cars, benches and bushes."""
    rng = np.random.default_rng([seed, 4])
    props = []
    for kind, count in (("pole", 2), ("car", 6), ("bench", 3), ("bush", 3)):
        for _ in range(count):
            image = np.empty((260, 420, 3), np.uint8)
            image[:] = _KEY
            if kind == "pole":
                draw_pole(image, 210.0, 250.0, float(rng.uniform(14, 22)))
            elif kind == "car":
                draw_car(image, 210.0, 250.0, 400.0, paint(rng))
            elif kind == "bench":
                draw_bench(image, 210.0, 250.0, 300.0, toned((60, 92, 128), float(rng.uniform(0.7, 1.4)), _GLOSS))
            else:
                draw_bush(rng, image, 210.0, 240.0, 280.0)
            props.append(_cut_out(kind, image))
    return props
