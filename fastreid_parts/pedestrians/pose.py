"""Where the joints of a walking person are, seen from a heading: a small 3-D skeleton and its projection."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .identity import Body

SHOULDER_Y, HIP_Y, NECK_Y, HEAD_Y = 0.795, 0.5, 0.845, 0.932
_THIGH, _SHIN, _UPPER_ARM, _FOREARM = 0.235, 0.225, 0.165, 0.14


class Gait(NamedTuple):
    """How a person holds the body at one moment; the default stands upright.

    Attributes:
        phase: of the walking cycle, radians.
        stride: 0 stands, 1 walks with the usual step.
        bend: flexion of the left and the right elbow, radians, beyond what walking brings.
        spread: how far the left and the right arm stand off the body, radians.
        lean: of the whole body to the side, radians.
        head: heading of the head relative to the body, radians.
    """

    phase: float = 0.0
    stride: float = 0.0
    bend: tuple[float, float] = (0.1, 0.1)
    spread: tuple[float, float] = (0.1, 0.1)
    lean: float = 0.0
    head: float = 0.0


class Skeleton(NamedTuple):
    """Joints of a person in view coordinates: x to the right of the image, y up from the ground, z to the viewer.

    All of them in body heights. Pairs are (left, right) of the person. `limbs` is (2, 9, 3) with the joints hip, knee,
    ankle, heel, toe, shoulder, elbow, wrist, hand; `axis` is (4, 3) with pelvis, neck, head and hair root (the back
    of the head).
    """

    limbs: np.ndarray
    axis: np.ndarray
    yaw: float
    head_yaw: float


def _leg(side: int, body: Body, gait: Gait) -> list[tuple[float, float, float]]:
    phase = gait.phase + (0.0 if side > 0 else math.pi)
    swing = 0.38 * gait.stride * math.sin(phase)
    flex = gait.stride * (0.08 + 0.75 * max(0.0, math.cos(phase + 0.35)) ** 1.5)
    x = side * 0.046 * body.hips
    knee_y = HIP_Y - _THIGH * math.cos(swing)
    knee_z = _THIGH * math.sin(swing)
    shin = swing - flex
    ankle_y, ankle_z = knee_y - _SHIN * math.cos(shin), knee_z + _SHIN * math.sin(shin)
    lift = 0.7 * shin if shin < 0 else 0.35 * shin  # heel off the ground behind, toe off the ground in front
    cos, sin = math.cos(lift), math.sin(lift)
    out = side * 0.012
    heel = (x, ankle_y - 0.022 * cos - 0.03 * sin, ankle_z - 0.028 * cos)
    toe = (x + out, ankle_y - 0.026 * cos + 0.092 * sin, ankle_z + 0.092 * cos)
    return [(x, HIP_Y, 0.0), (x * 0.95, knee_y, knee_z), (x * 0.85, ankle_y, ankle_z), heel, toe]


def _arm(side: int, body: Body, gait: Gait) -> list[tuple[float, float, float]]:
    index = 0 if side > 0 else 1
    swing = -0.42 * gait.stride * math.sin(gait.phase + (0.0 if side > 0 else math.pi))
    elbow = swing + 0.25 * gait.stride + gait.bend[index]
    out = gait.spread[index]
    x = side * 0.102 * body.shoulders
    ex = x + side * _UPPER_ARM * math.sin(out)
    ey = SHOULDER_Y - _UPPER_ARM * math.cos(out) * math.cos(swing)
    ez = _UPPER_ARM * math.sin(swing)
    inward = side * (0.3 * out - 0.25 * max(0.0, gait.bend[index] - 0.3))
    wx = ex + _FOREARM * math.sin(inward)
    wy, wz = ey - _FOREARM * math.cos(elbow), ez + _FOREARM * math.sin(elbow)
    hx = wx + 0.3 * (wx - ex)
    return [(x, SHOULDER_Y, 0.0), (ex, ey, ez), (wx, wy, wz), (hx, wy + 0.26 * (wy - ey), wz + 0.26 * (wz - ez))]


def pose(body: Body, gait: Gait, yaw: float, pitch: float) -> Skeleton:
    """Joints in view coordinates.

    Args:
        body: proportions.
        gait: posture.
        yaw: heading in radians; 0 faces the viewer, pi/2 walks to the right of the image.
        pitch: how far the camera looks down, as the drop on the image of one unit towards the viewer.

    Returns:
        The skeleton, standing on the ground with its lower foot.
    """
    rows = _leg(1, body, gait) + _arm(1, body, gait) + _leg(-1, body, gait) + _arm(-1, body, gait)
    head = yaw + gait.head
    rows += [(0.0, HIP_Y, 0.0), (0.0, NECK_Y, 0.0), (0.0, HEAD_Y, 0.012), (0.0, HEAD_Y, 0.0)]
    joints = np.array(rows)
    joints[:, 1] -= min(joints[3:5, 1].min(), joints[12:14, 1].min()) - 0.012
    cos, sin = math.cos(yaw), math.sin(yaw)
    x, y, z = joints[:, 0], joints[:, 1], joints[:, 2]
    view = np.stack([x * cos + z * sin, y, z * cos - x * sin], axis=1)
    view[:, 1] -= pitch * view[:, 2]
    view[:, 0] += gait.lean * view[:, 1]
    root = view[-2].copy()
    view[-1] = root + (-0.052 * math.sin(head), 0.0, -0.052 * math.cos(head))
    return Skeleton(view[:18].reshape(2, 9, 3), view[18:], yaw, head)
