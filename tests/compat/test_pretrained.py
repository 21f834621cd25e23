"""Pre-trained backbones: found without gdown, read safely, and otherwise an error that says what to do."""

from __future__ import annotations

import argparse
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import (
    build_backbone,
    mobilenet,
    mobilenetv3,
    osnet,
    repvgg,
    resnest,
    resnet,
    resnext,
    shufflenet,
    vision_transformer,
)
from fastreid.modeling.backbones.regnet import effnet, regnet

from fastreid_parts.checkpoints import CheckpointError, safe_load

ALL_MODULES = [
    resnet, osnet, resnext, resnest, regnet, effnet, shufflenet, mobilenet, mobilenetv3, repvgg, vision_transformer,
]  # fmt: skip


def _cfg(name: str = "build_resnet_backbone", depth: str = "18x", **backbone: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH = name, depth
    for key, value in backbone.items():
        cfg.MODEL.BACKBONE[key] = value
    return cfg


@pytest.fixture(autouse=True)
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def no_gdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if gdown were not installed."""
    monkeypatch.delitem(sys.modules, "gdown", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *args: None)
    monkeypatch.setattr(sys, "meta_path", [_Hide("gdown"), *sys.meta_path])


class _Hide:
    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: Any) -> None:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("the network is down")

    gdown = types.ModuleType("gdown")
    gdown.download = fail
    monkeypatch.setitem(sys.modules, "gdown", gdown)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)


def _place(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


class TestDownload:
    FILES = [
        ("build_resnet_backbone", "18x", "checkpoints/resnet18-5c106cde.pth"),
        ("build_osnet_backbone", "x0_25", "checkpoints/osnet_x0_25_imagenet.pth"),
        ("build_resnext_backbone", "101x", "checkpoints/resnext101_ibn_a-6ace051d.pth"),
        ("build_regnet_backbone", "800y", "checkpoints/RegNetY-800MF_dds_8gpu.pyth"),
        ("build_effnet_backbone", "b0", "checkpoints/EN-B0_dds_8gpu.pyth"),
        ("build_resnest_backbone", "50x", "hub/checkpoints/resnest50-528c19ca.pth"),
        ("build_mobilenetv3_backbone", "Large", "hub/checkpoints/"),
    ]

    @pytest.mark.usefixtures("no_network")
    @pytest.mark.parametrize(("name", "depth", "file"), FILES)
    def test_without_a_network(self, name: str, depth: str, file: str, torch_home: Path) -> None:
        ibn = name == "build_resnext_backbone"  # the only weights that the host has for it
        with pytest.raises(OSError) as caught:
            build_backbone(_cfg(name, depth, PRETRAIN=True, WITH_IBN=ibn))
        message = str(caught.value)
        assert "the network is down" in message and str(torch_home / file) in message
        assert "MODEL.BACKBONE.PRETRAIN_PATH" in message and "MODEL.BACKBONE.PRETRAIN False" in message

    @pytest.mark.usefixtures("no_gdown")
    def test_without_gdown(self, torch_home: Path) -> None:
        with pytest.raises(OSError, match="gdown.*checkpoints/resnet18-5c106cde.pth"):
            build_backbone(_cfg(PRETRAIN=True))
        with pytest.raises(ModuleNotFoundError):
            resnet.init_pretrained_weights.__wrapped__("18x")
        assert "gdown" not in sys.modules

    @pytest.mark.usefixtures("no_gdown")
    @pytest.mark.parametrize(("name", "depth", "file"), FILES[:2] + FILES[4:6])
    def test_a_file_that_is_there_needs_no_gdown(self, name: str, depth: str, file: str, torch_home: Path) -> None:
        state = build_backbone(_cfg(name, depth)).state_dict()
        _place(torch_home / file, {"model_state": state} if name == "build_effnet_backbone" else state)
        loaded = build_backbone(_cfg(name, depth, PRETRAIN=True)).state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)

    @pytest.mark.parametrize(("name", "depth", "file"), [FILES[0], FILES[5]])
    def test_a_file_that_wants_more_is_refused(self, name: str, depth: str, file: str, torch_home: Path) -> None:
        path = _place(torch_home / file, {"args": argparse.Namespace()})
        with pytest.raises((OSError, ValueError), match=f"{path} is refused: it asks for argparse.Namespace"):
            build_backbone(_cfg(name, depth, PRETRAIN=True))

    def test_weights_that_the_host_does_not_know(self) -> None:
        with pytest.raises(ValueError, match="no weights for '200x'; it knows those of .*PRETRAIN_PATH"):
            build_backbone(_cfg("build_regnet_backbone", "200x", PRETRAIN=True))


class TestPretrainPath:
    def test_is_read(self, tmp_path: Path) -> None:
        state = build_backbone(_cfg()).state_dict()
        path = _place(tmp_path / "r18.pth", state)
        loaded = build_backbone(_cfg(PRETRAIN=True, PRETRAIN_PATH=str(path))).state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)

    @pytest.mark.parametrize(
        ("name", "depth"),
        [
            ("build_resnet_backbone", "18x"),
            ("build_osnet_backbone", "x0_25"),
            ("build_mobilenetv2_backbone", "0.1x"),
            ("build_mobilenetv3_backbone", "Small"),
            ("build_repvgg_backbone", "A0"),
            ("build_shufflenetv2_backbone", "0.5x"),
        ],
    )
    def test_a_missing_file_and_a_program(self, name: str, depth: str, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no weights file '.*nowhere.pth'.*PRETRAIN_PATH"):
            build_backbone(_cfg(name, depth, PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "nowhere.pth")))
        path = _place(tmp_path / "program.pth", {"state_dict": {}, "args": argparse.Namespace()})
        with pytest.raises(CheckpointError, match="program.pth is refused: it asks for argparse.Namespace"):
            build_backbone(_cfg(name, depth, PRETRAIN=True, PRETRAIN_PATH=str(path)))

    @pytest.mark.parametrize("module", ALL_MODULES, ids=lambda module: module.__name__.rsplit(".")[-1])
    def test_no_backbone_reads_unsafely(self, module: types.ModuleType) -> None:
        assert module.torch.load is safe_load
        assert module.torch.nn is torch.nn


class TestYamlPath:
    @pytest.mark.parametrize(
        ("name", "depth"),
        [("build_regnet_backbone", "200x"), ("build_regnet_backbone", "400y"), ("build_effnet_backbone", "b0")],
    )
    def test_from_any_folder(self, name: str, depth: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        cfg = effnet.effnet_cfg if "effnet" in name else regnet.regnet_cfg
        with pytest.raises(FileNotFoundError):
            cfg.overlaid.merge_from_file("fastreid/modeling/backbones/regnet/regnetx/RegNetX-200MF_dds_8gpu.yaml")
        model = build_backbone(_cfg(name, depth))
        assert model(torch.rand(1, 3, 64, 32)).ndim == 4
        assert os.getcwd() == str(tmp_path)


def test_torchscript_and_export_see_through_the_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch` in the backbones' modules is an overlay, which tracers must accept."""
    model: Callable = build_backbone(_cfg()).eval()
    image = torch.rand(1, 3, 64, 32)
    traced = torch.jit.trace(model, image)
    assert torch.allclose(traced(image), model(image), atol=1e-5)
