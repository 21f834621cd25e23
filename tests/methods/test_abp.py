"""Activation balanced stripes in RRID's head and in fast-reid's MGN, against loops over images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts.layers import balanced_bounds, contrast, maxima_per_row

from .tester import IDENTITIES, batch

RRID = (
    "MODEL.META_ARCHITECTURE", "RRID",
    "MODEL.HEADS.NAME", "RRIDHead",
    "MODEL.HEADS.WITH_BNNECK", False,
    "MODEL.HEADS.EMBEDDING_DIM", 8,
    "MODEL.RRID.PARTS", [2, 3],
)  # fmt: skip
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


def uneven_map(channels: int) -> torch.Tensor:
    """Six rows; the images have their maxima at different heights."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(4, 1, 6, 1, generator=generator) ** 3
    return torch.rand(4, channels, 6, 3, generator=generator) * (0.2 + rows)


def stripes_of(image: torch.Tensor, stripes: int) -> list[torch.Tensor]:
    """The balanced stripes (1, C, h, W) of one image (C, H, W)."""
    bounds = balanced_bounds(maxima_per_row(image[None]), stripes)[0].tolist()
    return [image[None, :, first:end] for first, end in zip(bounds, bounds[1:])]


# ---- RRID -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("abp_pool", "local_pool"), [("max", "gmp"), ("avg", "gmp"), ("layer", "gem")])
def test_rrid_pools_the_balanced_parts_of_each_image(make: Callable, abp_pool: str, local_pool: str) -> None:
    overrides = ("MODEL.ABP.MODE", "test", "MODEL.ABP.POOL", abp_pool, "MODEL.RRID.LOCAL_POOL", local_pool)
    head = make(*RRID, *overrides).heads.eval()
    feature_map = uneven_map(512)
    bounds = balanced_bounds(maxima_per_row(feature_map), 3)
    assert len({tuple(row) for row in bounds.tolist()}) > 1

    def pool(part: torch.Tensor) -> torch.Tensor:
        by_name = {"max": part.amax(dim=(2, 3)), "avg": part.mean(dim=(2, 3))}
        return by_name[abp_pool] if abp_pool in by_name else head.part_pool_layer(part).flatten(1)

    parts, maxima = [], []
    for image in feature_map:
        cut = [stripe for p in (2, 3) for stripe in stripes_of(image, p)]
        parts.append(torch.cat([pool(stripe) for stripe in cut]))
        maxima.append(torch.cat([stripe.amax(dim=(2, 3)) for stripe in cut]))
    parts, maxima = torch.stack(parts), torch.stack(maxima)  # (N, 5, C)
    assert torch.allclose(head.pool_parts(feature_map, head.part_pool_layer), parts, atol=1e-5)

    # All that the head makes of parts: maxima and contrasts of the scales 2 and 3, parts, rests
    by_scale = list(zip(parts.split([2, 3], dim=1), maxima.split([2, 3], dim=1)))
    rests = [(p.sum(dim=1, keepdim=True) - p) / (p.shape[1] - 1) for p, _ in by_scale]
    highest = torch.stack([m.amax(dim=1) for _, m in by_scale], dim=1)
    contrasts = torch.stack([contrast(m, "rest_mean") for _, m in by_scale], dim=1)
    inputs = torch.cat([highest, contrasts, parts, *rests], dim=1)
    made_of = head.reduce(feature_map)
    assert torch.allclose(torch.cat(list(made_of.values()), dim=1), head.reduction(inputs), atol=1e-5)


def test_rrid_balances_when_it_is_told_to(make: Callable) -> None:
    feature_map = uneven_map(512)
    heads = {mode: make(*RRID, "MODEL.ABP.MODE", mode).heads for mode in ("off", "test", "always")}
    assert len({tuple(head.state_dict()) for head in heads.values()}) == 1  # a checkpoint fits all of them
    for training in (False, True):
        pooled = {m: h.train(training).pool_parts(feature_map, h.part_pool_layer) for m, h in heads.items()}
        assert torch.equal(pooled["test"], pooled["off"]) == training
        assert not torch.equal(pooled["always"], pooled["off"])


def test_balanced_parts_need_no_divisible_height(make: Callable) -> None:
    feature_map = torch.rand(2, 512, 5, 3)
    with pytest.raises(ValueError, match="does not divide the 5 rows"):
        make(*RRID).heads.eval()(feature_map)
    assert make(*RRID, "MODEL.ABP.MODE", "test").heads.eval()(feature_map).shape == (2, 7 * 8)


# ---- MGN --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool_layer", ["GlobalMaxPool", "GlobalAvgPool", "GeneralizedMeanPoolingP"])
def test_balanced_mgn_gives_its_heads_each_images_own_stripes(make: Callable, pool_layer: str) -> None:
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


def test_balanced_mgn_is_mgn_where_nothing_is_balanced(make: Callable) -> None:
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


def test_balanced_mgn_trains_on_balanced_stripes(make: Callable) -> None:
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
        ((*RRID, "MODEL.ABP.MODE", "train"), "MODEL.ABP.MODE is 'train'"),
        ((*RRID, "MODEL.ABP.POOL", "sum"), "MODEL.ABP.POOL is 'sum'"),
    ],
)  # fmt: skip
def test_errors(make: Callable, overrides: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*overrides)
