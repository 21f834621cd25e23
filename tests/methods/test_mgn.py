"""fast-reid's MGN with activation balanced stripes, against a loop over images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from torch import nn

from .tester import IDENTITIES, batch, stripes_of

SIZE = (96, 48)
MGN = (
    "MODEL.HEADS.EMBEDDING_DIM", 8,
    "MODEL.HEADS.NECK_FEAT", "after",
    "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"),
    "MODEL.BACKBONE.LAST_STRIDE", 1,
    "INPUT.SIZE_TRAIN", list(SIZE),
    "INPUT.SIZE_TEST", list(SIZE),
)  # fmt: skip


@pytest.fixture
def make(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., nn.Module]:
    def build(*overrides: object) -> nn.Module:
        torch.manual_seed(0)
        return build_model(tiny_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides))

    return build


@pytest.mark.parametrize("pool_layer", ["GlobalMaxPool", "GlobalAvgPool", "GeneralizedMeanPoolingP"])
def test_gives_its_heads_each_images_own_stripes(make: Callable, pool_layer: str) -> None:
    overrides = ("MODEL.META_ARCHITECTURE", "BalancedMGN", "MODEL.HEADS.POOL_LAYER", pool_layer)
    model = make(*MGN, *overrides, "MODEL.ABP.MODE", "test", "MODEL.ABP.POOL", "layer").eval()
    if pool_layer == "GeneralizedMeanPoolingP":
        model.b22_head.pool_layer.p.data.fill_(5.0)  # the heads' exponents differ
    images = batch(4, SIZE)["images"]
    with torch.no_grad():
        shared = model.backbone(model.preprocess_image(images))
        maps = {name: getattr(model, name)(shared) for name in ("b1", "b2", "b3")}
        expected = []
        for n in range(4):
            own = {name: feature_map[n : n + 1] for name, feature_map in maps.items()}
            inputs = [own["b1"], own["b2"], own["b3"], *stripes_of(own["b2"][0], 2), *stripes_of(own["b3"][0], 3)]
            heads = [model._head(name) for name in ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")]
            expected.append(torch.cat([head(x) for head, x in zip(heads, inputs)], dim=1))
        assert torch.allclose(model(images), torch.cat(expected), atol=1e-4)


def test_is_mgn_where_nothing_is_balanced(make: Callable) -> None:
    images = batch(4, SIZE)["images"]
    inputs: dict[str, Any] = {"images": images, "targets": torch.tensor([0, 0, 1, 1])}
    host = make(*MGN, "MODEL.META_ARCHITECTURE", "MGN")
    for mode in ("off", "test", "always"):
        ours = make(*MGN, "MODEL.META_ARCHITECTURE", "BalancedMGN", "MODEL.ABP.MODE", mode)
        ours.load_state_dict(host.state_dict())
        with EventStorage():
            expected, got = host(inputs), ours(inputs)
        assert got.keys() == expected.keys() and all(torch.isfinite(value) for value in got.values())
        assert all(torch.equal(got[k], expected[k]) for k in got) == (mode != "always")
        ours.load_state_dict(host.state_dict())  # the same running statistics
        with torch.no_grad():
            assert torch.equal(ours.eval()(images), host.eval()(images)) == (mode == "off")
        host.train()


def test_trains_on_balanced_stripes(make: Callable) -> None:
    model = make(*MGN, "MODEL.META_ARCHITECTURE", "BalancedMGN", "MODEL.ABP.MODE", "always")
    with EventStorage():
        losses = model({"images": batch(4, SIZE)["images"], "targets": torch.tensor([0, 0, 1, 1])})
    sum(losses.values()).backward()
    assert [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ] == []
    with pytest.raises(ValueError, match="training needs identities"):
        model(batch(4, SIZE)["images"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            (*MGN, "MODEL.META_ARCHITECTURE", "MGN", "MODEL.ABP.MODE", "test"),
            "this MGN does not read it: .* BalancedMGN",
        ),
        (
            (*MGN, "MODEL.META_ARCHITECTURE", "BalancedMGN", "MODEL.ABP.MODE", "test",
             "MODEL.HEADS.POOL_LAYER", "AdaptiveAvgMaxPool"),
            "POOL_LAYER is AdaptiveAvgMaxPool",
        ),
    ],
)  # fmt: skip
def test_errors(make: Callable, overrides: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*overrides)
