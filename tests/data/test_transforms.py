"""Random erasing by its keys. The registry: where a transform runs, in which order, and what a wrong name says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.data.transforms import build_transforms as host_name
from PIL import Image

from fastreid_parts.data.transforms import TRANSFORMS, RandomErasing, build_transforms


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


AUGMIX = ("INPUT.AUGMIX.ENABLED", True, "INPUT.FLIP.ENABLED", False)


def test_what_takes_an_image_comes_before_augmix(tiny_cfg: Callable, log: list) -> None:
    """Which gives an array."""
    cfg = tiny_cfg(*AUGMIX, "INPUT.EXTRA_TRANSFORMS", ["Sized"])
    assert build_transforms(cfg)(image()).shape == (3, 48, 24) and log == [("Sized", (24, 48))]


def test_erasing_before_the_flip_comes_before_augmix(tiny_cfg: Callable) -> None:
    for flip in (False, True):
        cfg = tiny_cfg(*AUGMIX, "INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0, "INPUT.REA.BEFORE_FLIP", True)
        cfg.INPUT.FLIP.ENABLED = flip
        assert build_transforms(cfg)(image()).shape == (3, 48, 24)


def test_one_filter_for_all_that_resizes(tiny_cfg: Callable) -> None:
    more = ("INPUT.CROP.ENABLED", True, "INPUT.RSA.ENABLED", True, "INPUT.EXTRA_TRANSFORMS", ["RandomCropResizeShift"])
    for name, filter in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
        steps = build_transforms(tiny_cfg(*more, "INPUT.RESIZE", name)).transforms
        assert [step.interpolation.value for step in steps if hasattr(step, "interpolation")] == [name] * 2
        assert [step.resampling for step in steps if hasattr(step, "resampling")] == [filter] * 2


def test_wrong_names_and_stages(tiny_cfg: Callable, log: list) -> None:
    with pytest.raises(ValueError, match="'Frist'; registered are: First"):
        build_transforms(tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["Frist"]))
    with pytest.raises(ValueError, match="Lost.STAGE is 'later'"):
        build_transforms(tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["Lost"]))


class TestRandomErasing:
    ON = ("INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0)
    CGE = (*ON, "INPUT.REA.S_H", 0.4, "INPUT.REA.R_E_MAX", 0.0, "INPUT.REA.FILL", "random")

    def rectangles(self, cfg: Any, draws: int = 2000, size: tuple[int, int] = (192, 64)) -> np.ndarray:
        """(height, width) of what each of many draws erases from an image; draws that erased nothing are left out."""
        erase = RandomErasing.from_config(cfg)
        torch.manual_seed(0)
        found = []
        for _ in range(draws):
            erased = (erase(torch.full((3, *size), -1.0)) != -1).any(0)
            if erased.any():
                rows, columns = erased.any(1).nonzero(), erased.any(0).nonzero()
                height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
                assert erased.sum() == height * width
                found.append((height, width))
        return np.array(found, dtype=float)

    @pytest.mark.parametrize("value", [(), ("INPUT.REA.VALUE", [0.0, 127.0, 255.0])])
    @pytest.mark.parametrize("build", [build_transforms, host_name])
    def test_the_defaults_are_the_hosts(self, tiny_cfg: Callable, build: Callable, value: tuple) -> None:
        cfg = tiny_cfg(*self.ON, *value)
        cfg.INPUT.PADDING.ENABLED = True
        untouched = image()
        for seed in range(20):
            torch.manual_seed(seed)
            ours = build(cfg)(untouched)
            torch.manual_seed(seed)
            assert torch.equal(ours, host_name.__wrapped__(cfg)(untouched))

    def test_area_and_aspect_stay_within_their_bounds_and_reach_them(self, tiny_cfg: Callable) -> None:
        height, width = self.rectangles(tiny_cfg(*self.CGE)).T
        area = height * width / (192 * 64)
        slack = 1 / height + 1 / width  # of rounding to whole pixels
        assert (area >= 0.02 * (1 - slack)).all() and (area <= 0.4 * (1 + slack)).all()
        assert area.min() < 0.03 and area.max() > 0.36
        aspect = height / width
        assert (aspect >= 0.3 * (1 - slack)).all() and (aspect <= 1 / 0.3 * (1 + slack)).all()
        assert aspect.min() < 0.4 and aspect.max() > 3

    def test_other_bounds(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg(*self.CGE, "INPUT.REA.S_L", 0.1, "INPUT.REA.S_H", 0.12, "INPUT.REA.R_E", 1.0)
        height, width = self.rectangles(cfg, draws=100).T
        assert np.array_equal(height, width)  # from 1 to 1 / 1
        assert (height * width / (192 * 64) > 0.09).all() and (height * width / (192 * 64) < 0.13).all()

    def test_the_probability(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg(*self.CGE, "INPUT.REA.PROB", 0.25, "INPUT.REA.S_H", 0.1)
        assert 400 < len(self.rectangles(cfg)) < 600
        assert len(self.rectangles(tiny_cfg(*self.CGE, "INPUT.REA.PROB", 0.0), draws=50)) == 0

    def test_random_fill_is_uniform_over_the_pixel_values(self, tiny_cfg: Callable) -> None:
        erase = RandomErasing.from_config(tiny_cfg(*self.CGE, "INPUT.REA.S_L", 0.3))
        torch.manual_seed(0)
        pixels = torch.cat([out[out >= 0] for out in (erase(torch.full((3, 192, 64), -1.0)) for _ in range(50))])
        assert len(pixels) > 100_000 and torch.equal(pixels, pixels.round())
        counts = torch.bincount(pixels.long(), minlength=256).float()
        assert len(counts) == 256 and counts.min() > 0.8 * counts.mean() and counts.max() < 1.2 * counts.mean()

    def test_random_fill_draws_each_channel_and_pixel_anew(self, tiny_cfg: Callable) -> None:
        torch.manual_seed(0)
        out = RandomErasing.from_config(tiny_cfg(*self.CGE, "INPUT.REA.S_L", 0.3))(torch.full((3, 64, 64), -1.0))
        first, second, third = out[:, (out[0] >= 0)]
        assert not torch.equal(first, second) and not torch.equal(second, third) and len(first.unique()) > 200

    def test_value_fill(self, tiny_cfg: Callable) -> None:
        torch.manual_seed(0)
        out = RandomErasing.from_config(tiny_cfg(*self.ON, "INPUT.REA.VALUE", [1.0, 2.0, 3.0]))(torch.zeros(3, 64, 32))
        assert [channel.unique().tolist() for channel in out] == [[0, 1], [0, 2], [0, 3]]

    def test_the_image_that_comes_in_stays(self, tiny_cfg: Callable) -> None:
        batch = torch.zeros(3, 64, 32)
        RandomErasing.from_config(tiny_cfg(*self.CGE))(batch)
        assert not batch.any()

    def test_a_run_uses_it_in_training_only(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg(*self.CGE)
        kinds = [type(step).__name__ for step in build_transforms(cfg).transforms]
        assert kinds.count("RandomErasing") == 1 and kinds.index("RandomErasing") > kinds.index("ToTensor")
        assert not any(isinstance(step, RandomErasing) for step in build_transforms(cfg, is_train=False).transforms)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (("S_L", 0.5), "S_L 0.5 to S_H 0.33"),
            (("S_L", -0.1), "S_L is -0.1; it is at least 0"),
            (("S_H", 1.5), "S_H is 1.5; it is above 0 and at most 1"),
            (("S_L", 0.0, "S_H", 0.0), "S_H is 0.0; it is above 0"),
            (("R_E", 0.0), "R_E is 0.0"),
            (("R_E", 4.0), "R_E 4.0 to 3.3"),
            (("R_E", 2.0, "R_E_MAX", 0.0), "R_E 2.0 to 0.5"),
            (("FILL", "mean"), "FILL is 'mean'"),
            (("VALUE", [1.0, 2.0]), "VALUE has 2"),
            (("PROB", 1.5), "PROB is 1.5"),
        ],
    )
    def test_settings_that_make_no_sense(self, tiny_cfg: Callable, settings: tuple, message: str) -> None:
        pairs = [x for key, value in zip(settings[0::2], settings[1::2]) for x in (f"INPUT.REA.{key}", value)]
        with pytest.raises(ValueError, match=f"INPUT.REA.*{message}"):
            build_transforms(tiny_cfg(*self.ON, *pairs))
        build_transforms(tiny_cfg(*pairs))  # nobody asked for it
