"""Who walks past which camera, when, and how: settled before anything is drawn.

Cameras 1 and 2 see the same place, the others stand around it. A person passes a camera, walks to the next one in no
less than the time that a fast walk takes, and is at one place at a time; a person under camera 1 or 2 is mostly seen by
the other as well. Whatever stands or walks between a person and a camera comes and goes, as its position and that of
the person change.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .nuisances import Nuisances
from .render import BACKGROUND, BOX, CAMERA, LIGHT, OCCLUDER, POSE, Crossing, Moment, View, sample_view
from .scene import WIDTH, Scene

FPS = 5
CAMERAS = 6
OVERLAPPING = (1, 2)  # see the same place
_PERIOD = 600.0  # seconds within which everybody comes
_VISITS, _PASSING = (3, 7), (2.0, 5.0)  # of a person; seconds of a visit
_LINGERS = 20.0  # seconds between two cameras, on average, beyond the way
_BOTH = 0.7  # who is under one of two cameras that see the same place is under both
_RADIUS, _PACE, _FASTEST = 40.0, (1.1, 1.8), 2.0  # meters; meters a second
_HEIGHT = 1.72  # of a body, meters
_FOCAL = 1400.0  # pixels of a scene
_CYCLE = 0.82  # body heights of one cycle of walking, two steps

_SLOT = 5.0  # seconds in which at most one thing crosses in front, and one walker on either side behind
_DRIFT = 1.5  # seconds over which what drifts becomes something else
# What a person, a tracker or a light has for a whole track: (row, column) of the draws
_KEPT = ((POSE, 0), (POSE, 1), (POSE, 2), (POSE, 4), (LIGHT, 0), (LIGHT, 5), (LIGHT, 6), (LIGHT, 8))
_WALKS, _LOOKS = 12, 13  # numbers of the random streams


class Track(NamedTuple):
    """Consecutive frames of one person under one camera.

    Attributes:
        camera: from 1.
        number: of the track under its camera, from 1 in the order of their begin.
        person: place in the list of people.
        visit: of this person, from 0; two tracks of one visit show it from two sides.
        start: number of its first frame; frame 1 of every camera is taken at 0 seconds.
        frames: how many.
        pace: of the person, body heights a second.
    """

    camera: int
    number: int
    person: int
    visit: int
    start: int
    frames: int
    pace: float

    @property
    def folder(self) -> str:
        """Give the folder of its images, below that of the set: camera/track."""
        return f"c{self.camera}/{self.number}"

    @property
    def names(self) -> list[str]:
        """List its images, below the folder of the set."""
        return [f"{self.folder}/{frame:08d}.jpg" for frame in range(self.start, self.start + self.frames)]


def least_seconds(one: int, other: int) -> float:
    """Tell how long a fast walk from one camera to another takes, rounded down to tenths; 0 where they see one place.

    Args:
        one: number of a camera.
        other: number of another.
    """
    places = [max(number, 2) - 2 for number in (one, other)]
    apart = 2 * _RADIUS * abs(math.sin(math.pi * (places[0] - places[1]) / (CAMERAS - 1)))
    return math.floor(10 * apart / _FASTEST) / 10


def plan_walks(seed: int, part: int, people: int) -> list[Track]:
    """Lay out who passes which camera when.

    Args:
        seed: of the dataset.
        part: which of the sets of people under its cameras.
        people: how many.

    Returns:
        Tracks in the order of cameras and their numbers.
    """
    tracks: list[Track] = []
    for person in range(people):
        rng = np.random.default_rng([seed, _WALKS, part, person])
        pace = float(rng.uniform(*_PACE))
        at, camera = float(rng.uniform(0, _PERIOD)), int(rng.integers(1, CAMERAS + 1))
        for visit in range(int(rng.integers(_VISITS[0], _VISITS[1] + 1))):
            first, frames = 1 + math.ceil(at * FPS), round(float(rng.uniform(*_PASSING)) * FPS)
            track = Track(camera, 0, person, visit, first, frames, pace / _HEIGHT)
            tracks.append(track)
            shift, both = int(rng.integers(-frames // 3, frames // 3 + 1)), rng.random() < _BOTH
            last = first + frames
            if both and camera in OVERLAPPING:
                begin = max(1, first + shift)
                tracks.append(track._replace(camera=sum(OVERLAPPING) - camera, start=begin))
                last = max(last, begin + frames)
            following = int(rng.integers(1, CAMERAS + 1))
            way = _FASTEST * least_seconds(camera, following) / pace
            at, camera = last / FPS + 1 + way + float(rng.exponential(_LINGERS)), following
    tracks.sort(key=lambda track: (track.camera, track.start, track.person))
    count = [0] * (CAMERAS + 1)
    numbered = []
    for track in tracks:
        count[track.camera] += 1
        numbered.append(track._replace(number=count[track.camera]))
    return numbered


def moments(track: Track, seed: int, part: int, scene: Scene, nuisances: Nuisances) -> list[Moment]:
    """Lay out what is to be seen in each frame of a track.

    Args:
        track: which.
        seed: of the dataset.
        part: as in `plan_walks`.
        scene: of its camera.
        nuisances: strengths; random numbers are the same ones for all of them.
    """
    rng = np.random.default_rng([seed, _LOOKS, part, track.person, track.visit, track.camera])
    seconds = np.arange(track.frames) / FPS
    views = _walk(track, sample_view(rng, nuisances.viewpoint), float(rng.uniform(-0.15, 0.15)), seconds, scene)
    draws = _drifting(rng, seconds)
    kept = rng.random((7, 10))
    for row, column in _KEPT:
        draws[:, row, column] = kept[row, column]
    draws[:, CAMERA] = rng.random((len(seconds), 10))  # the noise of a sensor is another in every frame
    begin = float(rng.uniform(0, _SLOT))
    slots = np.floor((seconds + begin) / _SLOT).astype(int)
    chances = rng.random((slots.max() + 1, 3, 10))
    crossing = []
    for place, slot in enumerate(slots):
        at = float(seconds[place] + begin - (slot + 0.5) * _SLOT)
        front, left, right = chances[slot]
        draws[place, OCCLUDER, 2:6] = front[2:6]
        draws[place, OCCLUDER, 0] = float(front[0] >= 0.5 * nuisances.occlusion)
        side = math.sin(views[track.frames // 2].yaw)
        passer = front[2] < 0.35 or abs(side) < 0.75
        if passer:
            draws[place, OCCLUDER, 2] = 0.0
        # What stands is passed at the person's own pace, who walks meets or overtakes the person
        speed = math.copysign(0.8 + 0.6 * front[6], front[7] - 0.5) if passer else -side * max(0.8, track.pace)
        crossing.append([_crossing(speed, at, 0.6 * front[8] - 0.3)])
        for first, walker in ((0, left), (4, right)):
            draws[place, BACKGROUND, first : first + 4] = walker[:4]
            draws[place, BACKGROUND, first] = float(walker[0] >= 0.4 * nuisances.background)
            speed = math.copysign(0.35 + 0.4 * walker[4], walker[5] - 0.5)
            crossing[-1].append(_crossing(speed, at, 1.2 * walker[6] - 0.6))
    return [Moment(view, draws[place], tuple(crossing[place])) for place, view in enumerate(views)]  # type: ignore[arg-type]


def _crossing(speed: float, at: float, late: float) -> Crossing:
    """Something in front or behind, `at` seconds after the middle of its time."""
    heading = math.copysign(math.pi / 2, speed)
    return Crossing(speed * (at - late), heading, 2 * math.pi / _CYCLE * abs(speed) * (at + _SLOT))


def _walk(track: Track, middle: View, turn: float, seconds: np.ndarray, scene: Scene) -> list[View]:
    """Views of a straight walk, or one that turns by `turn` radians a second, that is at `middle` halfway.

    A person h pixels high is f / h body heights away, for a focal length of f pixels; where the walk would leave the
    scene, it is moved into it, and made shorter if it is too long.
    """
    from_middle = seconds - seconds.mean()
    yaw = middle.yaw + turn * from_middle
    away = _FOCAL / (scene.rise * (scene.row(middle.depth) - scene.horizon))
    aside = (0.06 + 0.88 * middle.across - 0.5) * WIDTH * away / _FOCAL
    step = track.pace / FPS
    aside = aside + _from_middle(step * np.sin(yaw))
    nearest, farthest = (_FOCAL / (scene.rise * (scene.row(depth) - scene.horizon)) for depth in (1.0, 0.0))
    away = _within(away - _from_middle(step * np.cos(yaw)), nearest, farthest)
    row = scene.horizon + _FOCAL / (away * scene.rise)
    depth = ((row - scene.far) / (scene.near - scene.far) - 0.15) / 0.85
    across = _within((aside * _FOCAL / away / WIDTH + 0.44) / 0.88, 0.0, 1.0)
    phase = middle.phase + 2 * math.pi / _CYCLE * track.pace * seconds
    return [View(*map(float, one)) for one in zip(yaw, across, depth.clip(0, 1), phase)]


def _from_middle(steps: np.ndarray) -> np.ndarray:
    """Way gone from the middle frame on, and back to it."""
    way = np.cumsum(steps)
    return way - way[len(way) // 2]


def _within(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Move values into a range as one, and squeeze them where they take more."""
    least, most = values.min(), values.max()
    if most - least > high - low:
        values = least + (values - least) * (high - low) / (most - least)
        most = values.max()
    return values + max(0.0, low - least) - max(0.0, most + max(0.0, low - least) - high)


def _drifting(rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """(frames, 7, 10) numbers from 0 to 1, each evenly spread over them, and near to that of the frame before."""
    knots = rng.standard_normal((int(seconds[-1] / _DRIFT) + 2, 7, 10))
    place, rest = np.divmod(seconds / _DRIFT, 1.0)
    weight = (0.5 - 0.5 * np.cos(np.pi * rest))[:, None, None]
    before, after = knots[place.astype(int)], knots[place.astype(int) + 1]
    values = ((1 - weight) * before + weight * after) / np.hypot(1 - weight, weight)
    # A detector is a little off in every frame, by itself: size, width, place
    fresh = rng.standard_normal((len(seconds), 4))
    values[:, BOX, :4] = 0.95 * values[:, BOX, :4] + math.sqrt(1 - 0.95**2) * fresh
    return np.vectorize(lambda value: 0.5 + 0.5 * math.erf(value / math.sqrt(2)))(values)
