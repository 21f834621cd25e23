"""Public formats: every manifest fills the backbone that its set is for, each tensor at its place."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.mobilenet import MobileNetV2
from fastreid.modeling.backbones.vision_transformer import VisionTransformer
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from fastreid_parts.backbones.timm_models import ConvStem
from fastreid_parts.pretrained import load_weights, published
from fastreid_parts.pretrained.formats import fitted

from .manifests import NAMES, checkpoint

#: What the file of a set lacks by its nature
INCOMPLETE = {
    # Its last convolution is a linear layer after the pooling, without a norm
    "torchvision/mobilenet_v3_large": "308 of 313",
    "torchvision/mobilenet_v3_small": "240 of 245",
    # fast-reid's ResNeXt has instance norm in the last stage as well
    "ibn/resnext101_a": "669 of 687",
}


def backbone_of(fits: dict) -> nn.Module:
    """As a builder makes it for images of 256 x 128, before it is cut into stages."""
    if fits["NAME"] == "build_timm_backbone":
        timm = pytest.importorskip("timm")
        is_vit = fits["TIMM"].startswith("vit_")
        model = timm.create_model(fits["TIMM"], num_classes=0, **({"img_size": (256, 128)} if is_vit else {}))
        if fits.get("CONV_STEM"):
            model.patch_embed.proj = ConvStem(model.patch_embed.proj)
        return model
    cfg = get_cfg()
    cfg.INPUT.SIZE_TRAIN = [256, 128]
    cfg.MODEL.BACKBONE.merge_from_list([x for pair in fits.items() for x in pair])
    return build_backbone(cfg)


def saved(path: Path, name: str) -> tuple[str, dict[str, float]]:
    content, numbers = checkpoint(name)
    torch.save(content, path)
    return str(path), numbers


@pytest.mark.parametrize("name", NAMES)
def test_a_public_file_fills_its_backbone(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fastreid_parts.pretrained")
    backbone = backbone_of(dict(published()[name].fits))
    path, numbers = saved(tmp_path / "file.pth", name)
    load_weights(backbone, path)
    state = backbone.state_dict()
    if name in INCOMPLETE:
        assert f"{INCOMPLETE[name]} tensors of the backbone" in caplog.text
        assert caplog.records[-1].levelname == "WARNING"
        return
    total = sum(not n.endswith("num_batches_tracked") for n in state)
    assert f"{total} of {total} tensors" in caplog.text or f"{len(state)} of {len(state)} tensors" in caplog.text
    # Each number once: no tensor came to two places. Joined and resized positions have several
    found = [round(t.double().mean().item(), 3) for n, t in state.items() if "pos_embed" not in n and t.ndim]
    assert "reg4" in name or (len(set(found)) == len(found) and set(found) <= set(numbers.values()))


def test_a_convolutional_stem_fits_no_other_vit_nor_another_file_it(tmp_path: Path) -> None:
    vit = {"NAME": "build_timm_backbone", "TIMM": "vit_small_patch16_224"}
    path, _ = saved(tmp_path / "file.pth", "transreid-ssl/vit_small_ics")
    with pytest.raises(ValueError, match="Without a place in the backbone: patch_embed.*conv"):
        load_weights(backbone_of(vit), path)
    path, _ = saved(tmp_path / "file.pth", "transreid-ssl/vit_small")
    with pytest.raises(ValueError, match=r"Missing: patch_embed .*Of another shape: .*384, 64, 8, 8"):
        load_weights(backbone_of({**vit, "CONV_STEM": True}), path)


class TestMobileNetV2:
    def test_torchvisions_gives_torchvisions_map(self) -> None:
        theirs = pytest.importorskip("torchvision").models.mobilenet_v2().eval()
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 1.5)
        ours = MobileNetV2("BN").eval()
        ours.load_state_dict({n: t for n, t in fitted(theirs.state_dict(), ours).items() if "classifier" not in n})
        images = torch.rand(1, 3, 64, 32)
        assert torch.allclose(ours(images), theirs.features(images), atol=1e-5)


class TestViT:
    @staticmethod
    def vit(height: int, width: int) -> VisionTransformer:
        return VisionTransformer((height, width), embed_dim=8, depth=1, num_heads=2)

    @pytest.mark.parametrize(("old", "new"), [((64, 64), (128, 64)), ((128, 64), (96, 64)), ((128, 64), (256, 128))])
    def test_positions_go_to_the_grid_of_the_backbone(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        theirs, ours = self.vit(*old), self.vit(*new)
        with torch.no_grad():  # rows and columns counted from 0 to 1 at the middles of the patches
            rows, columns = old[0] // 16, old[1] // 16
            down = (torch.arange(rows) + 0.5) / rows
            right = (torch.arange(columns) + 0.5) / columns
            grid = torch.stack(torch.meshgrid(down, right, indexing="ij"), -1).flatten(0, 1)
            theirs.pos_embed[0, 1:, :2] = grid
        state = fitted(theirs.state_dict(), ours)
        assert state["pos_embed"].shape == ours.pos_embed.shape
        assert torch.equal(state["pos_embed"][:, 0], theirs.pos_embed[:, 0])
        rows, columns = new[0] // 16, new[1] // 16
        resized = state["pos_embed"][0, 1:, :2].view(rows, columns, 2)
        middle = resized[rows // 2 - 1 : rows // 2 + 1].mean((0, 1))
        assert torch.allclose(middle, torch.tensor([0.5, 0.5]), atol=1e-5)
        assert (resized[1:, :, 0] >= resized[:-1, :, 0]).all() and (resized[:, 1:, 1] > resized[:, :-1, 1]).all()

    def test_the_grid_that_is_assumed_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """A square number of patches may be those of another shape, 24 x 6."""
        caplog.set_level(logging.INFO, logger="fastreid_parts.pretrained")
        fitted(self.vit(384, 96).state_dict(), self.vit(256, 128))
        assert "positions of 144 patches are taken as of 12 x 12, and resized to 16 x 8" in caplog.text

    def test_positions_of_no_grid_that_can_be_told_are_of_another_shape(self) -> None:
        state = self.vit(64, 48).state_dict()  # 4 x 3
        assert fitted(state, self.vit(128, 64))["pos_embed"].shape == (1, 13, 8)

    def test_the_distillation_token_of_deit(self) -> None:
        state = self.vit(64, 32).state_dict()
        positions = torch.cat([state["pos_embed"][:, :1], torch.ones(1, 1, 8), state["pos_embed"][:, 1:]], dim=1)
        found = fitted({**state, "pos_embed": positions, "dist_token": torch.ones(1, 1, 8)}, self.vit(64, 32))
        assert torch.equal(found["pos_embed"], state["pos_embed"])

    def test_pass_has_the_position_of_its_class_token_apart(self) -> None:
        state = self.vit(64, 32).state_dict()
        apart = {**state, "cls_pos": state["pos_embed"][:, :1], "pos_embed": state["pos_embed"][:, 1:]}
        assert torch.equal(fitted(apart, self.vit(64, 32))["pos_embed"], state["pos_embed"])

    def test_patches_by_a_linear_layer(self) -> None:
        state = self.vit(64, 32).state_dict()
        flat = {**state, "patch_embed.proj.weight": state["patch_embed.proj.weight"].flatten(1)}
        found = fitted(flat, self.vit(64, 32))["patch_embed.proj.weight"]
        assert torch.equal(found, state["patch_embed.proj.weight"])


def test_fast_reids_mgn_gives_its_trunk_and_its_first_branch(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.HEADS.NUM_CLASSES = "MGN", 3
    with torch.device("meta"):
        mgn = META_ARCH_REGISTRY.get("MGN")(cfg)
    numbers = {name: float(number) for number, name in enumerate(mgn.state_dict(), start=1)}
    state = {name: torch.tensor(numbers[name]).expand(t.shape) for name, t in mgn.state_dict().items()}
    torch.save({"model": state}, tmp_path / "mgn.pth")
    resnet = build_backbone(cfg)
    load_weights(resnet, str(tmp_path / "mgn.pth"))
    for ours, theirs in {
        "conv1.weight": "backbone.0.weight",
        "bn1.running_var": "backbone.1.running_var",
        "layer1.2.conv3.weight": "backbone.4.2.conv3.weight",
        "layer3.0.downsample.0.weight": "backbone.6.downsample.0.weight",
        "layer3.1.conv1.weight": "b1.0.0.conv1.weight",
        "layer3.5.bn3.bias": "b1.0.4.bn3.bias",
        "layer4.2.conv2.weight": "b1.1.2.conv2.weight",
    }.items():
        assert (resnet.state_dict()[ours] == numbers[theirs]).all(), ours


def test_soliders_swin_merges_patches_in_timms_order() -> None:
    """mmcv unfolds 2 x 2 patches channel by channel; the merged map is the same."""
    timm = pytest.importorskip("timm")
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, embed_dim=12, depths=(1, 1, 1, 1)).eval()
    merging = swin.layers[1].downsample
    nn.init.uniform_(merging.norm.weight), nn.init.uniform_(merging.norm.bias)
    x = torch.rand(1, 4, 6, 12)  # (N, H, W, C)
    expected = merging(x)
    # mmcv's: 2 x 2 of each channel in turn, rows first
    channel, row, column = torch.meshgrid(torch.arange(12), torch.arange(2), torch.arange(2), indexing="ij")
    unfolded = torch.nn.functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)  # (N, L, 4 C)
    order = (row + 2 * column) * 12 + channel  # where timm has what mmcv has at (channel, row, column)
    theirs = {
        "norm.weight": merging.norm.weight[order.flatten()],
        "norm.bias": merging.norm.bias[order.flatten()],
        "reduction.weight": merging.reduction.weight[:, order.flatten()],
    }
    normed = nn.functional.layer_norm(unfolded, (48,), theirs["norm.weight"], theirs["norm.bias"])
    assert torch.allclose(normed @ theirs["reduction.weight"].T, expected.flatten(1, 2), atol=1e-5)
    state = {f"stages.0.downsample.{n}": t.detach() for n, t in theirs.items()}
    state["stages.0.blocks.0.attn.w_msa.qkv.weight"] = swin.layers[0].blocks[0].attn.qkv.weight.detach()
    found = fitted(state, swin)
    for name, tensor in merging.state_dict().items():
        assert torch.equal(found[f"layers.1.downsample.{name}"], tensor), name
    assert "layers.0.blocks.0.attn.qkv.weight" in found
