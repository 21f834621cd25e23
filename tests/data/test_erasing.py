"""The keys of random erasing against the authors' code of RRID and CAN: 20,000 draws of theirs, 12,000 of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from PIL import Image
from torchvision.transforms import Resize

from fastreid_parts.config import configs_root
from fastreid_parts.data.transforms import RandomErasing, build_transforms

FACTS = json.loads((Path(__file__).parents[1] / "methods/parity/facts.json").read_text())["random_erasing"]
SIZE = (384, 128)
#: CAN's later code; the paper has no erasing, and can.yml none
CAN = ("INPUT.REA.PROB", 0.5, "INPUT.REA.S_H", 0.4, "INPUT.REA.R_E_MAX", 0.0, "INPUT.REA.RATIO", "uniform")


def recipe(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(configs_root() / "Market" / f"{name}.yml"))
    cfg.merge_from_list(["INPUT.REA.ENABLED", True, *(CAN if name == "can" else ())])
    return cfg


@pytest.fixture(scope="module", params=["rrid_f", "can"])
def drawn(request: Any) -> tuple[dict, RandomErasing, np.ndarray]:
    """Facts, the transform of the recipe, and top, left, height and width of many rectangles that it draws."""
    erase = RandomErasing.from_config(recipe(request.param))
    torch.manual_seed(0)
    blank = torch.zeros(1).expand(3, *SIZE)
    value = None if erase.value == "random" else erase.value
    rectangles = np.array([erase.get_params(blank, erase.scale, erase.ratio, value)[:4] for _ in range(12000)])
    return FACTS[request.param.split("_")[0]], erase, rectangles


def tolerance(deviation: Any, draws: int) -> Any:
    """Four standard errors of the difference between our draws and their 20,000."""
    return 4 * deviation * np.sqrt(1 / draws + 1 / 20000)


def test_how_often(drawn: tuple) -> None:
    facts, erase, _ = drawn
    image, erased = torch.full((3, 48, 16), -1.0), 0
    for _ in range(4000):
        erased += bool((erase(image) != -1).any())
    expected = facts["probability_of_erasing"]
    assert erased / 4000 == pytest.approx(expected, abs=tolerance(np.sqrt(expected * (1 - expected)), 4000))


def test_where_and_how_large(drawn: tuple) -> None:
    facts, _, rectangles = drawn
    top, left, height, width = rectangles.T
    for name, values in (
        ("erased_share_quantiles_of_erased_images", height * width / (SIZE[0] * SIZE[1])),
        ("visible_height_over_width_quantiles", height / width),
        ("top_edge_quantiles_over_height", top / SIZE[0]),
        ("left_edge_quantiles_over_width", left / SIZE[1]),
    ):
        for level, theirs in zip(facts["quantile_levels"], facts[name]):
            slack = tolerance(np.sqrt(level * (1 - level)), len(values))
            # Whole pixels: many values are equal, and theirs is rounded
            assert (values < theirs - 1e-4).mean() - slack <= level <= (values <= theirs + 1e-4).mean() + slack, name


def test_which_pixels(drawn: tuple) -> None:
    facts, erase, (rectangles) = drawn
    top, left, height, width = (column[:, None] for column in rectangles.T)
    rows, columns = np.arange(SIZE[0]), np.arange(SIZE[1])
    inside = [(rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)]
    shares = [one.mean(axis=1, keepdims=True) for one in inside]
    for one, other, bands, name in (
        (inside[0], shares[1], 12, "by_12_bands_of_height_top_first"),
        (inside[1], shares[0], 4, "by_4_bands_of_width_left_first"),
    ):
        erased = erase.p * one.reshape(len(one), bands, -1).mean(axis=2) * other  # (draws, bands)
        theirs = np.array(facts[f"erase_probability_of_a_pixel_{name}"])
        assert (np.abs(erased.mean(axis=0) - theirs) <= tolerance(erased.std(axis=0), len(one)) + 2e-3 * theirs).all()


class TestRRID:
    """What its code does besides: a color a rectangle, before the flip, bilinear images."""

    def test_one_color_a_rectangle(self) -> None:
        erase = RandomErasing.from_config(recipe("rrid_f"))
        torch.manual_seed(0)
        colors = []
        for _ in range(600):
            erased = erase(torch.full((3, 48, 16), -1.0))
            pixels = erased[:, (erased != -1).all(0)]
            assert (pixels == pixels[:, :1]).all()
            if pixels.numel():
                colors.append(pixels[:, 0])
        facts = FACTS["rrid"]
        assert np.allclose(torch.stack(colors).mean(0), facts["fill_mean_by_channel"], atol=4 * 74 / len(colors) ** 0.5)
        assert np.allclose(torch.stack(colors).std(0), facts["fill_std_by_channel"], rtol=0.1)

    def test_its_rectangle_is_right_of_its_own_width_until_the_flip(self) -> None:
        cfg = recipe("rrid_f")
        cfg.merge_from_list(["INPUT.REA.PROB", 1.0, "INPUT.FLIP.PROB", 0.0, "INPUT.SIZE_TRAIN", [48, 16]])
        plain = build_transforms(cfg)
        cfg.INPUT.FLIP.PROB = 1.0
        flipped = build_transforms(cfg)
        image = Image.new("RGB", (16, 48), (7, 7, 7))
        for seed in range(20):
            erased = []
            for transform in (plain, flipped):
                torch.manual_seed(seed)
                erased.append((transform(image) != 7).any(0))
            assert torch.equal(erased[1], erased[0].flip(1)) and erased[0].any()
            assert int(erased[0].any(0).nonzero().min()) >= int(erased[0].any(0).sum())

    @pytest.mark.parametrize("is_train", [True, False])
    def test_images_are_resized_bilinearly(self, tiny_cfg: Callable, is_train: bool) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 50, 3), dtype=np.uint8))
        cfg = tiny_cfg("INPUT.FLIP.ENABLED", False, "INPUT.RESIZE", "bilinear")
        expected = image.resize((24, 48), Image.Resampling.BILINEAR)
        assert np.array_equal(build_transforms(cfg, is_train)(image).permute(1, 2, 0).numpy(), np.asarray(expected))
        (resize,) = (step for step in build_transforms(recipe("rrid_f"), is_train).transforms if type(step) is Resize)
        assert resize.interpolation.value == "bilinear"

    def test_without_a_flip_it_is_before_the_tensor(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("INPUT.FLIP.ENABLED", False, "INPUT.REA.ENABLED", True, "INPUT.REA.BEFORE_FLIP", True)
        names = [type(step).__name__ for step in build_transforms(cfg).transforms]
        assert names == ["Resize", "RandomErasing", "ToTensor"]
