"""Images made worse in one respect, by a stated amount: for accuracy over the strength of what cameras and boxes do.

A corruption draws its random numbers from the image's own pixels and a seed, whatever its strength. So an image at two
strengths differs in the strength alone, and a set is corrupted alike in any order and on any machine.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from ..seeding import derive_seed

_GRAY = 128  # of what stands in front


@dataclass(frozen=True)
class Corruption:
    """One way to make images worse.

    Attributes:
        unit: what its strength is.
        values: strengths, ascending; the first leaves an image as it is.
        highest: the greatest strength that there is.
        apply: (H, W, 3) uint8, a strength and a generator -> the same shape.
    """

    unit: str
    values: tuple[float, ...]
    highest: float
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]

    def check(self, value: float) -> None:
        """Check a strength.

        Raises:
            ValueError: it is beyond what there is.
        """
        if not self.values[0] <= value <= self.highest:
            raise ValueError(
                f"{value:g} is no strength: it goes from {self.values[0]:g} to {self.highest:g}, {self.unit}"
            )


class Corrupt:
    """A transform of PIL images that comes before all others.

    Args:
        name: one of `CORRUPTIONS`.
        value: the strength.
        seed: of the random numbers.

    Raises:
        ValueError: there is no such corruption or strength.
    """

    def __init__(self, name: str, value: float, seed: int = 0) -> None:
        if name not in CORRUPTIONS:
            raise ValueError(f"there is no corruption '{name}'; there are {', '.join(CORRUPTIONS)}")
        CORRUPTIONS[name].check(value)
        self.name, self.value, self.seed = name, value, seed

    def __call__(self, image: Image.Image) -> Image.Image:
        """Make one image worse."""
        corruption = CORRUPTIONS[self.name]
        if self.value == corruption.values[0]:
            return image
        pixels = np.asarray(image.convert("RGB"))
        random = np.random.default_rng(derive_seed(self.seed, zlib.crc32(pixels.tobytes()), *pixels.shape))
        return Image.fromarray(corruption.apply(pixels, self.value, random))


def _blur(pixels: np.ndarray, value: float, random: np.random.Generator) -> np.ndarray:
    sigma = value / 100 * pixels.shape[1]
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def _resolution(pixels: np.ndarray, value: float, random: np.random.Generator) -> np.ndarray:
    height, width = pixels.shape[:2]
    small = (max(1, round(width / value)), max(1, round(height / value)))
    reduced = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
    return np.asarray(reduced.resize((width, height), Image.Resampling.BILINEAR))


def _noise(pixels: np.ndarray, value: float, random: np.random.Generator) -> np.ndarray:
    noisy = pixels + value * random.standard_normal(pixels.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


def _compression(pixels: np.ndarray, value: float, random: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=max(1, round(100 - value)))
    return np.asarray(Image.open(file).convert("RGB"))


def _exposure(pixels: np.ndarray, value: float, random: np.random.Generator) -> np.ndarray:
    stops = value if random.random() < 0.5 else -value
    return (pixels * 2.0**stops).round().clip(0, 255).astype(np.uint8)


def _occlusion(pixels: np.ndarray, value: float, random: np.random.Generator) -> np.ndarray:
    side = math.sqrt(value / 100)
    where = random.random(2)
    height, width = (round(side * length) for length in pixels.shape[:2])
    top, left = (round(share * (length - size)) for share, length, size in zip(where, pixels.shape, (height, width)))
    covered = pixels.copy()
    covered[top : top + height, left : left + width] = _GRAY
    return covered


def _misalignment(pixels: np.ndarray, value: float, random: np.random.Generator) -> np.ndarray:
    angle = random.uniform(0, 2 * math.pi)
    height, width = pixels.shape[:2]
    rows = round(value / 100 * height * math.sin(angle)) + np.arange(height)
    columns = round(value / 100 * width * math.cos(angle)) + np.arange(width)
    return pixels[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]


#: Corruptions by name.
CORRUPTIONS: Mapping[str, Corruption] = {
    "blur": Corruption("standard deviation of a Gaussian, % of the width", (0, 1, 2, 3, 4), 50, _blur),
    "resolution": Corruption("times fewer pixels a side", (1, 2, 3, 4, 6), 64, _resolution),
    "noise": Corruption("standard deviation of normal noise, of 255 gray levels", (0, 10, 20, 40, 60), 255, _noise),
    "compression": Corruption("100 - quality of JPEG", (0, 50, 70, 85, 95), 99, _compression),
    "exposure": Corruption("stops, brighter or darker", (0, 0.5, 1, 1.5, 2), 8, _exposure),
    "occlusion": Corruption("a gray rectangle, % of the area", (0, 10, 20, 30, 40), 100, _occlusion),
    "misalignment": Corruption(
        "shift of the box, any direction, % of its sides", (0, 5, 10, 15, 20), 100, _misalignment
    ),
}
