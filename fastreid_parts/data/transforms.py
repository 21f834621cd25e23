"""A registry of augmentations, which fast-reid lacks, and where in its pipeline they run.

A registered class is built by `from_config(cfg)`, is called with one image, and says in `STAGE` when:

- `image`: a PIL image of its original size, before fast-reid's own augmentations;
- `resized`: a PIL image of the input size, after them;
- `tensor`: a (3, H, W) float tensor in 0 to 255, after random erasing.

INPUT.EXTRA_TRANSFORMS names those that a run uses, for any model and for fast-reid's own loader too.
"""

from __future__ import annotations

from typing import Any

from fastreid.config import CfgNode
from fastreid.data.transforms.build import build_transforms as host_build_transforms
from fastreid.data.transforms.transforms import ToTensor
from fastreid.utils.registry import Registry
from torchvision.transforms import Compose

__all__ = ["TRANSFORMS", "build_transforms"]

TRANSFORMS = Registry("TRANSFORMS")
_STAGES = ("image", "resized", "tensor")


def build_transforms(cfg: CfgNode, is_train: bool = True) -> Compose:
    """fast-reid's transforms with those of INPUT.EXTRA_TRANSFORMS among them; at test time fast-reid's alone.

    Raises:
        ValueError: a name is not registered, or a class declares no such stage.
    """
    steps: list[Any] = list(host_build_transforms(cfg, is_train).transforms)
    if not is_train:
        return Compose(steps)
    for name in cfg.INPUT.EXTRA_TRANSFORMS:
        if name not in TRANSFORMS._obj_map:
            known = ", ".join(sorted(TRANSFORMS._obj_map)) or "none"
            raise ValueError(f"INPUT.EXTRA_TRANSFORMS names '{name}'; registered are: {known}")
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
