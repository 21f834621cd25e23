"""An image that is painted in body heights, at a higher resolution than it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .color import Color

_SHIFT = 4  # binary places of the coordinates that OpenCV draws with
_FINE = 1 << _SHIFT


@dataclass
class Canvas:
    """An image with a place to stand: (x, y) are the pixels of the ground under the person, `unit` its height."""

    image: np.ndarray  # (H, W, 3) uint8, changed in place
    x: float
    y: float
    unit: float
    stencil: np.ndarray | None = None  # (H, W) uint8, 255 where something was painted

    def __post_init__(self) -> None:
        self._scale = np.array((self.unit, -self.unit)) * _FINE
        self._origin = np.array((self.x, self.y)) * _FINE + 0.5

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) lengths to (..., 2) pixels with `_SHIFT` binary places."""
        return (points * self._scale + self._origin).astype(np.int32)

    def fill(self, points: np.ndarray, color: Color) -> None:
        """Fill a polygon with a flat color.

        Args:
            points: (N, 2), in lengths.
            color: of the polygon.
        """
        fixed = self._fixed(points)
        cv2.fillPoly(self.image, [fixed], color, cv2.LINE_8, _SHIFT)
        if self.stencil is not None:
            cv2.fillPoly(self.stencil, [fixed], 255, cv2.LINE_8, _SHIFT)

    def disc(self, center: np.ndarray, rx: float, ry: float, color: Color, tilt: float = 0.0) -> None:
        """Fill an ellipse with a flat color.

        Args:
            center: (2,), in lengths.
            rx: half width.
            ry: half height.
            color: of the ellipse.
            tilt: in degrees, clockwise.
        """
        where, fine = tuple(self._fixed(center).tolist()), self.unit * _FINE
        axes = (max(1, round(rx * fine)), max(1, round(ry * fine)))
        cv2.ellipse(self.image, where, axes, tilt, 0, 360, color, -1, cv2.LINE_8, _SHIFT)
        if self.stencil is not None:
            cv2.ellipse(self.stencil, where, axes, tilt, 0, 360, 255, -1, cv2.LINE_8, _SHIFT)

    def wrap(
        self,
        strip: np.ndarray,
        axis: np.ndarray,
        half: float,
        outline: np.ndarray,
        caps: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """Show a texture along an axis, inside an outline.

        Args:
            strip: (T, S, 3) uint8; its rows go from one end of the axis to the other.
            axis: (2, 2) lengths, start and end.
            half: how far the texture reaches to each side of the axis.
            outline: (N, 2) lengths, a polygon.
            caps: discs that the outline is joined with: the end of the axis (0 or 1) and the radius.
        """
        fixed, ends = self._fixed(outline), self._fixed(axis).tolist()
        rounds = [(*ends[end], max(1, round(radius * self.unit * _FINE))) for end, radius in caps]
        left, top, right, bottom = cv2.boundingRect(fixed)
        right, bottom = left + right, top + bottom
        for x, y, radius in rounds:
            left, top = min(left, x - radius), min(top, y - radius)
            right, bottom = max(right, x + radius), max(bottom, y + radius)
        height, full = self.image.shape[:2]
        x0, y0 = max(0, left >> _SHIFT), max(0, top >> _SHIFT)
        x1, y1 = min(full, (right >> _SHIFT) + 1), min(height, (bottom >> _SHIFT) + 1)
        if x1 <= x0 or y1 <= y0:
            return
        size, window = (x1 - x0, y1 - y0), np.s_[y0:y1, x0:x1]
        matrix = self._placement(strip, ends, half * self.unit, x0, y0)
        painted = cv2.warpAffine(strip, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros(size[::-1], np.uint8)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_8, _SHIFT, (-x0 * _FINE, -y0 * _FINE))
        for x, y, radius in rounds:
            cv2.circle(mask, (x - x0 * _FINE, y - y0 * _FINE), radius, 255, -1, cv2.LINE_8, _SHIFT)
        cv2.copyTo(painted, mask, self.image[window])
        if self.stencil is not None:
            self.stencil[window] |= mask

    @staticmethod
    def _placement(strip: np.ndarray, ends: list[list[int]], half: float, x0: int, y0: int) -> np.ndarray:
        """(2, 3) matrix from columns and rows of a texture to pixels of the window that starts at (x0, y0)."""
        (x, y), (to_x, to_y) = ends
        ax, ay, dx, dy = x / _FINE - x0, y / _FINE - y0, (to_x - x) / _FINE, (to_y - y) / _FINE
        length = math.hypot(dx, dy)
        if length < 2:  # it points at the viewer
            dx, dy, length = 0.0, 2.0, 2.0
        rows, columns = strip.shape[:2]
        across = 2 * half / columns / length
        right, down = (dy * across, -dx * across), (dx / rows, dy / rows)
        # The center of texel (0, 0) is half a texel from its corner; centers of pixels lie at whole numbers
        cx = ax - 0.5 + right[0] * (0.5 - columns / 2) + down[0] * 0.5
        cy = ay - 0.5 + right[1] * (0.5 - columns / 2) + down[1] * 0.5
        return np.array(((right[0], down[0], cx), (right[1], down[1], cy)))
