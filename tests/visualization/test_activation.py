from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.visualization import activation_maps, draw_activation_maps, load_images
from fastreid_parts.visualization.activation import map_images, scaled_response


def stock_cfg(make: Callable[..., CfgNode]) -> CfgNode:
    return make("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NUM_CLASSES", 2)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 48, 24), generator=torch.Generator().manual_seed(0)).float()


def test_response_is_the_loop() -> None:
    features = torch.randn(2, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    result = scaled_response(features, (6, 3))
    for n in range(2):
        mean = [[sum(abs(float(v)) for v in features[n, :, y, x]) / 5 for x in range(3)] for y in range(6)]
        low, high = min(map(min, mean)), max(map(max, mean))
        expected = [[(v - low) / (high - low) for v in row] for row in mean]
        assert result[n] == pytest.approx(np.array(expected), abs=1e-5)


def test_the_maximum_over_the_channels_is_the_loop() -> None:
    features = torch.randn(2, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    result = scaled_response(features, (6, 3), reduce="max")
    for n in range(2):
        highest = [[max(float(v) for v in features[n, :, y, x]) for x in range(3)] for y in range(6)]
        low, high = min(map(min, highest)), max(map(max, highest))
        expected = [[(v - low) / (high - low) for v in row] for row in highest]
        assert result[n] == pytest.approx(np.array(expected), abs=1e-5)
    with pytest.raises(ValueError, match="mean or max, not by 'sum'"):
        scaled_response(features, (6, 3), reduce="sum")


def test_response_is_enlarged_bilinearly() -> None:
    ramp = torch.tensor([[[[0.0], [1.0]]]])
    assert scaled_response(ramp, (4, 1))[0, :, 0] == pytest.approx([0, 0.25, 0.75, 1])


def test_response_of_a_flat_map_is_zero() -> None:
    assert (scaled_response(torch.full((1, 2, 3, 3), 5.0), (6, 6)) == 0).all()


def test_activation_maps_do_not_depend_on_the_batch(tiny_cfg: Callable[..., CfgNode], images: torch.Tensor) -> None:
    model = build_model(stock_cfg(tiny_cfg))
    whole = activation_maps(model, images)
    assert whole.shape == (3, 48, 24) and whole.dtype == np.float32
    assert whole.min() >= 0 and whole.max() <= 1 and whole.std() > 0.01
    assert activation_maps(model, images, batch_size=1) == pytest.approx(whole, abs=1e-4)
    assert np.abs(activation_maps(model, images, reduce="max") - whole).max() > 0.01


def test_images_of_a_map() -> None:
    image = np.full((20, 10, 3), 200, np.uint8)
    response = np.zeros((8, 4), np.float32)
    response[:4] = 1
    color, blended = map_images(image, response)
    assert color.shape == blended.shape == (8, 4, 3)
    assert color[0, 0, 0] > color[0, 0, 2]  # red where it responds
    assert color[-1, 0, 2] > color[-1, 0, 0]  # blue where it does not
    assert blended == pytest.approx((color.astype(float) + 200) / 2, abs=1)


def test_load_images(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.full((30, 10, 3), (0, 0, 250), np.uint8))
    shown, images = load_images(tiny_cfg(), [path])
    assert shown[0].shape == (30, 10, 3)
    assert images.shape == (1, 3, 48, 24) and images.dtype == torch.float32
    assert images[0, :, 5, 5].tolist() == [250, 0, 0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.jpg"):
        load_images(tiny_cfg(), [path, str(broken)])
    with pytest.raises(ValueError, match="no images"):
        load_images(tiny_cfg(), [])


def test_draws_a_column_for_each_model(tmp_path: Path) -> None:
    images = [np.full((48, 24, 3), 90, np.uint8)] * 3
    maps = np.random.default_rng(0).random((3, 48, 24)).astype(np.float32)
    one, two = tmp_path / "new" / "one.png", tmp_path / "two.png"
    draw_activation_maps(images, {"CMBN": maps}, one)
    draw_activation_maps(images, {"IDE": maps, "CMBN": maps}, two, title="Title")
    assert cv2.imread(str(two)).shape[1] > cv2.imread(str(one)).shape[1]
    with pytest.raises(ValueError, match="3 images but 2 activation maps of 'IDE'"):
        draw_activation_maps(images, {"IDE": maps[:2]}, one)
    with pytest.raises(ValueError, match="at least one image"):
        draw_activation_maps([], {"IDE": maps[:0]}, one)


def test_draws_the_chosen_panels_alone(tmp_path: Path) -> None:
    images = [np.full((48, 24, 3), 90, np.uint8)] * 2
    maps = {name: np.zeros((2, 48, 24), np.float32) for name in ("BOT", "CGE with a long name")}
    widths = {}
    for show in ("both", "map", "overlay"):
        path = tmp_path / f"{show}.png"
        draw_activation_maps(images, maps, path, per_row=1, show=show)
        picture = cv2.imread(str(path))
        widths[show] = picture.shape[1]
        # Blue of a map without response: pure alone, half of it over the gray image
        pure, blended = map_images(images[0], maps["BOT"][0])
        for kind, color in (("map", pure[0, 0, ::-1]), ("overlay", blended[0, 0, ::-1])):
            drawn = (np.abs(picture.astype(int) - color).max(axis=2) <= 1).mean() > 0.02
            assert drawn == (show in (kind, "both"))
    assert widths["map"] == widths["overlay"] < widths["both"]
    with pytest.raises(ValueError, match="both, map, overlay, not as 'none'"):
        draw_activation_maps(images, maps, tmp_path / "none.png", show="none")
