"""Draw one person: body parts as shaded generalised cylinders, painted from back to front.

Every part has an outline (a polygon with round caps) and shows the visible half of its texture along its axis. Lengths
are body heights, y up; `Canvas` turns them into pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from .canvas import Canvas
from .color import toned
from .extras import bag_layer, draw_bag, draw_hair, draw_hat
from .identity import Body, Identity
from .pose import Gait, Skeleton, pose
from .texture import ANKLE, CROTCH, SHOULDER, Textures, shade, visible

# (height, half width, half depth) of the trunk
_TRUNK = np.array([
    (0.868, 0.028, 0.032), (0.846, 0.034, 0.036), (0.835, 0.064, 0.044), (0.823, 0.096, 0.050),
    (0.806, 0.116, 0.056), (0.780, 0.118, 0.062), (0.740, 0.110, 0.068), (0.690, 0.100, 0.066),
    (0.630, 0.090, 0.060), (0.570, 0.096, 0.066), (0.520, 0.102, 0.072), (0.470, 0.100, 0.072),
    (0.300, 0.098, 0.072),
])[::-1]  # fmt: skip


_ALONG = np.array((0, 0.4, 1, 1, 0.4, 0))[:, None]  # where a limb is widest, from joint to joint
# A shoe: parts of the way from heel to toe, then (sideways, up) in body heights, the sideways ones times its width
_SOLE = np.array(((0, -1, 0), (1, 1, 0), (1, 1, 0.012), (0, -1, 0.012)))
_UPPER = np.array(
    ((0, -1, 0.008), (1, 1, 0.008), (1, 0.6, 0.026), (0.55, 0.4, 0.04), (0.3, 0, 0.055), (0, -0.6, 0.052))
)
_STRIPE = np.array(((-0.005, 0.026), (0.005, 0.026), (0.009, 0.038), (0.0, 0.038)))
_AROUND = np.linspace(0, 2 * math.pi, 20, endpoint=False)
# The outline of a head, narrower towards the chin
_HEAD = np.stack((np.cos(_AROUND) * (1 - 0.13 * np.clip(-np.sin(_AROUND), 0, 1)), np.sin(_AROUND)), 1)


class Light(NamedTuple):
    """Where the light comes from (radians, positive from the right of the image) and how hard it is (0 to 1)."""

    side: float = -0.5
    contrast: float = 0.5


def _limb(
    canvas: Canvas, strip: np.ndarray, a: np.ndarray, b: np.ndarray, ra: float, rm: float, rb: float, cuff: bool = False
) -> None:
    """A tapered limb from joint `a` to joint `b` with half widths at both ends and in the middle.

    It ends round at both joints, or, with `cuff`, cut straight at `b`.
    """
    axis = np.array((a[:2], b[:2]))
    direction = axis[1] - axis[0]
    dx, dy = direction.tolist()
    length = max(math.hypot(dx, dy), 1e-6)
    sides = np.array((ra, rm, rb, -rb, -rm, -ra))[:, None]
    outline = axis[0] + _ALONG * direction + sides * np.array((dy / length, -dx / length))
    canvas.wrap(strip, axis, max(ra, rm, rb), outline, ((0, ra),) if cuff else ((0, ra), (1, rb)))


@lru_cache(maxsize=512)
def _trunk(body: Body, thick: bool, top: float, bottom: float, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heights, from top to bottom, with the half widths and the half depths of a trunk."""
    y = np.linspace(top, bottom, rows)
    a, b = np.interp(y, _TRUNK[:, 0], _TRUNK[:, 1]), np.interp(y, _TRUNK[:, 0], _TRUNK[:, 2])
    a = a * np.interp(y, (0.5, 0.63, 0.8), (body.hips, 0.5 * (body.hips + body.shoulders) - 0.03, body.shoulders))
    girth = np.interp(y, (0.8, 0.85), (body.girth, 1.0))
    a, b = a * (0.45 + 0.55 * girth), b * (0.2 + 0.8 * girth)
    cloth = np.interp(y, (0.83, 0.86), (0.008, 0.0)) * thick
    return y, a + cloth, b + cloth


def _profile(person: Identity, yaw: float, top: float, bottom: float, rows: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Heights, from top to bottom, and half widths of the trunk as it shows at this heading."""
    y, a, b = _trunk(person.body, person.top.kind in ("jacket", "coat", "jumper"), top, bottom, rows)
    return y, np.sqrt((a * math.cos(yaw)) ** 2 + (b * math.sin(yaw)) ** 2)


def _column(
    canvas: Canvas, strip: np.ndarray, skeleton: Skeleton, y: np.ndarray, half: np.ndarray, start: float, rise: float
) -> None:
    """An upright part about the spine: half widths at heights, the texture starting at height `start`."""
    pelvis, neck = skeleton.axis[0, :2], skeleton.axis[1, :2]
    y = y + rise
    x = pelvis[0] + (neck[0] - pelvis[0]) * (y - pelvis[1]) / (neck[1] - pelvis[1])
    count = len(y)
    outline = np.empty((2 * count, 2))
    outline[:count, 0], outline[count:, 0] = x - half, (x + half)[::-1]
    outline[:count, 1], outline[count:, 1] = y, y[::-1]
    # the axis runs from the texture's first row to the last height
    slope = (x[-1] - x[0]) / (y[-1] - y[0])
    axis = np.array(((x[0] + slope * (start + rise - y[0]), start + rise), (x[-1], y[-1])))
    canvas.wrap(strip, axis, float(half.max()), outline)


class _Painter:
    """Draws the parts of one person in one pose."""

    def __init__(self, canvas: Canvas, person: Identity, textures: Textures, bones: Skeleton, light: Light):
        self.canvas, self.person, self.bones, self.light = canvas, person, bones, light
        self.textures = textures
        self.rise = float(bones.axis[0, 1] - 0.5)  # the pelvis drops a little in a long stride
        self.leg = self._strip(textures.leg, bones.yaw, 28)
        self.arm = self._strip(textures.arm, bones.yaw, 20)

    def _strip(self, texture: np.ndarray, yaw: float, columns: int) -> np.ndarray:
        return shade(visible(texture, yaw, columns), self.light.side, self.light.contrast)

    def draw_leg(self, index: int, far: bool) -> None:
        """Thigh, shin and shoe of the left (0) or right (1) leg; the far one lies in the shade."""
        bottom, girth = self.person.bottom, 0.5 + 0.5 * self.person.body.girth
        hip, knee, ankle, heel, toe = self.bones.limbs[index, :5]
        strip = cv2.convertScaleAbs(self.leg, alpha=0.8) if far else self.leg
        half = strip.shape[0] // 2
        dressed = bottom.kind == "trousers" and self.person.top.kind != "dress"
        loose = bottom.fit if dressed else 0.8
        knee_r, ankle_r = (0.043 * loose, 0.036 * loose) if dressed else (0.035, 0.023)
        thigh_r = (0.058 if bottom.kind != "shorts" else 0.064) * girth
        toe_near = toe[2] > heel[2]
        if not toe_near:
            self._shoe(heel, toe, far)
        low = ankle + (0.04 if dressed else 0.02) * (ankle - knee)
        _limb(self.canvas, strip[half:], knee, low, knee_r * girth, (knee_r + 0.003) * girth, ankle_r, cuff=dressed)
        if toe_near:
            self._shoe(heel, toe, far)
        _limb(self.canvas, strip[:half], hip, knee, thigh_r, thigh_r * 0.97, knee_r * girth)

    def _shoe(self, heel: np.ndarray, toe: np.ndarray, far: bool) -> None:
        shoes = self.person.shoes
        shadow = 0.75 if far else 1.0
        color = toned(shoes.color, shadow)
        a, b = heel[:2], toe[:2]
        along = b - a
        reach = max(math.hypot(*along.tolist()), 1e-6)
        # A shoe that points at the viewer is broad and short
        width = math.copysign(0.006 + 0.5 * max(0.0, 0.028 - reach), along[0])
        spread = np.array((width, 1.0))
        self.canvas.disc(0.5 * (a + b) + (0, 0.02), 0.026 + 0.28 * abs(along[0]), 0.025, color)
        self.canvas.fill(a + _UPPER[:, :1] * along + _UPPER[:, 1:] * spread, color)
        light_sole = shoes.kind == "trainers"
        sole = (228, 232, 235) if light_sole and not far else (60, 62, 66)
        self.canvas.fill(a + _SOLE[:, :1] * along + _SOLE[:, 1:] * spread, sole)
        if light_sole:
            self.canvas.fill(a + 0.5 * along + _STRIPE, (220, 224, 228))

    def draw_trunk(self) -> None:
        """Hips, skirt and upper garment."""
        person, yaw = self.person, self.bones.yaw
        if person.bottom.kind != "skirt" and person.top.kind != "dress":
            y, half = _profile(person, yaw, 0.6, 0.45)
            half[-3:] *= (0.97, 0.9, 0.72)
            _column(self.canvas, self._strip(self.textures.hips, yaw, 48), self.bones, y, half, 0.6, self.rise)
        if person.bottom.kind == "skirt" and person.top.kind != "dress":
            self._hanging(0.6, CROTCH - (CROTCH - ANKLE) * person.bottom.length, 0.2)
        if person.top.kind in ("coat", "dress"):
            self._hanging(0.56, person.top.hem, 0.16)
        end = max(person.top.hem, 0.54 if person.top.kind in ("coat", "dress") else person.top.hem)
        y, half = _profile(person, yaw, 0.872, end, 18)
        strip = self._strip(self.textures.torso, yaw, 60)
        rows = strip.shape[0]
        shown = strip[: max(8, round(rows * (SHOULDER - end) / (SHOULDER - person.top.hem)))]
        _column(self.canvas, shown, self.bones, y, half, SHOULDER, self.rise)

    def _hanging(self, start: float, end: float, flare: float) -> None:
        if self.textures.skirt is None:
            return
        y, half = _profile(self.person, self.bones.yaw, start, end)
        step = np.abs(self.bones.limbs[:, 1, 0] - self.bones.axis[0, 0]).max()  # knees push the cloth
        down = np.linspace(0, 1, len(y))
        half = np.maximum(half, half[: len(half) // 2].max() * (down > 0.35)) + flare * (start - end) * down * 0.5
        half = np.maximum(half, down * (step + 0.045))
        _column(
            self.canvas, self._strip(self.textures.skirt, self.bones.yaw, 60), self.bones, y, half, start, self.rise
        )

    def draw_arm(self, index: int, far: bool) -> None:
        """Upper arm, forearm and hand of the left (0) or right (1) arm."""
        girth = 0.5 + 0.5 * self.person.body.girth
        shoulder, elbow, wrist, hand = self.bones.limbs[index, 5:]
        strip = cv2.convertScaleAbs(self.arm, alpha=0.8) if far else self.arm
        half = strip.shape[0] * 53 // 100
        sleeve = 0.006 if self.person.top.length > 0.3 else 0.0
        cuff = 0.006 if self.person.top.length > 0.9 else 0.0
        skin = self.person.body.skin
        level = 0.72 if far else 0.92
        color = toned(skin, level)
        middle = 0.5 * (wrist + hand)[:2]
        angle = math.degrees(math.atan2(-(hand[1] - wrist[1]), hand[0] - wrist[0]))
        self.canvas.disc(middle, 0.028, 0.017, color, angle)
        _limb(self.canvas, strip[half:], elbow, wrist, (0.025 + cuff) * girth, (0.025 + cuff) * girth, 0.017 + cuff)
        _limb(
            self.canvas,
            strip[:half],
            shoulder,
            elbow,
            (0.029 + sleeve) * girth,
            (0.031 + sleeve) * girth,
            (0.025 + max(cuff, sleeve * 0.5)) * girth,
        )

    def draw_head(self) -> None:
        """Neck and head with its face or the hair behind it."""
        neck, head = self.bones.axis[1, :2], self.bones.axis[2, :2]
        scale, turn = self.person.body.head, self.bones.head_yaw
        rx = math.sqrt((0.046 * math.cos(turn)) ** 2 + (0.054 * math.sin(turn)) ** 2) * scale
        ry = 0.068 * scale
        skin = toned(self.person.body.skin, 0.78)
        (x, y), (top_x, top_y), width = neck.tolist(), head.tolist(), 0.026
        y, top_y, slim = y - 0.008, top_y - 0.03, 0.9 * width
        throat = ((x - width, y), (x + width, y), (top_x + slim, top_y), (top_x - slim, top_y))
        self.canvas.fill(np.array(throat), skin)
        outline = head + _HEAD * (rx, ry)
        strip = self._strip(self.textures.head, turn, 36)
        self.canvas.wrap(strip, np.array((head + (0, ry), head - (0, ry))), rx, outline)


def draw_figure(
    canvas: Canvas,
    person: Identity,
    textures: Textures,
    yaw: float,
    gait: Gait,
    light: Light,
    pitch: float = 0.1,
) -> None:
    """Paint a person onto `canvas`.

    Args:
        canvas: image and place; the ground point of the person is (canvas.x, canvas.y).
        person: who.
        textures: of `person`, from `make_textures`.
        yaw: heading in radians; 0 faces the viewer, pi shows the back, pi/2 walks to the right of the image.
        gait: posture.
        light: direction and contrast of the shading.
        pitch: how far the camera looks down.
    """
    bones = pose(person.body, gait, yaw, pitch)
    painter = _Painter(canvas, person, textures, bones, light)
    limbs = bones.limbs
    head_facing = math.cos(bones.head_yaw) > 0.15
    far_arm = int(limbs[0, 5, 2] > limbs[1, 5, 2])
    arms_apart = abs(limbs[0, 5, 2] - limbs[1, 5, 2]) > 0.07
    far_leg = int(limbs[0, 2, 2] > limbs[1, 2, 2])
    layer = bag_layer(person, bones)

    if layer == 0:
        draw_bag(canvas, person, bones)
    if head_facing:
        draw_hair(canvas, person, bones)
    if arms_apart:
        painter.draw_arm(far_arm, far=True)
    painter.draw_leg(far_leg, far=True)
    painter.draw_leg(1 - far_leg, far=False)
    painter.draw_trunk()
    if not arms_apart:
        painter.draw_arm(far_arm, far=False)
    painter.draw_head()
    if not head_facing:
        draw_hair(canvas, person, bones)
    draw_hat(canvas, person, bones)
    if layer == 1:
        draw_bag(canvas, person, bones)
    painter.draw_arm(1 - far_arm, far=False)
    if layer == 2:
        draw_bag(canvas, person, bones)
