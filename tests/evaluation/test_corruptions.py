"""Corruptions: none at the first strength, more at each next, the same for the same image, each what it says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastreid_parts.evaluation.corruptions import CORRUPTIONS, Corrupt


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """192 x 96, smooth with edges and some texture."""
    random = np.random.default_rng(0)
    rows = np.linspace(40, 200, 192)[:, None, None] + np.zeros((192, 96, 3))
    rows[60:120, 24:72] = (200, 30, 60)
    return Image.fromarray((rows + random.normal(0, 6, rows.shape)).clip(0, 255).astype(np.uint8))


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_more_strength_more_change(name: str, image: Image.Image) -> None:
    values = CORRUPTIONS[name].values
    assert Corrupt(name, values[0])(image) is image
    worse = [Corrupt(name, value)(image) for value in values]
    assert all(one.size == image.size and one.mode == "RGB" for one in worse)
    changes = [distance(one, image) for one in worse]
    assert changes == sorted(changes) and changes[1] > 0.5, changes
    again = [Corrupt(name, value)(image) for value in values]
    assert [distance(one, other) for one, other in zip(worse, again)] == [0] * len(values)


@pytest.mark.parametrize("name", ["noise", "occlusion", "misalignment", "exposure"])
def test_the_seed_and_the_image_decide(name: str, image: Image.Image) -> None:
    value = CORRUPTIONS[name].values[-1]
    seeds = {Corrupt(name, value, seed)(image).tobytes() for seed in range(8)}
    assert len(seeds) > 1
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert Corrupt(name, value)(mirrored).tobytes() != Corrupt(name, value)(image).tobytes()


def test_each_is_what_its_unit_says() -> None:
    gray = Image.fromarray(np.full((100, 50, 3), 90, np.uint8))
    covered = np.asarray(Corrupt("occlusion", 40)(gray)) == 128
    assert covered.mean() == pytest.approx(0.4, abs=0.02)
    noisy = np.asarray(Corrupt("noise", 10)(gray), np.float64)
    assert noisy.std() == pytest.approx(10, rel=0.05) and noisy.mean() == pytest.approx(90, abs=0.5)
    assert {int(np.asarray(Corrupt("exposure", 1, seed)(gray))[0, 0, 0]) for seed in range(8)} == {45, 180}
    ramp = np.zeros((100, 50, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(100)[:, None], np.arange(50)[None]
    for seed in range(5):
        moved = np.asarray(Corrupt("misalignment", 20, seed)(Image.fromarray(ramp)), np.int64)
        down, right = moved[50, 25, 0] - 50, moved[50, 25, 1] - 25
        assert (down / 100) ** 2 + (right / 50) ** 2 == pytest.approx(0.04, abs=0.01)
        assert moved[..., 0].max() <= 99, "what is outside repeats the edge"
    spike = np.zeros((41, 100, 3), np.uint8)
    spike[20, 50] = 255
    wide = np.asarray(Corrupt("blur", 2)(Image.fromarray(spike)), np.float64)[20, :, 0]
    variance = (wide * (np.arange(100) - 50) ** 2).sum() / wide.sum()
    assert variance**0.5 == pytest.approx(2, abs=0.5)
    checks = (np.indices((60, 30)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.asarray(Corrupt("resolution", 2)(Image.fromarray(checks))).std() < 10
    assert len(np.unique(np.asarray(Corrupt("compression", 95)(Image.fromarray(checks))))) < 256


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fog", 1, "no corruption 'fog'; there are blur"),
        ("noise", -1, "from 0 to 255"),
        ("resolution", 0.5, "from 1 to 64"),
        ("compression", 100, "from 0 to 99"),
        ("blur", float("nan"), "nan is no strength"),
    ],
)
def test_what_is_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corrupt(name, value)
