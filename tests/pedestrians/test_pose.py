"""A skeleton: its lengths, its step, and how it is seen from a heading."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastreid_parts.pedestrians.identity import sample_identities
from fastreid_parts.pedestrians.pose import Gait, Skeleton, pose

BODY = sample_identities(0, 0, 1)[0].body
HIP, KNEE, ANKLE, HEEL, TOE, SHOULDER, ELBOW, WRIST, HAND = range(9)
LEFT, RIGHT = 0, 1


def seen(yaw: float = 0.0, pitch: float = 0.0, **gait) -> Skeleton:
    return pose(BODY, Gait(**gait), yaw, pitch)


@pytest.mark.parametrize("phase", [0.0, 1.0, 2.5, 4.0])
def test_legs_keep_their_lengths_and_the_lower_foot_stands_on_the_ground(phase: float) -> None:
    bones = seen(phase=phase, stride=1.0)
    for leg in bones.limbs:
        # A knee is a little closer to the middle than a hip
        assert np.linalg.norm(leg[KNEE] - leg[HIP]) == pytest.approx(0.235, abs=1e-3)
        assert np.linalg.norm(leg[ANKLE] - leg[KNEE]) == pytest.approx(0.225, abs=1e-3)
    assert bones.limbs[:, (HEEL, TOE), 1].min() == pytest.approx(0.012)


def test_arms_swing_against_the_legs() -> None:
    forward = seen(phase=math.pi / 2, stride=1.0).limbs[..., 2]
    assert forward[LEFT, ANKLE] > 0.05 > -0.05 > forward[RIGHT, ANKLE]
    assert forward[LEFT, ELBOW] < -0.05 < 0.05 < forward[RIGHT, ELBOW]
    half_a_cycle_later = seen(phase=3 * math.pi / 2, stride=1.0).limbs[..., 2]
    assert half_a_cycle_later[RIGHT] == pytest.approx(forward[LEFT])
    standing = seen(phase=math.pi / 2).limbs[..., 2]
    assert standing[LEFT] == pytest.approx(standing[RIGHT])


def test_headings_turn_the_body_about_its_axis() -> None:
    front, back, side = seen(), seen(yaw=math.pi), seen(yaw=math.pi / 2)
    assert front.limbs[LEFT, SHOULDER, 0] > 0 > front.limbs[RIGHT, SHOULDER, 0]  # the person's left, facing the viewer
    assert back.limbs == pytest.approx(front.limbs * (-1, 1, -1))
    assert side.limbs[..., 0] == pytest.approx(front.limbs[..., 2])  # what pointed at the viewer points to the right
    assert side.limbs[:, TOE, 0].min() > side.limbs[:, HEEL, 0].max()


def test_posture() -> None:
    plain = seen()
    assert seen(lean=0.1).axis[2, 0] - plain.axis[2, 0] == pytest.approx(0.1 * plain.axis[2, 1])
    assert abs(seen(spread=(0.5, 0.1)).limbs[LEFT, HAND, 0]) > abs(plain.limbs[LEFT, HAND, 0]) + 0.03
    assert seen(bend=(1.5, 0.1)).limbs[LEFT, WRIST, 1] > plain.limbs[LEFT, WRIST, 1] + 0.05
    turned = seen(head=0.5)
    assert (turned.yaw, turned.head_yaw) == (0.0, 0.5) and turned.axis[3, 0] < plain.axis[3, 0]
    assert np.array_equal(turned.limbs, plain.limbs)
    from_above = seen(pitch=0.2, stride=1.0, phase=math.pi / 2).limbs
    level = seen(stride=1.0, phase=math.pi / 2).limbs
    assert from_above[..., 1] == pytest.approx(level[..., 1] - 0.2 * level[..., 2])
