"""Methods on backbones: a fifth of the table, each method and each backbone once at least; the rest is slow."""

from __future__ import annotations

import pytest

from tools import backbones

PAIRS = [(method, backbone) for method in backbones.METHODS for backbone in backbones.BACKBONES]
#: Each method with one backbone at least, each backbone with one method at least
FIFTH = [
    ("CMBN", "OSNet"), ("CMBN", "MobileNetV3"), ("CMBN", "timm convnext_tiny"), ("CMBN", "timm vit_small_patch16_224"),
    ("CGE", "timm repvit_m1_0"), ("CGE", "ShuffleNetV2"), ("CGE", "ResNeXt-50"), ("CGE", "ResNeSt-50"),
    ("CGE", "fast-reid's ViT"),
    ("RRID", "timm swin_tiny"), ("RRID", "RegNet"), ("RRID", "ResNet-50-IBN"),
    ("CAN", "MobileNetV2"), ("CAN", "RepVGG"), ("CAN", "timm vit_small_patch16_224"),
    ("RMGL", "timm efficientnet_b0"), ("RMGL", "EfficientNet"), ("RMGL", "timm vit_small_patch16_224"),
    ("combined", "timm convnext_tiny"), ("combined", "ResNet-50"),
    ("fast-reid's MGN", "timm resnet50"), ("fast-reid's MGN", "timm vit_small_patch16_224"),
]  # fmt: skip


def test_the_fifth_has_every_method_and_every_backbone() -> None:
    assert {method for method, _ in FIFTH} == set(backbones.METHODS)
    assert {backbone for _, backbone in FIFTH} == set(backbones.BACKBONES)


@pytest.mark.parametrize(
    ("method", "backbone"), [pytest.param(*pair, marks=() if pair in FIFTH else pytest.mark.slow) for pair in PAIRS]
)
def test_every_method_runs_on_every_backbone(method: str, backbone: str) -> None:
    assert backbones.check(backbones.config(method, backbone)) == ""


def test_a_cell_says_what_fails(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(backbones, "check", lambda cfg: "no gradient reaches 3 parameters")
    output = tmp_path / "docs" / "table.md"
    words = ["--small", "--method", "CGE", "--backbone", "OSNet", "--output", str(output)]
    assert backbones.main(words) == 1
    assert "| OSNet | no gradient reaches 3 parameters |" in capsys.readouterr().out
    text = output.read_text()
    assert text.startswith("# Methods and backbones") and "| backbone | CGE |" in text
