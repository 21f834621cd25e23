"""The registry: where a transform runs, in which order, and what a wrong name says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import numpy as np
import pytest
import torch
from fastreid.data.transforms import build_transforms as host_name
from PIL import Image

from fastreid_parts.data.transforms import TRANSFORMS, build_transforms


@pytest.fixture
def log() -> Iterator[list]:
    """Registers one transform a stage, and one without a proper stage; each notes what it is given."""
    seen: list = []

    def make(name: str, stage: str) -> type:
        def call(self: Any, image: Any) -> Any:
            seen.append((name, image.size if isinstance(image, Image.Image) else tuple(image.shape)))
            return image

        return type(name, (), {"STAGE": stage, "from_config": classmethod(lambda cls, cfg: cls()), "__call__": call})

    names = [("First", "image"), ("Second", "image"), ("Sized", "resized"), ("Late", "tensor"), ("Lost", "later")]
    for name, stage in names:
        TRANSFORMS.register(make(name, stage))
    yield seen
    for name, _ in names:
        del TRANSFORMS._obj_map[name]


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 20, 3), dtype=np.uint8))


def test_stages_and_order(tiny_cfg: Callable, log: list) -> None:
    cfg = tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["Late", "First", "Sized", "Second"])
    out = build_transforms(cfg)(image())
    assert out.shape == (3, 48, 24)
    assert log == [("First", (20, 40)), ("Second", (20, 40)), ("Sized", (24, 48)), ("Late", (3, 48, 24))]


def test_not_at_test_time(tiny_cfg: Callable, log: list) -> None:
    build_transforms(tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["First"]), is_train=False)(image())
    assert log == []


def test_the_hosts_name_is_ours(tiny_cfg: Callable, log: list) -> None:
    host_name(tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["First"]))(image())
    assert len(log) == 1


def test_without_extras_the_hosts_transforms(tiny_cfg: Callable) -> None:
    cfg = tiny_cfg("INPUT.FLIP.ENABLED", False)
    assert torch.equal(build_transforms(cfg)(image()), host_name.__wrapped__(cfg)(image()))


def test_wrong_names_and_stages(tiny_cfg: Callable, log: list) -> None:
    with pytest.raises(ValueError, match="'Frist'; registered are: First"):
        build_transforms(tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["Frist"]))
    with pytest.raises(ValueError, match="Lost.STAGE is 'later'"):
        build_transforms(tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["Lost"]))
