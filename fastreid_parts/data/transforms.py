"""Random erasing with its paper's settings, and a registry of augmentations with their place in fast-reid's pipeline.

A registered class is built by `from_config(cfg)`, is called with one image, and says in `STAGE` when:

- `image`: a PIL image of its original size, before fast-reid's own augmentations;
- `resized`: a PIL image of the input size, after them, but for AugMix, which gives none;
- `tensor`: a (3, H, W) float tensor in 0 to 255, after random erasing.

INPUT.EXTRA_TRANSFORMS names those that a run uses, for any model and for fast-reid's own loader too. A transform with a
switch in the config is not named there: RandomShifting runs where INPUT.RSA.ENABLED is set, before the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchvision.transforms
from fastreid.config import CfgNode
from fastreid.data.transforms.build import build_transforms as host_build_transforms
from fastreid.data.transforms.transforms import AugMix, ToTensor
from fastreid.utils.registry import Registry
from PIL import Image
from torchvision.transforms import Compose, InterpolationMode, RandomHorizontalFlip, RandomResizedCrop, Resize
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from ..host import registered_names
from ..settings import Settings, choice, host_key, key
from .noted import note

TRANSFORMS = Registry("TRANSFORMS")
_STAGES = ("image", "resized", "tensor")
_SHIFTING = "RandomShifting"
_NO_IMAGE = (AugMix, ToTensor)  # what they give is no PIL image


class TransformSettings(Settings, section="INPUT"):
    """Augmentations by name."""

    extra_transforms: tuple = key(
        (), "names from fastreid_parts.data.TRANSFORMS, applied in this order, each at the stage that it declares"
    )
    resize: str = choice(
        ("bicubic", "bilinear"),
        "how images are brought to the input size, and parts of them to theirs in INPUT.RSA, RCRS and CROP",
        role="features",
    )

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's filter of RESIZE."""
        return Image.Resampling[self.resize.upper()]


class RandomErasingSettings(Settings, section="INPUT.REA"):
    """Random erasing (Zhong et al., AAAI 2020); the defaults are what fast-reid does."""

    prob: float = host_key("probability", low=0, high=1)
    value: tuple = host_key("what is filled in, a number or one a channel")
    s_l: float = key(0.02, "smallest erased share of the image", "s_l", low=0, high=1)
    s_h: float = key(0.33, "largest erased share", "s_h", above=0, high=1)
    r_e: float = key(0.3, "smallest ratio of height to width", "r_e", above=0)
    r_e_max: float = key(3.3, "the largest; 0: 1 / r_e")
    fill: str = choice(
        ("value", "random", "color"), "INPUT.REA.VALUE, or drawn from 0 to 255: each pixel, or one color a rectangle"
    )
    ratio: str = choice(("log_uniform", "uniform"), "how the ratio of height to width is drawn")
    place: str = choice(
        ("uniform", "own_size"),
        "where a rectangle lies; own_size: its top at its height and its left at its width, cut by the border",
    )
    before_flip: bool = key(False, "erase before the flip, the image at its input size; else last of all")

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: a range is empty, or a fill has another number of values than one or three.
        """
        if self.s_l > self.s_h:
            raise ValueError(f"INPUT.REA.S_L {self.s_l} to S_H {self.s_h} is no range of shares: lower S_L")
        if self.largest_ratio < self.r_e:
            raise ValueError(
                f"INPUT.REA.R_E {self.r_e} to {self.largest_ratio:g} is no range of aspect ratios: lower R_E, or raise "
                "R_E_MAX"
            )
        if self.fill == "value" and len(self.value) not in (1, 3):
            raise ValueError(f"INPUT.REA.VALUE has {len(self.value)} numbers; it is one, or one a channel")

    @property
    def largest_ratio(self) -> float:
        """The largest ratio of height to width."""
        return self.r_e_max or 1 / self.r_e


class RandomErasing(torchvision.transforms.RandomErasing):
    """Erase a rectangle of an image (C, H, W) in 0 to 255, as torchvision does, with pixels drawn in that range.

    Zhong et al., Random Erasing Data Augmentation, AAAI 2020. torchvision draws the aspect ratio on a logarithmic
    scale, and its random values from a standard normal, which is nearly black before normalization. With RATIO
    `uniform`, FILL `color` and PLACE `own_size` it is what the authors' code of RRID does.

    Args:
        settings: see `RandomErasingSettings`.
    """

    NOTES = "erasing"

    def __init__(self, settings: RandomErasingSettings) -> None:
        value = list(settings.value) if settings.fill == "value" else "random"
        super().__init__(settings.prob, (settings.s_l, settings.s_h), (settings.r_e, settings.largest_ratio), value)
        self.settings = settings

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RandomErasing:
        """By the keys of INPUT.REA.

        Raises:
            ValueError: a probability or a share is outside 0 to 1, a range is empty, or a fill is unknown.
        """
        return cls(RandomErasingSettings.from_cfg(cfg))

    def forward(self, img: torch.Tensor | Image.Image) -> torch.Tensor | Image.Image:
        """An image, or a new one of the same kind: a PIL image before the flip, a tensor (C, H, W) after it."""
        if isinstance(img, Image.Image):
            return to_pil_image(super().forward(pil_to_tensor(img).float()).to(torch.uint8), img.mode)
        return super().forward(img)

    def get_params(  # type: ignore[override]  # torchvision's is static, and called on the instance
        self,
        img: torch.Tensor,
        scale: Sequence[float],
        ratio: Sequence[float],
        value: Sequence[float] | None = None,
    ) -> tuple[int, int, int, int, torch.Tensor]:
        """Top, left, height, width and content of the rectangle; the image itself where ten draws did not fit.

        Args:
            img: the image, (3, H, W).
            scale: see the class.
            ratio: see the class.
            value: see the class; None draws it.
        """
        if self.settings.ratio == "uniform":
            rectangle = self._uniform_ratio(img.shape[1], img.shape[2], scale, ratio)
            if rectangle is None:
                return 0, 0, *img.shape[1:], img
            top, left, height, width = rectangle
            content = None if value is None else torch.tensor(value)[:, None, None]
        else:
            top, left, height, width, content = super().get_params(img, scale, ratio, value)
            if content is img:
                return top, left, height, width, content
        if self.settings.place == "own_size":
            top, left = height, width
            height, width = min(height, img.shape[1] - top), min(width, img.shape[2] - left)
        if value is None:
            size = (1, 1) if self.settings.fill == "color" else (height, width)
            content = torch.randint(0, 256, (img.shape[0], *size)).to(img.dtype)
        note(self.NOTES, height * width / (img.shape[1] * img.shape[2]))
        return top, left, height, width, content

    def _uniform_ratio(
        self, height: int, width: int, scale: Sequence[float], ratio: Sequence[float]
    ) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of a rectangle inside the image; None where ten draws did not fit."""
        whole = int if self.settings.place == "own_size" else round  # RRID's code cuts pixels off
        for _ in range(10):
            area = height * width * float(torch.empty(()).uniform_(*scale))
            aspect = float(torch.empty(()).uniform_(*ratio))
            h, w = (whole(side**0.5) for side in (area * aspect, area / aspect))
            if 0 < h < height and 0 < w < width:
                return int(torch.randint(0, height - h + 1, ())), int(torch.randint(0, width - w + 1, ())), h, w
        return None


def build_transforms(cfg: CfgNode, is_train: bool = True) -> Compose:
    """fast-reid's transforms with random shifting and those of INPUT.EXTRA_TRANSFORMS; at test time fast-reid's alone.

    Args:
        cfg: the config.
        is_train: whether for training.

    Raises:
        ValueError: a name is not registered or has a switch of its own, a class declares no such stage, or a setting of
            a transform that is used is out of range.
    """
    erasing = RandomErasing.from_config(cfg) if is_train and cfg.INPUT.REA.ENABLED else None
    steps: list[Any] = list(host_build_transforms(cfg, is_train).transforms)
    if TransformSettings.from_cfg(cfg).resize == "bilinear":
        for step in steps:
            if isinstance(step, (Resize, RandomResizedCrop)):
                step.interpolation = InterpolationMode.BILINEAR
    if not is_train:
        return Compose(steps)
    steps = [erasing if isinstance(step, torchvision.transforms.RandomErasing) else step for step in steps]
    if erasing is not None and erasing.settings.before_flip:
        steps.remove(erasing)
        # There is no flip to come before where it is off
        steps.insert(_first(steps, RandomHorizontalFlip, *_NO_IMAGE), erasing)
    if _SHIFTING in cfg.INPUT.EXTRA_TRANSFORMS:
        raise ValueError(f"INPUT.EXTRA_TRANSFORMS names {_SHIFTING}, which has a switch: set INPUT.RSA.ENABLED instead")
    shifting = [_SHIFTING] if cfg.INPUT.RSA.ENABLED else []
    for name in [*shifting, *cfg.INPUT.EXTRA_TRANSFORMS]:
        if name not in (known := registered_names(TRANSFORMS)):
            raise ValueError(f"INPUT.EXTRA_TRANSFORMS names '{name}'; registered are: {', '.join(known) or 'none'}")
        transform = TRANSFORMS.get(name)
        if transform.STAGE not in _STAGES:
            raise ValueError(f"{name}.STAGE is '{transform.STAGE}'; it is one of {', '.join(_STAGES)}")
        steps.insert(_position(steps, transform.STAGE), transform.from_config(cfg))
    return Compose(steps)


def _position(steps: list[Any], stage: str) -> int:
    """Where the next transform of a stage goes: after those of the same stage that are there."""
    if stage == "image":
        return sum(getattr(step, "STAGE", None) == "image" for step in steps)
    return _first(steps, *_NO_IMAGE) if stage == "resized" else len(steps)


def _first(steps: list[Any], *kinds: type) -> int:
    """Where the first step of some kinds stands."""
    return next(i for i, step in enumerate(steps) if isinstance(step, kinds))
