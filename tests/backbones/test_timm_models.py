"""timm's models as stages: the same function as timm's own, keys that are read or refused."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.backbones import StagedBackbone, build_parts_backbone, build_timm_backbone

timm = pytest.importorskip("timm")

#: One of each family, the smallest that timm has
MODELS = [
    "resnet18", "test_convnext", "test_vit", "deit_tiny_patch16_224", "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224", "repvit_m0_9", "test_efficientnet", "efficientnet_b0", "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035", "fastvit_t8", "eva02_tiny_patch14_224", "vit_small_patch14_reg4_dinov2",
    "regnety_002", "resnetv2_18", "starnet_s050", "ghostnet_050", "repghostnet_050", "swiftformer_xs", "nf_regnet_b0",
    "deit_tiny_distilled_patch16_224",
]  # fmt: skip


@pytest.fixture
def cfg(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., CfgNode]:
    def make(model: str, *overrides: object) -> CfgNode:
        size = [112, 56] if "patch14" in model else [96, 64]
        return tiny_cfg(
            "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM", model,
            "MODEL.BACKBONE.LAST_STRIDE", 2, "INPUT.SIZE_TRAIN", size, *overrides,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("model", MODELS)
def test_the_stages_are_the_model(cfg: Callable, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: made.append(create(*a, **k)) or made[-1])
    built = cfg(model)
    net = build_timm_backbone(built).eval()
    theirs = made[-1].eval()
    images = torch.randn(2, 3, *built.INPUT.SIZE_TRAIN)
    with torch.no_grad():
        ours, expected = net(images), theirs.forward_features(images)
    if expected.ndim == 3:  # tokens
        expected = theirs.fc_norm(expected)  # of models whose norm stands after their pooling
        expected = expected[:, theirs.num_prefix_tokens :].transpose(1, 2).unflatten(2, ours.shape[2:])
    elif expected.shape[1] != ours.shape[1]:
        expected = expected.permute(0, 3, 1, 2)
    assert torch.allclose(ours, expected, atol=1e-5)
    held = {id(p) for p in net.parameters()}
    missing = [name for name, p in theirs.named_parameters() if id(p) not in held]
    # A copy of the position embedding is cut to the grid; ConvNeXt's norm and MobileNet's head stand after the pooling
    assert [n for n in missing if not n.startswith(("pos_embed", "conv_head", "norm_head", "head.norm"))] == []


@pytest.mark.parametrize("model", [model for model in MODELS if not model.startswith(("swin_", "nf_"))])
def test_the_last_stride(cfg: Callable, model: str) -> None:
    with_stride, without = (
        build_parts_backbone(cfg(model, "MODEL.BACKBONE.LAST_STRIDE", stride)).eval() for stride in (2, 1)
    )
    images = torch.randn(1, 3, *cfg(model).INPUT.SIZE_TRAIN)
    with torch.no_grad():
        rows = with_stride(images).shape[2], without(images).shape[2]
    assert rows in ((3, 6), (6, 6), (8, 8))  # transformers of one stride have nothing to lose


@pytest.mark.parametrize("model", ["swin_tiny_patch4_window7_224", "nf_regnet_b0"])
def test_what_pools_cannot_do_without_its_stride(cfg: Callable, model: str) -> None:
    with pytest.raises(ValueError, match="LAST_STRIDE is 1.*merges neighbors.*set it to 2"):
        build_parts_backbone(cfg(model, "MODEL.BACKBONE.LAST_STRIDE", 1))


def test_a_model_that_does_more_than_its_layers_is_refused(cfg: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = timm.models.ResNet
    monkeypatch.setattr(kind, "forward_features", lambda self, x: self.act1(kind.forward_stem(self, x)), raising=False)
    monkeypatch.setattr(kind, "forward_stem", lambda self, x: self.layer4(self.layer3(self.layer2(self.layer1(
        self.maxpool(self.act1(self.bn1(self.conv1(x)))))))), raising=False)  # fmt: skip
    with pytest.raises(ValueError, match="is a ResNet, whose layers are not known as stages here"):
        build_timm_backbone(cfg("resnet18"))


def test_the_stride_of_other_patches_is_logged(cfg: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fastreid_parts.backbones.timm_models"):
        build_timm_backbone(cfg("test_vit"))
        assert not caplog.records
        build_timm_backbone(cfg("vit_small_patch14_reg4_dinov2"))
    assert "STRIDE_SIZE is at its default, which here is that of the patches of vit_small" in caplog.text
    assert caplog.text.strip().endswith("14 x 14")


def test_patches_overlap_by_a_key(cfg: Callable) -> None:
    net = build_parts_backbone(cfg("test_vit", "MODEL.BACKBONE.STRIDE_SIZE", (8, 8))).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 96, 64)).shape[2:] == (11, 7)
    assert net.stages["stem"][0].position.shape[1] == 77


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        ("resnet5O", (), "TIMM is 'resnet5O', which timm does not have; it has resnet50"),
        ("", (), "which timm does not have"),
        ("test_mambaout", (), "is a MambaOut, whose layers are not known as stages here"),
        ("resnet18", ("MODEL.BACKBONE.WITH_IBN", True), "resnet18 does not read MODEL.BACKBONE.WITH_IBN"),
        ("resnet18", ("MODEL.BACKBONE.STRIDE_SIZE", (12, 12)), "does not read MODEL.BACKBONE.STRIDE_SIZE"),
        ("swin_tiny_patch4_window7_224", ("MODEL.BACKBONE.STRIDE_SIZE", (12, 12)), "does not read .*STRIDE_SIZE"),
        ("convnext_atto", ("MODEL.BACKBONE.STRIDE_SIZE", (12, 12)), "does not read MODEL.BACKBONE.STRIDE_SIZE"),
        ("repvit_m0_9", ("MODEL.BACKBONE.DROP_PATH_RATIO", 0.3), "does not read MODEL.BACKBONE.DROP_PATH_RATIO"),
        ("deit3_small_patch16_224", ("MODEL.BACKBONE.READOUT", "add"), None),
        ("vit_little_patch16_reg4_gap_256", ("MODEL.BACKBONE.READOUT", "add"), "this backbone has no class token"),
        ("pvt_v2_b0", (), "is a PyramidVisionTransformerV2, whose layers are not known as stages here"),
        ("focalnet_tiny_srf", (), "is a FocalNet, whose layers are not known as stages here"),
        ("legacy_seresnet18", (), "is a SENet, whose layers are not known as stages here"),
        ("maxvit_rmlp_pico_rw_256", (), "is a MaxxVit, which has no map of 96 x 64 pixels .*INPUT.SIZE_TRAIN"),
        ("test_vit", ("INPUT.SIZE_TRAIN", [100, 50]), "is a VisionTransformer, which has no map of 100 x 50 pixels"),
        ("vit_srelpos_small_patch16_224", (), "is a VisionTransformerRelPos, whose layers are not known as stages"),
    ],
)
def test_what_it_cannot_do_is_said(cfg: Callable, model: str, overrides: tuple, message: str | None) -> None:
    if message is None:
        assert isinstance(build_parts_backbone(cfg(model, *overrides)), StagedBackbone)
        return
    with pytest.raises(ValueError, match=message):
        build_parts_backbone(cfg(model, *overrides))


def test_the_model_is_named_where_no_timm_backbone_is_built(tiny_cfg: Callable) -> None:
    with pytest.raises(ValueError, match="MODEL.BACKBONE.TIMM is 'resnet18', and this PartsBaseline does not read it"):
        build_model(tiny_cfg("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.BACKBONE.TIMM", "resnet18"))


def test_without_timm(cfg: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs timm: pip install 'fastreid_parts\[timm\]'"):
        build_timm_backbone(cfg("resnet18"))


class TestConvStem:
    def test_patches_of_the_same_size_after_three_convolutions(self, cfg: Callable) -> None:
        built = cfg("test_vit", "MODEL.BACKBONE.CONV_STEM", True)
        net = build_timm_backbone(built)
        assert (
            net(torch.randn(2, 3, 96, 64)).shape
            == build_timm_backbone(cfg("test_vit"))(torch.randn(2, 3, 96, 64)).shape
        )
        convolutions = [m for m in net.stages["stem"].modules() if isinstance(m, torch.nn.Conv2d)]
        assert [(m.kernel_size[0], m.stride[0]) for m in convolutions] == [(7, 2), (3, 1), (3, 1), (8, 8)]

    def test_building_leaves_the_statistics_of_its_norms(self, cfg: Callable) -> None:
        stem = build_timm_backbone(cfg("test_vit", "MODEL.BACKBONE.CONV_STEM", True)).stages["stem"]
        norms = [m for m in stem.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms and all(not m.running_mean.any() and not m.num_batches_tracked for m in norms)

    @pytest.mark.parametrize(("model", "stride"), [("resnet18", 16), ("test_vit", 8)])
    def test_only_for_a_vit_without_overlap(self, cfg: Callable, model: str, stride: int) -> None:
        keys = ("MODEL.BACKBONE.CONV_STEM", True, "MODEL.BACKBONE.STRIDE_SIZE", [stride, stride])
        with pytest.raises(ValueError, match="CONV_STEM is for a ViT whose patches do not overlap"):
            build_timm_backbone(cfg(model, *keys))


class TestPretrained:
    def test_a_vit_of_another_size_fills_the_stages(self, cfg: Callable, tmp_path: Path) -> None:
        """Self-distillation's file for 64 x 64, into the stages of 96 x 64 with overlapping patches."""
        theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7)
        path = str(tmp_path / "f.pth")
        torch.save({"teacher": {f"module.backbone.{n}": t for n, t in theirs.state_dict().items()}}, path)
        keys = ("MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", path)
        stages = build_timm_backbone(cfg("vit_tiny_patch16_224", *keys, "MODEL.BACKBONE.STRIDE_SIZE", [8, 8])).stages
        stem, last = stages["stem"], stages["layer4"]
        held = [*stem.parameters(), *last.parameters()]
        block = theirs.blocks[-1]
        for tensor in (theirs.cls_token, theirs.patch_embed.proj.weight, block.mlp.fc2.bias, theirs.norm.bias):
            assert any(torch.equal(tensor, p) for p in held if p.shape == tensor.shape)
        assert any(p.shape == (1, 11 * 7, 192) for p in stem.parameters())

    def test_a_file_of_another_model_is_an_error(self, cfg: Callable, tmp_path: Path) -> None:
        path = str(tmp_path / "f.pth")
        torch.save(timm.create_model("resnet18").state_dict(), path)
        keys = ("MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", path)
        with pytest.raises(ValueError, match="holds another model than the backbone, a VisionTransformer: 0 of 150"):
            build_timm_backbone(cfg("vit_tiny_patch16_224", *keys))
