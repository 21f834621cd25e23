"""What a figure wears and carries beside garments: bags, loose hair and hats."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Canvas
from .color import toned
from .identity import Identity
from .pose import Skeleton

_ARC = np.linspace(0, math.pi, 12)


def _spread(half_width: float, half_depth: float, yaw: float) -> float:
    """Half the width that an elliptic column shows from a heading."""
    return math.sqrt((half_width * math.cos(yaw)) ** 2 + (half_depth * math.sin(yaw)) ** 2)


def _box(center: np.ndarray, half: float, height: float, taper: float = 1.0) -> np.ndarray:
    """(8, 2) outline of a box with cut corners, `taper` times as wide at the top."""
    x, y, top = half, height, half * taper
    corners = (
        (-x, -0.75 * y), (-0.8 * x, -y), (0.8 * x, -y), (x, -0.75 * y),
        (top, 0.7 * y), (0.7 * top, y), (-0.7 * top, y), (-top, 0.7 * y),
    )  # fmt: skip
    return center[:2] + np.array(corners)


def _hand(person: Identity) -> int:
    return person.key % 2


def bag_layer(person: Identity, bones: Skeleton) -> int:
    """Tell when the bag is painted.

    Args:
        person: whose it is.
        bones: where the body is.

    Returns:
        0 before the body, 1 before the nearer arm, 2 after everything, -1 not at all.
    """
    kind = person.bag.kind
    if kind == "backpack":
        return 0 if math.cos(bones.yaw) > 0 else 1
    if kind == "handbag":
        return 0 if bones.limbs[_hand(person), 8, 2] < -0.05 else 2
    if kind == "shoulder":
        return 0 if math.sin(bones.yaw) > 0.25 else 1
    return -1


def draw_bag(canvas: Canvas, person: Identity, bones: Skeleton) -> None:
    """Paint the bag itself; the straps are part of the upper garment's texture.

    Args:
        canvas: to paint on.
        person: whose it is.
        bones: where the body is.
    """
    kind = person.bag.kind
    if kind == "backpack":
        _backpack(canvas, person, bones)
    elif kind == "handbag":
        _handbag(canvas, person, bones)
    elif kind == "shoulder":
        _shoulder_bag(canvas, person, bones)


def _backpack(canvas: Canvas, person: Identity, bones: Skeleton) -> None:
    bag, yaw = person.bag, bones.yaw
    sin, cos = math.sin(yaw), math.cos(yaw)
    lean = (bones.axis[1, 0] - bones.axis[0, 0]) * 0.6
    half, height = _spread(0.083, 0.042, yaw) * bag.size, 0.112 * bag.size
    # Flat against the back: from the front the trunk hides it whole
    center = np.array((bones.axis[0, 0] + lean - 0.098 * sin, 0.712 + bones.axis[0, 1] - 0.5))
    if cos > 0:
        half = min(half, 0.042 * abs(sin) + 0.07 * cos)
    canvas.fill(_box(center, half, height, 0.86), toned(bag.color, 0.7))
    canvas.fill(_box(center + (-0.006, 0.004), half * 0.9, height * 0.94, 0.86), toned(bag.color, 1.05))
    if cos < 0:
        pocket = center + (0.5 * sin * 0.04, -0.045 * bag.size)
        canvas.fill(_box(pocket, half * 0.72, height * 0.45, 0.95), toned(bag.trim, 0.75))
        canvas.fill(_box(pocket + (0, -0.004), half * 0.66, height * 0.38, 0.95), bag.trim)
        canvas.fill(_box(center + (0, 0.062 * bag.size), half * 0.75, 0.005), toned(bag.color, 0.5))


def _handbag(canvas: Canvas, person: Identity, bones: Skeleton) -> None:
    bag, hand = person.bag, bones.limbs[_hand(person), 8]
    half, height = _spread(0.035, 0.062, bones.yaw) * bag.size, 0.048 * bag.size
    center = hand[:2] - (0, height + 0.035)
    for sign in (-1, 1):
        x = half * 0.55 * sign
        strap = np.array(((x, height), (x * 0.2, height + 0.04), (x * 0.2 + 0.006, height + 0.04), (x + 0.006, height)))
        canvas.fill(center + strap, toned(bag.color, 0.7))
    canvas.fill(_box(center, half, height, 0.8), toned(bag.color, 0.75))
    canvas.fill(_box(center + (-0.004, 0), half * 0.88, height * 0.94, 0.8), bag.color)
    canvas.fill(_box(center + (0, 0.006), half * 0.8, height * 0.22), bag.trim)


def _shoulder_bag(canvas: Canvas, person: Identity, bones: Skeleton) -> None:
    bag, yaw = person.bag, bones.yaw
    half, height = _spread(0.034, 0.075, yaw) * bag.size, 0.054 * bag.size
    hip = 0.118 * person.body.hips
    center = np.array((bones.axis[0, 0] + hip * math.cos(yaw), 0.515 + bones.axis[0, 1] - 0.5))
    canvas.fill(_box(center, half, height), toned(bag.color, 0.75))
    canvas.fill(_box(center + (-0.004, 0), half * 0.9, height * 0.94), bag.color)
    canvas.fill(_box(center + (0, 0.022), half * 0.9, height * 0.5), toned(bag.color, 0.85))
    canvas.fill(_box(center + (0, 0.002), half * 0.25, height * 0.16), bag.trim)


def draw_hair(canvas: Canvas, person: Identity, bones: Skeleton) -> None:
    """Paint the hair that stands off the head: painted before the body from the front, over it from behind.

    Args:
        canvas: to paint on.
        person: whose it is.
        bones: where the body is.
    """
    kind, color, scale = person.hair.kind, person.hair.color, person.body.head
    head, root = bones.axis[2, :2], bones.axis[3, :2]
    back = root - head
    if kind in ("long", "bob"):
        length = 0.19 if kind == "long" else 0.085
        center = head + 0.62 * back
        x = _spread(0.058, 0.036, bones.head_yaw) * scale
        shape = np.array(
            ((-0.9 * x, 0.03), (-x, -0.02), (-0.95 * x, -length * 0.8), (-0.5 * x, -length), (0.5 * x, -length),
             (0.95 * x, -length * 0.8), (x, -0.02), (0.9 * x, 0.03), (0.5 * x, 0.062), (-0.5 * x, 0.062))
        )  # fmt: skip
        canvas.fill(center + shape, toned(color, 0.85))
        strand = np.array(((-0.45 * x, 0.02), (-0.2 * x, 0.02), (-0.3 * x, -length * 0.9), (-0.55 * x, -length * 0.9)))
        canvas.fill(center + strand, toned(color, 1.1))
    elif kind == "ponytail":
        x = 0.02 * scale
        tail = root + 0.35 * back
        canvas.disc(root + (0, 0.018), 0.022, 0.022, color)
        shape = np.array(
            ((-0.6 * x, 0.02), (-x, -0.05), (-0.4 * x, -0.135), (0.4 * x, -0.135), (x, -0.05), (0.6 * x, 0.02))
        )
        canvas.fill(tail + shape, toned(color, 0.9))
    elif kind == "bun":
        canvas.disc(root + 0.2 * back + (0, 0.045), 0.03 * scale, 0.028 * scale, toned(color, 0.9))
        canvas.disc(root + 0.2 * back + (-0.006, 0.052), 0.016 * scale, 0.014 * scale, toned(color, 1.25))
    elif kind == "afro":
        canvas.disc(head + 0.5 * back + (0, 0.016), 0.072 * scale, 0.072 * scale, toned(color, 0.95))
        canvas.disc(head + 0.5 * back + (-0.02, 0.045), 0.034 * scale, 0.028 * scale, toned(color, 1.3))


def draw_hat(canvas: Canvas, person: Identity, bones: Skeleton) -> None:
    """Paint the hat over the head.

    Args:
        canvas: to paint on.
        person: whose it is.
        bones: where the body is.
    """
    hat, scale, turn = person.hat, person.body.head, bones.head_yaw
    if hat.kind == "none":
        return
    head = bones.axis[2, :2] + 0.1 * (bones.axis[3, :2] - bones.axis[2, :2])
    rx, ry = _spread(0.05, 0.059, turn) * scale * 1.04, 0.072 * scale
    sin, cos = math.sin(turn), math.cos(turn)
    low = {"cap": 0.026, "beanie": 0.01, "brim": 0.03}[hat.kind] * scale
    dome = np.stack((rx * np.cos(_ARC), low + (ry - low) * np.sin(_ARC) ** 0.75), 1)
    canvas.fill(head + dome, toned(hat.color, 0.8))
    lit = np.stack((rx * 0.62 * np.cos(_ARC) - 0.18 * rx, low + 0.004 + (ry - low) * 0.86 * np.sin(_ARC)), 1)
    canvas.fill(head + lit, hat.color)
    if hat.kind == "beanie":
        band = np.array(((-rx, low), (rx, low), (rx * 0.97, low + 0.02), (-rx * 0.97, low + 0.02)))
        canvas.fill(head + band, toned(hat.color, 0.65))
    elif hat.kind == "cap" and cos > -0.35:
        reach = head + (0.06 * sin * scale, low - 0.004 - 0.006 * max(0.0, cos))
        canvas.disc(
            reach, (0.03 + 0.012 * abs(cos)) * scale, (0.008 + 0.007 * max(0.0, cos)) * scale, toned(hat.color, 0.6)
        )
    elif hat.kind == "brim":
        canvas.disc(head + (0, low), 0.092 * scale, 0.019 * scale, toned(hat.color, 0.72))
        band = np.array(((-rx, low), (rx, low), (rx * 0.97, low + 0.014), (-rx * 0.97, low + 0.014)))
        canvas.fill(head + band, toned(hat.color, 0.4))
