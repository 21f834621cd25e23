from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.evaluation import backbone_map, branch_maps


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


CAN = (
    "MODEL.META_ARCHITECTURE", "CAN",
    "MODEL.HEADS.NAME", "CANHead",
    "MODEL.HEADS.EMBEDDING_DIM", 8,
    "MODEL.HEADS.NUM_CLASSES", 2,
    "MODEL.CAN.PARTS", [1, 2],
)  # fmt: skip


def test_branch_maps_of_can(tiny_cfg: Callable[..., CfgNode], images: torch.Tensor) -> None:
    model = build_model(tiny_cfg(*CAN)).train()
    torch.nn.init.normal_(next(model.backbone.branches["parts_of_2"].parameters()))  # branches start alike
    result = branch_maps(model, images)
    assert model.training and list(result) == ["parts_of_1", "parts_of_2"]
    assert torch.equal(result["parts_of_1"], backbone_map(model, images))
    shared = model.eval().backbone.forward_shared((images - model.pixel_mean) / model.pixel_std)
    assert torch.allclose(result["parts_of_2"], model.backbone.forward_branch("parts_of_2", shared))
    assert not torch.allclose(result["parts_of_1"], result["parts_of_2"])


def test_branch_maps_of_cmbn_with_the_branch_that_evaluation_leaves_out(
    cmbn_cfg: Callable[..., CfgNode], images: torch.Tensor
) -> None:
    torch.manual_seed(0)
    model = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", 6)).eval()
    result = branch_maps(model, images)
    assert list(result) == ["backbone", "reversal"]
    assert torch.equal(result["backbone"], backbone_map(model, images))
    assert not torch.allclose(result["backbone"], result["reversal"])
    without = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", 6, "MODEL.CMBN.REVERSAL_BRANCH", False))
    assert list(branch_maps(without, images)) == ["backbone"]


def test_branch_maps_without_branches(tiny_cfg: Callable[..., CfgNode], images: torch.Tensor) -> None:
    model = build_model(stock_cfg(tiny_cfg))
    result = branch_maps(model, images)
    assert list(result) == [""] and torch.equal(result[""], backbone_map(model, images))
