"""RandomShifting and RandomCropResizeShift: their distributions, their geometry; and Table VI's other augmentations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.data.transforms import build_transforms as host_name
from PIL import Image
from scipy.stats import kstest, pearsonr

from fastreid_parts.data.build import build_reid_train_loader
from fastreid_parts.data.shifting import RandomCropResizeShift, RandomShifting
from fastreid_parts.data.transforms import TRANSFORMS, build_transforms

GRAY = 127
LEVEL = 10  # of the images that hold one level alone


def plain(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (LEVEL,) * 3)


def ramps(side: int = 256) -> Image.Image:
    """The red of a pixel is its column, the green its row, the blue 0."""
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))


def is_uniform(values: np.ndarray, low: float = 0.0, high: float = 1.0) -> bool:
    """Kolmogorov-Smirnov at the level of 1 %; the draws are seeded, so that the answer is always the same."""
    return bool(kstest(values, "uniform", args=(low, high - low)).pvalue > 0.01)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class TestDistributions:
    WIDTH, HEIGHT = 40_000, 80_000  # rounding to pixels does not show

    def shifts(self, draws: int = 3000, **settings: Any) -> dict[str, np.ndarray]:
        """Ratios and places, (draws,) each, as they come out in pixels."""
        shift, rows = RandomShifting(**settings), []
        for _ in range(draws):
            (left, top, right, bottom), (width, height), (x, y) = shift.draw(self.WIDTH, self.HEIGHT)
            r_c = (bottom - top) / self.HEIGHT
            rows.append(
                {
                    "r_c": r_c,
                    "width_share": (right - left) / self.WIDTH,
                    "r_h": height / (bottom - top),
                    "r_w": width / (right - left),
                    "crop_x": left / (self.WIDTH - (right - left)) if right - left < self.WIDTH else 0.0,
                    "crop_y": top / (self.HEIGHT - (bottom - top)) if r_c < 1 else 0.0,
                    "x": x / (self.WIDTH - width),
                    "y": y / (self.HEIGHT - height),
                }
            )
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def test_some_images_stay_as_they_are(self) -> None:
        shift = RandomShifting(prob=0.3)
        drawn = [shift.draw(40, 80) for _ in range(2000)]
        assert sum(one == ((0, 0, 40, 80), (40, 80), (0, 0)) for one in drawn) / 2000 == pytest.approx(0.7, abs=0.03)
        image, never = ramps(), RandomShifting(prob=0.0)
        assert np.array_equal(np.asarray(never(image)), np.asarray(image))

    def test_a_crop_of_the_height_alone(self) -> None:
        drawn = self.shifts(crop="height", crop_prob=1.0)
        assert is_uniform(drawn["r_c"], 0.7, 1) and (drawn["width_share"] == 1).all()
        assert is_uniform((drawn["r_h"] - 0.5) / (1 / drawn["r_c"] - 0.5)) and is_uniform(drawn["r_w"], 0.5, 1)

    def test_how_many_training_images_of_rmgl_are_as_at_test(self) -> None:
        """The person within 5 % of its height and width in the whole image."""
        shares = {}
        for name, prob, crop in (("config", 0.5, "height"), ("every image", 1.0, "both")):
            shift = RandomShifting(prob=prob, crop=crop)
            drawn = [shift.draw(4000, 8000) for _ in range(4000)]
            scales = [(w / (right - left), h / (low - top)) for (left, top, right, low), (w, h), _ in drawn]
            shares[name] = np.mean([abs(w - 1) <= 0.05 and abs(h - 1) <= 0.05 for w, h in scales])
        assert shares["config"] > 0.5 and shares["every image"] < 0.03

    @pytest.mark.parametrize(
        "settings",
        [{}, {"crop_prob": 0.3, "crop_min": 0.5, "height_min": 0.4, "width_min": 0.6}],
        ids=["the paper's", "others"],
    )
    def test_every_ratio_and_place(self, settings: dict[str, float]) -> None:
        drawn = self.shifts(**settings)
        crop_min, height_min = settings.get("crop_min", 0.7), settings.get("height_min", 0.5)
        cropped = drawn["r_c"] < 1
        assert cropped.mean() == pytest.approx(settings.get("crop_prob", 0.5), abs=0.03)
        assert is_uniform(drawn["r_c"][cropped], crop_min, 1)
        assert np.allclose(drawn["width_share"], drawn["r_c"], atol=1e-4)
        assert is_uniform((drawn["r_h"] - height_min) / (1 / drawn["r_c"] - height_min))
        assert is_uniform(drawn["r_w"], settings.get("width_min", 0.5), 1)
        for place in ("x", "y"):
            assert is_uniform(drawn[place]) and is_uniform(drawn[f"crop_{place}"][cropped])

    def test_what_is_drawn_apart_is_independent(self) -> None:
        drawn = self.shifts()
        drawn["r_h"] = (drawn["r_h"] - 0.5) / (1 / drawn["r_c"] - 0.5)  # its range follows r_c, its place in it not
        names = ("r_c", "r_h", "r_w", "x", "y")
        for number, first in enumerate(names):
            for second in names[number + 1 :]:
                assert abs(pearsonr(drawn[first], drawn[second])[0]) < 0.06, (first, second)

    def test_never_and_always_cropped(self) -> None:
        assert (self.shifts(200, crop_prob=0.0)["r_c"] == 1).all()
        assert (self.shifts(200, crop_prob=1.0)["r_c"] < 1).all()

    def test_a_patch_can_be_as_high_as_the_box_and_no_wider_than_the_crop(self) -> None:
        drawn = self.shifts(crop_prob=1.0)
        assert (drawn["r_h"] > 1).any() and (drawn["r_w"] <= 1).all()
        assert (drawn["r_h"] * drawn["r_c"]).max() > 0.99


class TestGeometry:
    SIZES = [(1, 1), (1, 7), (7, 1), (2, 3), (5, 401), (63, 129), (64, 128)]

    @pytest.mark.parametrize("size", SIZES)
    def test_crop_and_patch_stay_inside(self, size: tuple[int, int]) -> None:
        shift = RandomShifting(crop_min=0.1, height_min=0.05, width_min=0.05)
        for _ in range(300):
            (left, top, right, bottom), (width, height), (x, y) = shift.draw(*size)
            assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
            assert width >= 1 and height >= 1
            assert 0 <= x <= size[0] - width and 0 <= y <= size[1] - height

    @pytest.mark.parametrize("size", SIZES)
    def test_the_box_is_gray_around_the_patch_and_nowhere_else(self, size: tuple[int, int]) -> None:
        shift = RandomShifting()
        for seed in range(30):
            torch.manual_seed(seed)
            _, (width, height), (x, y) = shift.draw(*size)
            torch.manual_seed(seed)
            out = shift(plain(*size))
            assert out.size == size and out.mode == "RGB"
            expected = np.full((size[1], size[0], 3), GRAY)
            expected[y : y + height, x : x + width] = LEVEL
            assert np.array_equal(np.asarray(out), expected)

    def test_the_patch_shows_the_crop(self) -> None:
        shift = RandomShifting(crop_prob=1.0)
        for seed in range(20):
            torch.manual_seed(seed)
            (left, top, right, bottom), (width, height), (x, y) = shift.draw(256, 256)
            torch.manual_seed(seed)
            patch = np.asarray(shift(ramps()))[y : y + height, x : x + width].astype(float)
            # the center of an output pixel, in the pixels of the image
            columns = left - 0.5 + (np.arange(width) + 0.5) * (right - left) / width
            rows = top - 0.5 + (np.arange(height) + 0.5) * (bottom - top) / height
            assert np.abs(patch[..., 0] - columns[None, :]).max() < 1.5
            assert np.abs(patch[..., 1] - rows[:, None]).max() < 1.5

    def test_nothing_happens_where_every_range_is_one(self) -> None:
        out = RandomShifting(crop_prob=0.0, height_min=1.0, width_min=1.0)(ramps())
        assert np.array_equal(np.asarray(out), np.asarray(ramps()))

    def test_the_image_that_comes_in_stays_and_modes_are_kept(self) -> None:
        image = plain(20, 40)
        RandomShifting()(image)
        assert np.array_equal(np.asarray(image), np.asarray(plain(20, 40)))
        gray = RandomShifting(fill=50)(Image.new("L", (20, 40), LEVEL))
        assert gray.mode == "L" and set(np.unique(np.asarray(gray))) == {LEVEL, 50}

    def test_the_seed_decides(self) -> None:
        outs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outs.append(np.asarray(RandomShifting()(ramps())))
        assert np.array_equal(outs[0], outs[1]) and not np.array_equal(outs[0], outs[2])


class TestSwitch:
    ON = ("INPUT.RSA.ENABLED", True, "INPUT.FLIP.ENABLED", False)

    def test_off_by_default_and_never_at_test_time(self, tiny_cfg: Callable) -> None:
        for steps in (build_transforms(tiny_cfg()), build_transforms(tiny_cfg(*self.ON), is_train=False)):
            assert not any(isinstance(step, RandomShifting) for step in steps.transforms)

    @pytest.mark.parametrize("build", [build_transforms, host_name])
    def test_on_the_image_before_the_hosts_resize(self, tiny_cfg: Callable, build: Callable) -> None:
        cfg = tiny_cfg(*self.ON, "INPUT.AUTOAUG.ENABLED", True, "INPUT.EXTRA_TRANSFORMS", ["RandomCropResizeShift"])
        kinds = [type(step).__name__ for step in build(cfg).transforms]
        assert kinds[:2] == ["RandomShifting", "RandomCropResizeShift"] and kinds.count("RandomShifting") == 1
        assert kinds.index("RandomShifting") < kinds.index("Resize")

    def test_the_keys_reach_it(self, tiny_cfg: Callable) -> None:
        keys = ("CROP_PROB", 0.1, "CROP_MIN", 0.2, "HEIGHT_MIN", 0.3, "WIDTH_MIN", 0.4, "FILL", 5)
        keys = (*keys, "PROB", 0.6, "CROP", "height")
        pairs = [x for key, value in zip(keys[0::2], keys[1::2]) for x in (f"INPUT.RSA.{key}", value)]
        shift = build_transforms(tiny_cfg(*self.ON, *pairs)).transforms[0]
        assert (shift.crop_prob, shift.crop_min, shift.height_min, shift.width_min) == (0.1, 0.2, 0.3, 0.4)
        assert (shift.fill, shift.prob, shift.crop) == (5, 0.6, "height")

    def test_the_defaults_are_the_papers(self, tiny_cfg: Callable) -> None:
        from_keys = build_transforms(tiny_cfg(*self.ON)).transforms[0]
        assert vars(from_keys) == vars(RandomShifting())
        assert vars(from_keys) == {
            "crop_prob": 0.5, "crop_min": 0.7, "height_min": 0.5, "width_min": 0.5, "fill": 127,
            "prob": 1.0, "crop": "both", "resampling": Image.Resampling.BICUBIC,
        }  # fmt: skip

    def test_batches_hold_gray_boxes_before_normalization(self, tiny_cfg: Callable) -> None:
        """The images have the input size already, so that no resizing blends the patch with the box."""
        images = next(iter(build_reid_train_loader(tiny_cfg(*self.ON))))["images"]
        gray = (images == GRAY).all(dim=1)  # (N, H, W)
        assert (gray.all(dim=2).any(dim=1) | gray.all(dim=1).any(dim=1)).all()  # a row or a column of each image
        assert not gray.flatten(1).all(dim=1).any()

    def test_it_is_registered_but_not_named(self, tiny_cfg: Callable) -> None:
        assert TRANSFORMS.get("RandomShifting") is RandomShifting
        with pytest.raises(ValueError, match="names RandomShifting.*INPUT.RSA.ENABLED"):
            build_transforms(tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["RandomShifting"]))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("CROP_PROB", -0.1), ("CROP_PROB", 1.5), ("CROP_MIN", 0.0), ("CROP_MIN", 1.1), ("HEIGHT_MIN", 0.0),
            ("HEIGHT_MIN", 1.2), ("WIDTH_MIN", -0.5), ("WIDTH_MIN", 2.0), ("FILL", -1), ("FILL", 256),
        ],
    )  # fmt: skip
    def test_settings_that_make_no_sense(self, tiny_cfg: Callable, key: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"INPUT.RSA.{key} is {value}"):
            build_transforms(tiny_cfg(*self.ON, f"INPUT.RSA.{key}", value))
        build_transforms(tiny_cfg(f"INPUT.RSA.{key}", value))  # nobody asked for it


class TestRandomCropResizeShift:
    ON = ("INPUT.EXTRA_TRANSFORMS", ["RandomCropResizeShift"], "INPUT.FLIP.ENABLED", False)

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (20, 40), (63, 129)])
    def test_the_output_has_the_input_size(self, size: tuple[int, int]) -> None:
        for _ in range(20):
            out = RandomCropResizeShift((48, 24))(plain(*size))
            assert out.size == (24, 48) and set(np.unique(np.asarray(out))) <= {LEVEL, GRAY}

    def test_the_translation_is_uniform_and_loses_content(self) -> None:
        move, found = RandomCropResizeShift((200, 200), crop_min=1.0, shift_max=0.25), []
        for _ in range(400):
            covered = np.asarray(move(plain(50, 50)))[..., 0] == LEVEL
            rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
            assert covered.sum() == len(rows) * len(columns)
            found.append([first if first else last - 199 for first, last in (rows[[0, -1]], columns[[0, -1]])])
        t_y, t_x = np.array(found).T
        assert is_uniform(t_y, -50, 50) and is_uniform(t_x, -50, 50)
        assert abs(pearsonr(t_y, t_x)[0]) < 0.15

    def test_the_crop_takes_shares_of_height_and_width_drawn_apart(self) -> None:
        crop, image = RandomCropResizeShift((256, 256), crop_min=0.5, shift_max=0.0), ramps()
        spans, starts = [], []
        for _ in range(400):
            out = np.asarray(crop(image)).astype(float)
            low, high = out.min((0, 1))[:2], out.max((0, 1))[:2]
            spans.append((high - low + 1) / 256)
            starts.append((low + 0.5) / (256 - high + low))
        shares, starts = np.array(spans).T, np.array(starts).T  # (2, draws): of the width, of the height
        assert all(is_uniform(share, 0.5, 1) for share in shares)
        assert all(is_uniform(start[share < 0.9]) for share, start in zip(shares, starts))  # many places to start at
        assert abs(pearsonr(*shares)[0]) < 0.15

    def test_the_hosts_resize_leaves_it_as_it_is(self, tiny_cfg: Callable) -> None:
        steps = build_transforms(tiny_cfg(*self.ON))
        assert [type(step).__name__ for step in steps.transforms] == ["RandomCropResizeShift", "Resize", "ToTensor"]
        image = ramps(60)
        torch.manual_seed(4)
        alone = np.asarray(steps.transforms[0](image))
        torch.manual_seed(4)
        assert np.array_equal(steps(image).permute(1, 2, 0).numpy(), alone)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("INPUT.RCRS.CROP_MIN", 0.0, "INPUT.RCRS.CROP_MIN is 0.0"),
            ("INPUT.RCRS.SHIFT_MAX", 1.0, "INPUT.RCRS.SHIFT_MAX is 1.0"),
            ("INPUT.RCRS.SHIFT_MAX", -0.1, "INPUT.RCRS.SHIFT_MAX is -0.1"),
            ("INPUT.RCRS.FILL", 300, "INPUT.RCRS.FILL is 300"),
            ("INPUT.SIZE_TRAIN", [48], r"INPUT.SIZE_TRAIN is \[48\]"),
            ("INPUT.SIZE_TRAIN", [0, 0], r"INPUT.SIZE_TRAIN is \[0, 0\]"),
        ],
    )
    def test_settings_that_make_no_sense(self, tiny_cfg: Callable, key: str, value: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build_transforms(tiny_cfg(*self.ON, key, value))
        build_transforms(tiny_cfg(key, value))  # nobody asked for it


class TestTableVI:
    """The augmentations that the host has must do something with the torchvision and Pillow at hand."""

    OFF = ("INPUT.FLIP.ENABLED", False)

    def outputs(self, cfg: Any, image: Image.Image) -> list[torch.Tensor]:
        steps = build_transforms(cfg)
        return [steps(image) for _ in range(4)]

    def assert_random(self, outs: list[torch.Tensor], untouched: torch.Tensor) -> None:
        assert all(out.shape == untouched.shape and not torch.equal(out, untouched) for out in outs)
        assert len({tuple(out.flatten().tolist()) for out in outs}) == len(outs)

    @pytest.fixture
    def person(self) -> Image.Image:
        return Image.fromarray(np.random.default_rng(0).integers(30, 200, (48, 24, 3), dtype=np.uint8))

    def untouched(self, cfg: Any, image: Image.Image) -> torch.Tensor:
        return build_transforms(cfg, is_train=False)(image)

    def test_color_jitter(self, tiny_cfg: Callable, person: Image.Image) -> None:
        cfg = tiny_cfg(*self.OFF, "INPUT.CJ.ENABLED", True, "INPUT.CJ.PROB", 1.0)
        self.assert_random(self.outputs(cfg, person), self.untouched(cfg, person))
        skin = Image.new("RGB", (24, 48), (200, 150, 120))
        for out in self.outputs(cfg, skin):  # one color becomes one other color: nothing moves
            assert all(len(channel.unique()) == 1 for channel in out)
            assert out[:, 0, 0].tolist() != [200, 150, 120]

    @pytest.mark.parametrize(
        ("key", "channels_differ"), [("BRIGHTNESS", False), ("CONTRAST", False), ("SATURATION", True), ("HUE", True)]
    )
    def test_every_strength_of_color_jitter_counts(
        self, tiny_cfg: Callable, person: Image.Image, key: str, channels_differ: bool
    ) -> None:
        strengths = [x for k in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE") for x in (f"INPUT.CJ.{k}", 0.0)]
        on = (*self.OFF, "INPUT.CJ.ENABLED", True, "INPUT.CJ.PROB", 1.0, *strengths, f"INPUT.CJ.{key}", 0.3)
        cfg = tiny_cfg(*on)
        self.assert_random(self.outputs(cfg, person), self.untouched(cfg, person))
        gray = Image.fromarray(np.asarray(person)[..., :1].repeat(3, axis=2))
        changes = any(not torch.equal(out, self.untouched(cfg, gray)) for out in self.outputs(cfg, gray))
        assert changes is not channels_differ  # saturation and hue leave a gray image as it is

    def test_random_crop(self, tiny_cfg: Callable, person: Image.Image) -> None:
        cfg = tiny_cfg(*self.OFF, "INPUT.PADDING.ENABLED", True, "INPUT.PADDING.SIZE", 4)
        untouched = self.untouched(cfg, person)
        outs = self.outputs(cfg, person)
        self.assert_random(outs, untouched)
        padded = torch.nn.functional.pad(untouched, (4, 4, 4, 4))
        windows = {tuple(padded[:, y : y + 48, x : x + 24].flatten().tolist()) for y in range(9) for x in range(9)}
        assert all(tuple(out.flatten().tolist()) in windows for out in outs)

    def test_random_erasing(self, tiny_cfg: Callable, person: Image.Image) -> None:
        cfg = tiny_cfg(*self.OFF, "INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0, "INPUT.REA.VALUE", [255.0])
        untouched = self.untouched(cfg, person)
        outs = self.outputs(cfg, person)
        self.assert_random(outs, untouched)
        for out in outs:
            erased = (out == 255).all(0)
            assert torch.equal(out[:, ~erased], untouched[:, ~erased])
            assert 0.01 < float(erased.float().mean()) < 0.4

    def test_random_shifting_with_erasing(self, tiny_cfg: Callable) -> None:
        """RSA + RE: gray boxes, and rectangles of the erasing's value over them."""
        cfg = tiny_cfg(
            *self.OFF, "INPUT.RSA.ENABLED", True, "INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0,
            "INPUT.REA.VALUE", [255.0],
        )  # fmt: skip
        for out in self.outputs(cfg, plain(24, 48)):
            assert {float(GRAY), 255.0} <= set(out.unique().tolist()) <= {float(LEVEL), float(GRAY), 255.0}
