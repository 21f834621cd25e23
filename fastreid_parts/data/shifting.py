"""Where a person stands in the bounding box: random shifting, and the augmentation that its paper sets against it.

Random shifting augmentation (RSA) is Sec. III.D and Fig. 6 of the RMGL paper; random crop-resize-shift (RCRS) is its
Table VI. Both take a PIL image (H, W) of its original size and need no model of a certain kind.

Decisions, where the paper leaves a choice:

- INPUT.RSA.PROB is p, "the probability of randomly employing RSA" (Sec. III.D), of which the paper gives no value. It
  gives 0.5 for p_c, the probability of the crop, and then calls p_c = 1 "a definite augmentation" that suffers from
  "over large placing variation" (Sec. IV.D): of the whole, then, as a crop by itself moves nobody far. But Fig. 6
  shifts an image that is not cropped, so that the crop is optional within it. RMGL's configs take 0.5 for both, which
  goes with all three; with p = 1 one training image in 45 shows the person within 5 % of its test scale. The ledger
  has p = 1, and p_c as the switch of all, as variants.
- INPUT.RSA.CROP `height` crops the height alone, to the share r_c: Sec. III.D defines no other, and the bounds 1 / r_c
  of r_h and 1 of r_w are those with which the patch just fits then. `both` takes the same share of the width, too.
- r_h and r_w count from the crop, so that the patch is at most as high as the box, with r_h up to 1 / r_c, and at most
  as wide as the crop.
- The box has the size of the image that comes in; the host resizes afterwards.
- RCRS: "a proper random region with arbitrary sizes" is a share of the height and one of the width, drawn apart from
  each other (the paper finds that RCRS distorts the aspect); the translation is uniform, and what it uncovers is gray.
  The paper tunes its ranges and does not print them: the defaults of INPUT.RCRS are this package's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from fastreid.config import CfgNode
from PIL import Image

from ..settings import Settings, choice, key
from .noted import note
from .transforms import TRANSFORMS, TransformSettings


class ShiftingSettings(Settings, section="INPUT.RSA"):
    """Random shifting (RMGL, Sec. III.D), at the image's original size; with any model."""

    enabled: bool = key(False, "shift training images")
    prob: float = key(1.0, "probability that an image is resized and shifted at all", "p", low=0, high=1)
    crop_prob: float = key(0.5, "of those images, probability of the crop", "p_c", low=0, high=1)
    crop: str = choice(("both", "height"), "what a crop takes its share of", "Sec. III.D")
    crop_min: float = key(0.7, "smallest share that a crop keeps", "r_c", above=0, high=1)
    height_min: float = key(
        0.5, "the crop's height is multiplied by at least this and at most 1 / r_c", "r_h", above=0, high=1
    )
    width_min: float = key(0.5, "the crop's width is multiplied by at least this and at most 1", "r_w", above=0, high=1)
    fill: int = key(127, "gray level around the patch, before normalization", low=0, high=255)


class CropResizeShiftSettings(Settings, section="INPUT.RCRS"):
    """RandomCropResizeShift in EXTRA_TRANSFORMS: RCRS of RMGL's Table VI, which prints no ranges."""

    crop_min: float = key(0.7, "smallest share of the height, and of the width, that the crop keeps", above=0, high=1)
    shift_max: float = key(0.1, "largest translation, as a share of height and width, below 1", low=0)
    fill: int = key(127, "gray level of what the translation uncovers", low=0, high=255)

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: the largest translation is a whole image.
        """
        if self.shift_max >= 1:
            raise ValueError(
                f"INPUT.RCRS.SHIFT_MAX is {self.shift_max}; it is the share of the image that it moves, below 1"
            )


class Shift(NamedTuple):
    """What random shifting does to one image, in pixels.

    Attributes:
        crop: left, top, right and bottom of the region that is kept of the image.
        size: width and height of the patch that it is resized to.
        corner: left and top of the patch in the box.
    """

    crop: tuple[int, int, int, int]
    size: tuple[int, int]
    corner: tuple[int, int]


@TRANSFORMS.register()
class RandomShifting:
    """Crop an image or not, change its aspect ratio, and put it anywhere in a gray box of the image's size.

    RMGL, Sec. III.D. The patch lies within the box and has at least one pixel a side.

    Args:
        crop_prob: p_c, the probability of the crop.
        crop_min: r_c^(min), the smallest share that a crop keeps; the share is U(crop_min, 1).
        height_min: r_h^(min); the height of the crop is multiplied by U(height_min, 1 / r_c).
        width_min: r_w^(min); its width is multiplied by U(width_min, 1).
        fill: gray level of the box, 0 to 255.
        prob: p, the probability that anything is done to an image.
        crop: `both`, the share is of height and width; `height`.
        resampling: how a patch is resized.
    """

    STAGE = "image"
    NOTES = "shifting"

    def __init__(
        self,
        crop_prob: float = 0.5,
        crop_min: float = 0.7,
        height_min: float = 0.5,
        width_min: float = 0.5,
        fill: int = 127,
        prob: float = 1.0,
        crop: str = "both",
        resampling: Image.Resampling = Image.Resampling.BICUBIC,
    ) -> None:
        self.prob, self.crop, self.resampling = prob, crop, resampling
        self.crop_prob, self.crop_min = crop_prob, crop_min
        self.height_min, self.width_min, self.fill = height_min, width_min, fill

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RandomShifting:
        """By the keys of INPUT.RSA and INPUT.RESIZE.

        Raises:
            ValueError: the probability, a share or the gray level is out of its range.
        """
        rsa, how = ShiftingSettings.from_cfg(cfg), TransformSettings.from_cfg(cfg).resampling
        return cls(rsa.crop_prob, rsa.crop_min, rsa.height_min, rsa.width_min, rsa.fill, rsa.prob, rsa.crop, how)

    def draw(self, width: int, height: int) -> Shift:
        """Draw what happens to an image of so many pixels.

        Ratios are drawn first and lengths rounded to whole pixels then; places are uniform over all that fit.

        Args:
            width: of the image.
            height: of the image.
        """
        if self.prob < 1 and _uniform(0.0, 1.0) >= self.prob:
            return Shift((0, 0, width, height), (width, height), (0, 0))
        r_c = _uniform(self.crop_min, 1.0) if _uniform(0.0, 1.0) < self.crop_prob else 1.0
        r_h = _uniform(self.height_min, 1 / r_c)
        r_w = _uniform(self.width_min, 1.0)
        of_width = r_c if self.crop == "both" else 1.0
        kept = _length(of_width * width, width), _length(r_c * height, height)
        left, top = _place(kept[0], width), _place(kept[1], height)
        size = _length(r_w * of_width * width, width), _length(r_h * r_c * height, height)
        corner = _place(size[0], width), _place(size[1], height)
        return Shift((left, top, left + kept[0], top + kept[1]), size, corner)

    def __call__(self, image: Image.Image) -> Image.Image:
        """A new image of the same size and mode."""
        shift = self.draw(*image.size)
        note(self.NOTES, 1 - shift.size[0] * shift.size[1] / (image.width * image.height))
        box = _gray(image.mode, image.size, self.fill)
        box.paste(image.crop(shift.crop).resize(shift.size, self.resampling), shift.corner)
        return box

    def __repr__(self) -> str:
        return (
            f"RandomShifting(crop_prob={self.crop_prob}, crop_min={self.crop_min}, height_min={self.height_min}, "
            f"width_min={self.width_min}, fill={self.fill}, prob={self.prob}, crop={self.crop})"
        )


@TRANSFORMS.register()
class RandomCropResizeShift:
    """Crop an image, resize the crop to the input size, and translate that: parts of it are lost.

    RCRS of RMGL's Table VI, which RSA is compared with.

    Args:
        size: height and width of the input.
        crop_min: smallest share of the height, and of the width, that the crop keeps; each is U(crop_min, 1).
        shift_max: the translation is uniform up to this share of height and width, either way.
        fill: gray level of what the translation uncovers, 0 to 255.
        resampling: how the crop is resized.
    """

    STAGE = "image"
    NOTES = "crop_resize_shift"

    def __init__(
        self,
        size: tuple[int, int],
        crop_min: float = 0.7,
        shift_max: float = 0.1,
        fill: int = 127,
        resampling: Image.Resampling = Image.Resampling.BICUBIC,
    ) -> None:
        self.size, self.crop_min, self.shift_max, self.fill = size, crop_min, shift_max, fill
        self.resampling = resampling

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RandomCropResizeShift:
        """By the keys of INPUT.RCRS, INPUT.SIZE_TRAIN and INPUT.RESIZE.

        Raises:
            ValueError: a share or the gray level is out of its range, or the input size is no height and width.
        """
        rcrs, size = CropResizeShiftSettings.from_cfg(cfg), list(cfg.INPUT.SIZE_TRAIN)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(
                f"INPUT.SIZE_TRAIN is {size}; RandomCropResizeShift resizes to the input's height and width: give both"
            )
        how = TransformSettings.from_cfg(cfg).resampling
        return cls((size[0], size[1]), rcrs.crop_min, rcrs.shift_max, rcrs.fill, how)

    def __call__(self, image: Image.Image) -> Image.Image:
        """A new image of the input size and the same mode."""
        width, height = image.size
        kept_width = _length(_uniform(self.crop_min, 1.0) * width, width)
        kept_height = _length(_uniform(self.crop_min, 1.0) * height, height)
        left, top = _place(kept_width, width), _place(kept_height, height)
        size = self.size[1], self.size[0]  # as PIL counts
        resized = image.crop((left, top, left + kept_width, top + kept_height)).resize(size, self.resampling)
        t_x, t_y = (round(_uniform(-self.shift_max, self.shift_max) * length) for length in size)
        note(self.NOTES, 1 - (1 - abs(t_x) / size[0]) * (1 - abs(t_y) / size[1]))
        moved = _gray(image.mode, size, self.fill)
        moved.paste(resized, (t_x, t_y))
        return moved

    def __repr__(self) -> str:
        return (
            f"RandomCropResizeShift(size={self.size}, crop_min={self.crop_min}, shift_max={self.shift_max}, "
            f"fill={self.fill})"
        )


def _uniform(low: float, high: float) -> float:
    """From torch's generator, which loader workers and a run's seed reach, as torchvision's transforms do."""
    return low + (high - low) * float(torch.rand((), dtype=torch.float64))


def _length(pixels: float, largest: int) -> int:
    """A whole number of pixels, at least one: rounding must not make a patch larger than its box."""
    return min(max(round(pixels), 1), largest)


def _place(length: int, available: int) -> int:
    """Where a stretch of pixels starts, uniform over the places where it fits."""
    return int(torch.randint(0, available - length + 1, ()))


def _gray(mode: str, size: tuple[int, int], level: int) -> Image.Image:
    return Image.new(mode, size, (level,) * Image.getmodebands(mode))
