from __future__ import annotations

from pathlib import Path
from typing import Callable

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.visualization import activation_maps, backbone_map, draw_activation_maps, load_images
from fastreid_parts.visualization.activation import map_pictures, normalised_response


def stock_cfg(make: Callable[..., CfgNode]) -> CfgNode:
    return make("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NUM_CLASSES", 2)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 48, 24), generator=torch.Generator().manual_seed(0)).float()


def test_backbone_map_of_a_stock_model(tiny_cfg: Callable[..., CfgNode], images: torch.Tensor) -> None:
    model = build_model(stock_cfg(tiny_cfg)).train()
    before, state = images.clone(), {name: value.clone() for name, value in model.state_dict().items()}
    result = backbone_map(model, images)
    assert torch.equal(images, before)
    assert model.training and not model.backbone._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        expected = model.backbone((images - model.pixel_mean) / model.pixel_std)
    assert torch.allclose(result, expected)


def test_backbone_map_asks_the_model_first(cmbn_cfg: Callable[..., CfgNode], images: torch.Tensor) -> None:
    model = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", 6))
    with torch.no_grad():
        expected = model.eval().feature_map(images)
    assert expected.ndim == 4
    assert torch.equal(backbone_map(model, images), expected)


def test_backbone_map_refuses(images: torch.Tensor) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Flatten()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, batch: dict) -> torch.Tensor:
            return self.backbone(batch["images"])

    with pytest.raises(ValueError, match=r"Flat gives no map \(N, C, H, W\) but \(3, 3456\)"):
        backbone_map(Flat(), images)
    with pytest.raises(ValueError, match="Linear has neither"):
        backbone_map(nn.Linear(1, 1), images)


def test_response_is_the_loop() -> None:
    features = torch.randn(2, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    result = normalised_response(features, (6, 3))
    for n in range(2):
        mean = [[sum(abs(float(v)) for v in features[n, :, y, x]) / 5 for x in range(3)] for y in range(6)]
        low, high = min(map(min, mean)), max(map(max, mean))
        expected = [[(v - low) / (high - low) for v in row] for row in mean]
        assert result[n] == pytest.approx(np.array(expected), abs=1e-5)


def test_response_is_enlarged_bilinearly() -> None:
    ramp = torch.tensor([[[[0.0], [1.0]]]])
    assert normalised_response(ramp, (4, 1))[0, :, 0] == pytest.approx([0, 0.25, 0.75, 1])


def test_response_of_a_flat_map_is_zero() -> None:
    assert (normalised_response(torch.full((1, 2, 3, 3), 5.0), (6, 6)) == 0).all()


def test_activation_maps_do_not_depend_on_the_batch(tiny_cfg: Callable[..., CfgNode], images: torch.Tensor) -> None:
    model = build_model(stock_cfg(tiny_cfg))
    whole = activation_maps(model, images)
    assert whole.shape == (3, 48, 24) and whole.dtype == np.float32
    assert whole.min() >= 0 and whole.max() <= 1 and whole.std() > 0.01
    assert activation_maps(model, images, batch_size=1) == pytest.approx(whole, abs=1e-4)


def test_pictures_of_a_map() -> None:
    image = np.full((20, 10, 3), 200, np.uint8)
    response = np.zeros((8, 4), np.float32)
    response[:4] = 1
    colour, blended = map_pictures(image, response)
    assert colour.shape == blended.shape == (8, 4, 3)
    assert colour[0, 0, 0] > colour[0, 0, 2]  # red where it responds
    assert colour[-1, 0, 2] > colour[-1, 0, 0]  # blue where it does not
    assert blended == pytest.approx((colour.astype(float) + 200) / 2, abs=1)


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
