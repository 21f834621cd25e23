"""What augmentations did to each image of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.data.data_utils import read_image
from fastreid.data.transforms import ToTensor
from torchvision.transforms import Compose

from fastreid_parts.data.build import build_reid_train_loader
from fastreid_parts.data.noted import NotingDataset
from fastreid_parts.data.shifting import RandomCropResizeShift, RandomShifting
from fastreid_parts.data.transforms import RandomErasing, RandomErasingSettings

GRAY = -1  # no pixel of an image


@pytest.fixture
def items(market_folder: Path) -> list[tuple]:
    return [(str(path), 0, 0) for path in sorted((market_folder / "bounding_box_train").iterdir())]


@pytest.mark.parametrize(("fill", "place"), [("value", "uniform"), ("random", "uniform"), ("value", "own_size")])
def test_the_share_of_erased_pixels(
    tiny_cfg: Callable[..., CfgNode], items: list[tuple], fill: str, place: str
) -> None:
    torch.manual_seed(0)
    settings = RandomErasingSettings.from_cfg(tiny_cfg("INPUT.REA.PROB", 0.5, "INPUT.REA.S_L", 0.1))
    erase = RandomErasing(dataclasses.replace(settings, value=(GRAY,), fill=fill, place=place))
    dataset = NotingDataset(items, Compose([ToTensor(), erase]))
    shares = []
    for index, (path, *_) in enumerate(items):
        item = dataset[index]
        changed = (item["images"] != ToTensor()(read_image(path))).any(dim=0)
        shares.append(item["augmented"]["erasing"])
        # A drawn pixel may be what it was
        assert changed.float().mean().item() == pytest.approx(shares[-1], abs=0.001 if fill == "random" else 1e-6)
    assert 0 < np.mean(np.array(shares) > 0) < 1 and max(shares) > 0.1


@pytest.mark.parametrize("kind", [RandomShifting, RandomCropResizeShift])
def test_the_share_of_what_is_uncovered(items: list[tuple], kind: type) -> None:
    torch.manual_seed(0)
    size = {} if kind is RandomShifting else {"size": (48, 24)}
    shift = kind(fill=255, **size)
    white = NotingDataset(items, Compose([shift, np.asarray]))
    shift_gray = 0
    for index in range(10):
        item = white[index]
        uncovered = (item["images"] == 255).all(axis=2).mean()
        shift_gray += item["augmented"][kind.NOTES] > 0
        assert uncovered == pytest.approx(item["augmented"][kind.NOTES], abs=0.01)  # some pixels are white
    assert shift_gray > 5


def test_a_batch_says_it_and_one_without_such_transforms_does_not(tiny_cfg: Callable[..., CfgNode]) -> None:
    plain = next(iter(build_reid_train_loader(tiny_cfg())))
    assert set(plain) == {"images", "targets", "camids", "img_paths"}
    cfg = tiny_cfg("INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0, "INPUT.RSA.ENABLED", True)
    augmented = next(iter(build_reid_train_loader(cfg)))["augmented"]
    assert set(augmented) == {"erasing", "shifting"}
    assert all(shares.shape == (12,) and (shares > 0).any() and (shares < 1).all() for shares in augmented.values())
