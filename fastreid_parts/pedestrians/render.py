"""One image: a person in a place, seen by a camera, with everything that makes it hard to say who it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .camera import make_cameras, noise_tile, photograph
from .canvas import Canvas
from .figure import Light, draw_figure
from .identity import Identity, sample_identities
from .nuisances import Nuisances
from .pose import Gait
from .props import Prop, make_props
from .scene import GREY, MARGIN, WIDTH, Scene, make_scene
from .texture import make_textures

_OVERSAMPLING = 1.5
_FILL, _FEET = 0.93, 0.965  # a perfect box: height of the person in it, and where the feet are
_PASSERS_BY, _PASSERS_SPLIT = 16, 2
_STEPS = 8  # of the walking cycle of somebody who crosses

# One row of random numbers for each of these, so that a strength never changes what another nuisance draws
POSE, VIEW, LIGHT, BOX, OCCLUDER, BACKGROUND, CAMERA = range(7)


class View(NamedTuple):
    """Where a person walks, and how.

    Attributes:
        yaw: heading in radians; 0 faces the camera, pi shows the back, pi/2 walks to the right of the image.
        across: place in the scene from left (0) to right (1).
        depth: place in the scene from far (0) to near (1).
        phase: of the walking cycle, radians.
    """

    yaw: float = 0.0
    across: float = 0.5
    depth: float = 0.5
    phase: float = 0.8


class Crossing(NamedTuple):
    """Somebody or something that crosses the box.

    Attributes:
        shift: from the person to its middle, body heights, positive to the right.
        heading: of somebody who walks, radians as in `View`.
        phase: of the walking cycle, radians.
    """

    shift: float
    heading: float
    phase: float


class Moment(NamedTuple):
    """One of the consecutive moments of a walk, and what changes with them.

    Attributes:
        view: where the person is.
        draws: (7, 10), from 0 to 1, in place of random numbers.
        crossing: what is in front, and who walks further away on the left and on the right; where the draws say so.
    """

    view: View
    draws: np.ndarray
    crossing: tuple[Crossing, Crossing, Crossing]


def sample_view(rng: np.random.Generator, viewpoint: float = 1.0) -> View:
    """Draw a view: a third of the headings are frontal, a third from behind, a third from the sides.

    Args:
        rng: four numbers are drawn from it, whatever the strength.
        viewpoint: strength; 0 leaves only frontal views, 1 all of them.
    """
    choice, spread, across, depth = rng.random(4)
    middle = 0.0 if choice < 0.35 else math.pi if choice < 0.7 else math.copysign(math.pi / 2, choice - 0.85)
    yaw = middle + (2 * spread - 1) * 0.6
    yaw = math.atan2(math.sin(yaw), math.cos(yaw)) * min(1.0, viewpoint)
    return View(yaw, float(across), float(depth), float(2 * math.pi * spread * 7 % (2 * math.pi)))


def _bell(uniform: float) -> float:
    """A number about 0 with standard deviation 1, never beyond 2.5, from a uniform one."""
    centerd = 2 * uniform - 1
    return 1.45 * centerd * (0.72 + centerd * centerd)


class Studio:
    """Scenes, cameras, passers-by and props of one dataset; renders images of given people.

    Args:
        seed: of the dataset, not negative.
        cameras: how many.
        nuisances: strengths; all of them 1 by default.
        size: (H, W) of the images in pixels.
    """

    def __init__(
        self,
        seed: int,
        cameras: int = 6,
        nuisances: Nuisances | None = None,
        size: tuple[int, int] = (128, 64),
    ) -> None:
        self.nuisances = Nuisances() if nuisances is None else nuisances
        self.size = size
        self.cameras = make_cameras(seed, cameras, self.nuisances.camera)
        self._noise = [noise_tile(seed, camera, size) for camera in self.cameras]
        self._scenes = [make_scene(seed, camera.number) for camera in self.cameras]
        contrast = min(1.0, self.nuisances.background)
        if contrast < 1:
            grey = np.uint8(GREY)
            self._scenes = [
                s._replace(image=np.rint(grey + contrast * (s.image - np.float32(grey))).astype(np.uint8))
                for s in self._scenes
            ]
        self._props = make_props(seed)
        self._people = sample_identities(seed, _PASSERS_SPLIT, _PASSERS_BY)
        self._passers_by = [
            _cut_figure(person, index * 2 * math.pi / 8, index * 0.7) for index, person in enumerate(self._people)
        ]
        self._walking: dict[tuple[int, float, int], Prop] = {}  # passers-by in a walk, cut when they are needed
        self._shadow = _soft_ellipse()

    def render(self, identity: Identity, camera: int, view: View, rng: np.random.Generator) -> np.ndarray:
        """Render one image of a person.

        Args:
            identity: who.
            camera: number of the camera, from 1.
            view: heading and place.
            rng: decides everything else; the same state gives the same image.

        Returns:
            (H, W, 3) uint8 BGR.

        Raises:
            ValueError: there is no camera of that number.
        """
        return self._render(identity, camera, view, rng.random((7, 10)), 0.0)

    def render_distractor(self, camera: int, view: View, rng: np.random.Generator) -> np.ndarray:
        """Render a false detection: background, a thing, or a passer-by whom the box hardly touches.

        Args:
            camera: as in `render`.
            view: as in `render`.
            rng: as in `render`.

        Returns:
            As `render`, whose errors it raises as well.
        """
        draws = rng.random((7, 10))
        draws[OCCLUDER, 0] *= 0.3  # things are often taken for people
        return self._render(None, camera, view, draws, math.copysign(0.3 + 0.12 * rng.random(), rng.random() - 0.5))

    def render_moment(self, identity: Identity, camera: int, moment: Moment) -> np.ndarray:
        """Render one image of a person who walks; those of consecutive moments differ as little as these do.

        Args:
            identity: as in `render`.
            camera: as in `render`.
            moment: where the person is, and what else is to be seen.

        Returns:
            As `render`, whose errors it raises as well.
        """
        return self._render(identity, camera, moment.view, moment.draws, 0.0, moment.crossing)

    def scene(self, camera: int) -> Scene:
        """Give what a camera looks at.

        Args:
            camera: as in `render`.

        Raises:
            ValueError: there is no camera of that number.
        """
        if not 1 <= camera <= len(self.cameras):
            raise ValueError(f"there is no camera {camera}; this studio has cameras 1 to {len(self.cameras)}")
        return self._scenes[camera - 1]

    def box(self, camera: int, moment: Moment) -> tuple[float, float, float, float]:
        """Give the box of an image: left, top, width and height in pixels of the camera's frame.

        Args:
            camera: as in `render`.
            moment: as in `render_moment`.

        Raises:
            ValueError: there is no camera of that number.
        """
        canvas = self._frame(moment.draws[BOX], 0.0)
        _, per_pixel, left, top = _placed(self.scene(camera), moment.view, canvas)
        height, width = canvas.image.shape[:2]
        return left, top, width * per_pixel, height * per_pixel

    def _render(
        self,
        identity: Identity | None,
        camera: int,
        view: View,
        draws: np.ndarray,
        miss: float,
        crossing: Sequence[Crossing | None] = (None, None, None),
    ) -> np.ndarray:
        scene, optics = self.scene(camera), self.cameras[camera - 1]
        canvas = self._frame(draws[BOX], miss)

        depth, per_pixel, left, top = _placed(scene, view, canvas)
        canvas.image = _crop(scene.image, left, top, per_pixel, canvas)

        self._add_walkers(canvas, draws[BACKGROUND], depth / per_pixel, crossing[1:])
        hard = 0.35 + 0.1 * round(3 * draws[LIGHT, 0] * min(1.0, self.nuisances.illumination))
        light = Light(optics.light, hard)
        if identity is not None:
            self._add_shadow(canvas)
            gait, turn = self._gait(view, draws[POSE])
            draw_figure(canvas, identity, make_textures(identity), view.yaw + turn, gait, light, scene.pitch)
        elif draws[POSE, 0] < 0.5:
            self._paste_passer_by(canvas, int(draws[POSE, 1] * _PASSERS_BY), canvas.x, canvas.y, canvas.unit)
        self._add_occluder(canvas, draws[OCCLUDER], crossing[0])

        image = cv2.resize(canvas.image, self.size[::-1], interpolation=cv2.INTER_LINEAR)
        image, exposure = self._illuminate(image, draws[LIGHT])
        window = (float(draws[CAMERA, 0]), float(draws[CAMERA, 1]))
        return photograph(image, optics, exposure, self._noise[camera - 1], window)

    def _frame(self, u: np.ndarray, miss: float) -> Canvas:
        """The box that the detector gives: shifted, too large or too small, cut off at one end, stretched."""
        s = self.nuisances.detector
        height, width = round(self.size[0] * _OVERSAMPLING), self.size[1] * _OVERSAMPLING
        scale = math.exp(-0.015 * s + 0.045 * s * _bell(u[0]))
        stretch = math.exp(0.035 * s * _bell(u[1]))
        x, y = 0.5 + 0.035 * s * _bell(u[2]) + miss, _FEET + 0.018 * s * _bell(u[3])
        if u[4] < 0.08 * s:  # a part of the body only, at its full width, so it appears stretched
            kept = 0.66 + 0.2 * u[5]
            scale, stretch = scale / kept, stretch / kept
            if u[6] < 0.65:  # the legs are missing
                y = 0.035 + (y - 0.035) / kept
        canvas_width = max(16, round(width * stretch))
        image = np.empty((height, canvas_width, 3), np.uint8)
        return Canvas(image, x * canvas_width, y * height, _FILL * scale * height)

    def _gait(self, view: View, u: np.ndarray) -> tuple[Gait, float]:
        s = self.nuisances.pose
        bend = [0.1, 0.1]
        if u[0] < 0.28 * s:  # one hand is up: a telephone, a bag strap, a pocket
            bend[int(u[1] < 0.5)] = 0.6 + 1.3 * u[2]
        gait = Gait(
            phase=view.phase + 0.4 * s * (u[3] - 0.5),
            stride=s * (0.1 if u[4] < 0.15 else 0.55 + 0.5 * u[4]),
            bend=(bend[0], bend[1]),
            spread=(0.1 + 0.1 * s * u[5], 0.1 + 0.1 * s * u[6]),
            lean=0.02 * s * _bell(u[7]),
            head=0.3 * s * _bell(u[8]),
        )
        return gait, 0.1 * s * _bell(u[9])

    def _add_walkers(self, canvas: Canvas, u: np.ndarray, depth: float, crossing: Sequence[Crossing | None]) -> None:
        """Other people further away; `depth` is the distance from the feet up to the horizon, in canvas pixels."""
        for first, walker in zip((0, 4), crossing):
            if u[first] < 0.26 * self.nuisances.background:
                ratio = 0.4 + 0.4 * u[first + 1]
                shift = (0.14 + 0.3 * u[first + 2]) * (1 if first else -1) if walker is None else walker.shift
                x, index = canvas.x + shift * canvas.unit, int(u[first + 3] * _PASSERS_BY)
                self._paste_passer_by(canvas, index, x, canvas.y - (1 - ratio) * depth, ratio * canvas.unit, walker)

    def _add_shadow(self, canvas: Canvas) -> None:
        height, width = canvas.image.shape[:2]
        half, rows = 0.2 * canvas.unit, 0.05 * canvas.unit
        top = max(0, math.floor(canvas.y - rows))
        if top >= height:
            return
        size = self._shadow.shape[0]
        matrix = np.array(((2 * half / size, 0, canvas.x - half), (0, 2 * rows / size, canvas.y - rows - top)))
        ground = canvas.image[top:]
        soft = cv2.warpAffine(self._shadow, matrix, (width, height - top), borderValue=(255, 255, 255))
        canvas.image[top:] = cv2.multiply(ground, soft, scale=1 / 255)

    def _paste_passer_by(
        self, canvas: Canvas, index: int, x: float, y: float, unit: float, walker: Crossing | None = None
    ) -> None:
        prop = self._passers_by[index]
        if walker is not None:
            step = int(walker.phase / (2 * math.pi) * _STEPS) % _STEPS
            key = index, walker.heading, step
            if key not in self._walking:
                self._walking[key] = _cut_figure(self._people[index], walker.heading, 2 * math.pi * step / _STEPS)
            prop = self._walking[key]
        _paste(canvas, prop, x, y + 0.02 * unit, unit * 1.03 / prop.image.shape[0])

    def _add_occluder(self, canvas: Canvas, u: np.ndarray, crossing: Crossing | None) -> None:
        if u[0] >= 0.18 * self.nuisances.occlusion:
            return
        side, unit = (1 if u[1] < 0.5 else -1), canvas.unit
        if u[2] < 0.35:
            ratio = 1.03 + 0.12 * u[3]
            shift = side * (0.15 + 0.14 * u[4]) if crossing is None else crossing.shift
            x, y = canvas.x + shift * unit, canvas.y + (ratio - 1) * unit
            self._paste_passer_by(canvas, int(u[5] * _PASSERS_BY), x, y, ratio * unit, crossing)
            return
        prop = self._props[int(u[5] * len(self._props))]
        size, low, off = {
            "pole": (0.085 + 0.03 * u[3], 0.04, 0.18),
            "car": (2.3, 0.08 + 0.2 * u[3], 0.9),
            "bench": (0.95, 0.02 + 0.08 * u[3], 0.4),
            "bush": (0.55 + 0.3 * u[3], 0.05, 0.28),
        }[prop.kind]
        scale = size * unit / prop.image.shape[1]
        stretch = 1.3 * unit / (scale * prop.image.shape[0]) if prop.kind == "pole" else 1.0
        shift = side * off * u[4] if crossing is None else crossing.shift
        _paste(canvas, prop, canvas.x + shift * unit, canvas.y + low * unit, scale, stretch)

    def _illuminate(self, image: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, float]:
        """Uneven light and a cast shadow on the image, and the exposure that is left to the camera."""
        s = self.nuisances.illumination
        if s == 0:
            return image, 1.0
        corners = np.exp(s * 0.12 * (2 * u[1:5].reshape(2, 2) - 1)).astype(np.float32)
        height, width = image.shape[:2]
        field = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
        if u[5] < 0.15 * s:  # the shadow of a roof or a tree
            slope, level = 2.4 * (u[6] - 0.5), 0.25 + 0.6 * u[7]
            edge = (np.linspace(0, 1, height)[:, None] - level + slope * np.linspace(-0.5, 0.5, width)) * 14
            field *= 1 - min(0.8, 0.32 * s) / (1 + np.exp(edge if u[8] < 0.5 else -edge)).astype(np.float32)
        factor = cv2.convertScaleAbs(field, alpha=128)
        return cv2.multiply(image, cv2.merge((factor, factor, factor)), scale=1 / 128), math.exp(0.08 * s * _bell(u[9]))


def _placed(scene: Scene, view: View, canvas: Canvas) -> tuple[float, float, float, float]:
    """Rows from the horizon to the feet; scene pixels for one pixel of the canvas, and left and top of it there."""
    row = scene.row(view.depth)
    column = (0.06 + 0.88 * view.across) * WIDTH
    per_pixel = scene.rise * (row - scene.horizon) / canvas.unit
    return row - scene.horizon, per_pixel, column - per_pixel * canvas.x, row - per_pixel * canvas.y


def _crop(scene: np.ndarray, left: float, top: float, per_pixel: float, canvas: Canvas) -> np.ndarray:
    """What the box of `canvas` shows of a scene, `per_pixel` scene pixels to a pixel."""
    height, width = canvas.image.shape[:2]
    rows, columns = min(scene.shape[0], round(height * per_pixel)), min(scene.shape[1], round(width * per_pixel))
    y = min(max(0, round(top) + MARGIN), scene.shape[0] - rows)
    x = min(max(0, round(left) + MARGIN), scene.shape[1] - columns)
    return cv2.resize(scene[y : y + rows, x : x + columns], (width, height), interpolation=cv2.INTER_LINEAR)


def _soft_ellipse() -> np.ndarray:
    """(64, 64, 3) uint8: the factor, times 255, of the shadow under a person."""
    grid = np.linspace(-1, 1, 64)
    inside = np.clip(1.05 - np.hypot(grid[:, None], grid[None]), 0, 1)
    return np.repeat((255 * (1 - 0.62 * inside**0.7))[..., None], 3, axis=2).astype(np.uint8)


def _cut_figure(person: Identity, heading: float, phase: float) -> Prop:
    """A passer-by as a prop: one heading, one step."""
    canvas = Canvas(np.zeros((256, 160, 3), np.uint8), 80.0, 251.0, 248.0, np.zeros((256, 160), np.uint8))
    gait = Gait(phase=phase, stride=0.8)
    draw_figure(canvas, person, make_textures(person), heading, gait, Light())
    assert canvas.stencil is not None
    return Prop("passer-by", canvas.image, canvas.stencil)


def _paste(canvas: Canvas, prop: Prop, x: float, y: float, scale: float, stretch: float = 1.0) -> None:
    """Put a prop on the canvas: its lower edge's middle at (x, y), `stretch` times as high as it would be."""
    rows, columns = prop.mask.shape
    left, top = x - columns * scale / 2, y - rows * scale * stretch
    height, width = canvas.image.shape[:2]
    x0, y0 = max(0, math.floor(left)), max(0, math.floor(top))
    x1, y1 = min(width, math.ceil(left + columns * scale)), min(height, math.ceil(y))
    if x1 <= x0 or y1 <= y0:
        return
    matrix = np.array(((scale, 0, left - x0), (0, scale * stretch, top - y0)))
    size = (x1 - x0, y1 - y0)
    image = cv2.warpAffine(prop.image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(prop.mask, matrix, size, flags=cv2.INTER_NEAREST)
    cv2.copyTo(image, mask, canvas.image[y0:y1, x0:x1])
