"""Receptive fields: the paper's numbers, and what a network's gradients reach."""

from __future__ import annotations

import math

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import build_backbone
from torch import nn

from fastreid_parts.backbones import stages_of
from fastreid_parts.backbones.receptive_field import (
    LayerField,
    Partition,
    ReceptiveField,
    layer_fields,
)
from fastreid_parts.methods.rmgl import RMGLBackbone, RMGLSettings


def config(depth: str = "18x", **keys: object) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.BACKBONE.DEPTH = depth
    cfg.MODEL.BACKBONE.LAST_STRIDE = 1
    for key, value in keys.items():
        cfg.MODEL.BACKBONE[key] = value
    return cfg


def fields(depth: str, height: int = 384, **keys: object) -> list[LayerField]:
    return layer_fields(stages_of(build_backbone(config(depth, **keys))), height)


class TestTheNumbersOfSection3B:
    def test_363_rows_behind_resnet_50_with_a_last_stride_of_1(self) -> None:
        layers = fields("50x")
        assert len([layer for layer in layers if layer.kernel is not None]) == 50  # 49 convolutions and a pooling
        assert (layers[-1].field.size, layers[-1].field.jump, layers[-1].height) == (363, 16, 24)
        # "Most of the contents in normal-sized pedestrian images": of 384 rows
        assert layers[-1].field.seen(11, 12, 384) == (0, 360) and layers[-1].field.seen(12, 13, 384) == (13, 376)
        assert fields("50x", LAST_STRIDE=2)[-1].field.size == 427

    def test_the_product_as_printed_gives_another_number(self) -> None:
        """Eq. (5) multiplies up to the stride of the layer itself, s_{j,j+1}; then it would not be 363."""
        size = printed = jump = 1
        for layer in fields("50x"):
            size += (layer.kernel - 1) * jump
            jump *= layer.stride
            printed += (layer.kernel - 1) * jump
        assert (size, printed) == (363, 397)

    def test_equations_6_and_7_behind_res2(self) -> None:
        backbone = build_backbone(config("50x"))
        for stripes, rows, expected in ((2, 48, 35 + 47 * 4), (3, 32, 35 + 31 * 4)):
            partition = Partition.of(backbone, 384, "layer1", stripes)
            assert partition.height // stripes == rows and partition.size == expected
            assert partition.behind.size == 83 and partition.restricts
            # Fields of one behind the other: 363 again
            assert partition.before.size + (partition.behind.size - 1) * partition.before.jump == 363

    @pytest.mark.parametrize(("position", "behind", "restricts"), [("stem", 89, True), ("layer3", 7, False)])
    def test_a_late_cut_restricts_nothing_more(self, position: str, behind: int, restricts: bool) -> None:
        partition = Partition.of(build_backbone(config("50x")), 384, position, 2)
        assert (partition.behind.size, partition.restricts) == (behind, restricts)

    def test_a_cut_of_the_last_map(self) -> None:
        """Output partition: stripes of rows that all see 363."""
        partition = Partition.of(build_backbone(config("50x")), 384, "layer4", 3)
        assert partition.size == 363 + 7 * 16 and partition.behind.size == 1 and not partition.restricts


def positive(backbone: nn.Module) -> nn.Module:
    """The backbone with weights of one sign, so that no gradient cancels, and pooled by the average.

    A maximum hands its gradient to one row only.
    """
    torch.manual_seed(0)
    stem = backbone.shared["stem"] if isinstance(backbone, RMGLBackbone) else backbone
    name = "3" if isinstance(stem, nn.Sequential) else "maxpool"
    pool = getattr(stem, name)
    setattr(stem, name, nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode))
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.uniform_(module.weight, 0, 2 / module.weight[0].numel())
    return backbone.eval()


def reached(images: torch.Tensor, output: torch.Tensor, row: int) -> list[int]:
    """Rows of the images on which a row of an output depends, by its gradient."""
    [gradient] = torch.autograd.grad(output[:, :, row].sum(), images, retain_graph=True)
    return gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()


def forward(backbone: nn.Module, height: int) -> tuple[torch.Tensor, torch.Tensor | dict[str, torch.Tensor]]:
    images = torch.rand(1, 3, height, 8, requires_grad=True)
    return images, positive(backbone)(images)


class TestAgainstGradients:
    @pytest.mark.parametrize(("height", "last_stride"), [(400, 1), (413, 1), (413, 2)])
    def test_rows_of_the_last_map(self, height: int, last_stride: int) -> None:
        backbone = build_backbone(config(LAST_STRIDE=last_stride))
        last = layer_fields(stages_of(backbone), height)[-1]
        images, output = forward(backbone, height)
        assert last.height == output.shape[2]
        for row in (0, last.height // 2, last.height - 1):
            assert reached(images, output, row) == list(range(*last.field.seen(row, row + 1, height)))
        if last_stride == 1:  # with room on both sides there are r of them, around the center
            rows = reached(images, output, 12)
            assert len(rows) == last.field.size == 339
            assert (rows[0] + rows[-1]) / 2 == last.field.center + 12 * last.field.jump

    @pytest.mark.parametrize(
        ("position", "stage", "branches", "height"),
        [
            ("res2", "layer1", (2, 3), 192),
            ("stem", "stem", (2,), 192),
            ("res4", "layer3", (2,), 192),
            ("res2", "layer1", (4,), 144),
        ],
    )
    def test_rows_of_both_paths(self, position: str, stage: str, branches: tuple, height: int) -> None:
        # 144 rows: four stripes of nine rows behind res2, of which the last map has three
        backbone = RMGLBackbone(build_backbone(config()), RMGLSettings(branches=branches, partition_at=position))
        whole = layer_fields(stages_of(backbone), height)[-1]
        images, maps = forward(backbone, height)
        for n in branches:
            original, receptive = maps[f"original/parts_of_{n}"], maps[f"receptive/parts_of_{n}"]
            middle = whole.height // 2
            assert reached(images, original, middle) == list(range(*whole.field.seen(middle, middle + 1, height)))
            partition = Partition.of(backbone, height, stage, n)
            rows = receptive.shape[2] // n
            for stripe in range(n):
                seen = [reached(images, receptive, stripe * rows + row) for row in range(rows)]
                assert seen == [list(range(*partition.seen(stripe, row))) for row in range(rows)]
                region = list(range(*partition.region(stripe)))
                assert sorted(set().union(*seen)) == region
                if partition.behind.size >= 2 * partition.height // n:  # it reaches both ends from every row
                    assert all(rows == region for rows in seen)


class TestLayers:
    def test_dilation_and_pooling(self) -> None:
        stage = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.AvgPool2d(2), nn.Conv2d(4, 4, (5, 3), padding=(2, 1))
        )
        layers = layer_fields({"stage": stage}, 20)
        assert [layer.name for layer in layers] == ["stage.0", "stage.1", "stage.2"]
        assert [layer.field.size for layer in layers] == [5, 6, 6 + 4 * 2]
        assert [layer.height for layer in layers] == [20, 10, 10]
        assert layers[-1].field == ReceptiveField(14, 2, -2 - 4)

    @pytest.mark.parametrize("height", range(8, 20))
    def test_rows_of_a_pooled_map(self, height: int) -> None:
        for pool in (nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 3, padding=1, ceil_mode=True)):
            [layer] = layer_fields({"pool": pool}, height)
            assert layer.height == pool(torch.rand(1, 1, height, height)).shape[2]

    def test_the_longer_way_of_a_block_counts(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
                self.downsample = nn.Conv2d(4, 4, 7, padding=3)

        [layer] = layer_fields({"block": Block()}, 20)
        assert (layer.name, layer.field) == ("block.conv1", ReceptiveField(7, 1, -3))

    @pytest.mark.parametrize(
        ("depth", "keys", "names"),
        [
            ("18x", {"WITH_SE": True}, ["layer1.0.se", "layer1.1.se"]),
            ("18x", {"WITH_IBN": True}, ["layer1.0.bn1", "layer1.1.bn1"]),
            ("50x", {"WITH_NL": True}, ["layer2.non_local2", "layer2.non_local3"]),
        ],
    )
    def test_layers_that_see_their_whole_map(self, depth: str, keys: dict, names: list[str]) -> None:
        layers = fields(depth, 96, **keys)
        whole = [layer for layer in layers if layer.kernel is None]
        assert [layer.name for layer in whole][:2] == names
        first = layers.index(whole[0])
        assert all(math.isfinite(layer.field.size) for layer in layers[:first])
        assert all(layer.field.size == math.inf for layer in layers[first:])
        assert math.isnan(whole[0].field.center)
        assert {layer.stride for layer in whole} == {1} and whole[0].field.jump == layers[first - 1].field.jump

    def test_behind_a_cut_they_see_their_stripe(self) -> None:
        partition = Partition.of(build_backbone(config("50x", WITH_NL=True)), 384, "layer1", 2)
        assert partition.behind.size == math.inf and partition.restricts and partition.size == 223
        assert partition.seen(1, 0) == partition.region(1) == (177, 384)


def test_bad_input_is_named() -> None:
    backbone = build_backbone(config())
    with pytest.raises(ValueError, match="96 rows, which 5 stripes do not divide"):
        Partition.of(backbone, 384, "layer1", 5)
    with pytest.raises(ValueError, match="none named 'res2'"):
        Partition.of(backbone, 384, "res2", 2)
    with pytest.raises(ValueError, match="those of Sequential are not known"):
        stages_of(nn.Sequential())
    assert layer_fields({"stem": nn.Conv2d(3, 4, 7)}, 7)[0].height == 1
    with pytest.raises(ValueError, match="too small for a kernel of 7"):
        layer_fields({"stem": nn.Conv2d(3, 4, 7)}, 6)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 3, 3)

    with pytest.raises(ValueError, match="stage.0 is a Odd"):
        layer_fields({"stage": nn.Sequential(Odd())}, 10)
