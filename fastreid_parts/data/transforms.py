"""Random erasing with its paper's settings, and a registry of augmentations with their place in fast-reid's pipeline.

A registered class is built by `from_config(cfg)`, is called with one image, and says in `STAGE` when:

- `image`: a PIL image of its original size, before fast-reid's own augmentations;
- `resized`: a PIL image of the input size, after them;
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
from fastreid.data.transforms.transforms import ToTensor
from fastreid.utils.registry import Registry
from torchvision.transforms import Compose

from ..host import registered_names
from ..settings import Settings, choice, host_key, key

TRANSFORMS = Registry("TRANSFORMS")
_STAGES = ("image", "resized", "tensor")
_SHIFTING = "RandomShifting"


class TransformSettings(Settings, section="INPUT"):
    """Augmentations by name."""

    extra_transforms: tuple = key(
        (), "names from fastreid_parts.data.TRANSFORMS, applied in this order, each at the stage that it declares"
    )


class RandomErasingSettings(Settings, section="INPUT.REA"):
    """Random erasing (Zhong et al., AAAI 2020); the defaults are what fast-reid does."""

    prob: float = host_key("probability", low=0, high=1)
    value: tuple = host_key("what is filled in, a number or one a channel")
    s_l: float = key(0.02, "smallest erased share of the image", "s_l", low=0, high=1)
    s_h: float = key(0.33, "largest erased share", "s_h", above=0, high=1)
    r_e: float = key(0.3, "smallest ratio of height to width", "r_e", above=0)
    r_e_max: float = key(3.3, "the largest; 0: 1 / r_e")
    fill: str = choice(("value", "random"), "INPUT.REA.VALUE, or each pixel drawn uniformly from 0 to 255")

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
    scale, and its random values from a standard normal, which is nearly black before normalization.

    Args:
        p: probability that an image is erased.
        scale: smallest and largest area, as a share of the image: s_l and s_h.
        ratio: smallest and largest ratio of height to width: r_e and, in the paper, 1 / r_e.
        value: what pixels become: a number, one number a channel, or "random", which draws each value anew, uniformly
            from the whole numbers 0 to 255.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RandomErasing:
        """By the keys of INPUT.REA.

        Raises:
            ValueError: a probability or a share is outside 0 to 1, a range is empty, or a fill is unknown.
        """
        rea = RandomErasingSettings.from_cfg(cfg)
        value = list(rea.value) if rea.fill == "value" else "random"
        return cls(rea.prob, (rea.s_l, rea.s_h), (rea.r_e, rea.largest_ratio), value)

    @staticmethod
    def get_params(
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
        top, left, height, width, content = torchvision.transforms.RandomErasing.get_params(img, scale, ratio, value)
        if value is None and content is not img:
            content = torch.randint(0, 256, content.shape).to(img.dtype)
        return top, left, height, width, content


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
    if not is_train:
        return Compose(steps)
    steps = [erasing if isinstance(step, torchvision.transforms.RandomErasing) else step for step in steps]
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
    """Where the next transform of a stage goes: behind those of the same stage that are there."""
    to_tensor = next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))
    if stage == "image":
        return sum(getattr(step, "STAGE", None) == "image" for step in steps)
    return to_tensor if stage == "resized" else len(steps)
