"""Pre-trained backbones: found without gdown, read safely, and otherwise an error that says what to do."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import (
    BACKBONE_REGISTRY,
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
from fastreid_parts.pretrained import load_pretrained

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
    #: Of each builder that has weights of its own: depth, and the file that PRETRAIN means
    FILES = [
        ("build_resnet_backbone", "18x", "resnet18-5c106cde.pth"),
        ("build_osnet_backbone", "x0_25", "osnet_x0_25_imagenet.pth"),
        ("build_resnext_backbone", "101x", "resnext101_ibn_a-6ace051d.pth"),
        ("build_regnet_backbone", "200y", "RegNetY-200MF_dds_8gpu.pyth"),
        ("build_effnet_backbone", "b0", "EN-B0_dds_8gpu.pyth"),
        ("build_resnest_backbone", "50x", "resnest50-528c19ca.pth"),
        ("build_mobilenetv2_backbone", "1.0x", "mobilenet_v2-b0353104.pth"),
        ("build_mobilenetv3_backbone", "Small", "mobilenet_v3_small-047dcff4.pth"),
        ("build_vit_backbone", "base", "jx_vit_base_p16_224-80ecf9dd.pth"),
    ]

    @pytest.mark.usefixtures("no_network")
    @pytest.mark.parametrize(("name", "depth", "file"), FILES)
    def test_without_a_network(self, name: str, depth: str, file: str) -> None:
        ibn = name == "build_resnext_backbone"  # the only weights that there are for it
        with pytest.raises(OSError) as caught:
            build_backbone(_cfg(name, depth, PRETRAIN=True, WITH_IBN=ibn))
        message = str(caught.value)
        assert "the network is down" in message and f"Place it at {os.path.abspath(f'weights/{file}')}" in message
        assert "MODEL.BACKBONE.PRETRAIN_PATH" in message and "MODEL.BACKBONE.PRETRAIN False" in message

    @pytest.mark.usefixtures("no_gdown")
    def test_without_gdown(self) -> None:
        with pytest.raises(OSError, match="gdown.*Of Torchreid.*osnet_x0_25_imagenet.pth"):
            build_backbone(_cfg("build_osnet_backbone", "x0_25", PRETRAIN=True))

    @pytest.mark.usefixtures("no_gdown")
    @pytest.mark.parametrize("folder", ["home/checkpoints", "home/hub/checkpoints", "weights"])
    @pytest.mark.parametrize(("name", "depth", "file"), [FILES[0], FILES[1], FILES[3]])
    def test_a_file_that_is_there_needs_no_network(
        self, name: str, depth: str, file: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        state = build_backbone(_cfg(name, depth)).state_dict()
        _place(tmp_path / folder / file, {"model_state": state} if file.endswith("pyth") else state)
        loaded = build_backbone(_cfg(name, depth, PRETRAIN=True)).state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)

    def test_a_file_that_wants_more_is_refused(self, torch_home: Path) -> None:
        path = _place(torch_home / "checkpoints/resnet18-5c106cde.pth", {"args": PurePosixPath("a")})
        with pytest.raises(CheckpointError, match=f"{path} is refused: it asks for pathlib"):
            build_backbone(_cfg(PRETRAIN=True))

    def test_weights_that_nobody_publishes(self) -> None:
        with pytest.raises(ValueError, match="no weights are known for build_regnet_backbone with DEPTH 400z.*PATH"):
            load_pretrained(torch.nn.Identity(), _cfg("build_regnet_backbone", "400z", PRETRAIN=True))
        with pytest.raises(ValueError, match="no weights are known for build_repvgg_backbone. Name a file.*PATH"):
            build_backbone(_cfg("build_repvgg_backbone", "A0", PRETRAIN=True))


class TestPretrainPath:
    BACKBONES = [
        ("build_resnet_backbone", "18x"),
        ("build_osnet_backbone", "x0_25"),
        ("build_mobilenetv2_backbone", "0.1x"),
        ("build_mobilenetv3_backbone", "Small"),
        ("build_repvgg_backbone", "A0"),
        ("build_shufflenetv2_backbone", "0.5x"),
    ]

    @pytest.mark.parametrize(("name", "depth"), BACKBONES)
    def test_is_read(self, name: str, depth: str, tmp_path: Path) -> None:
        state = {n: torch.rand(t.shape) for n, t in build_backbone(_cfg(name, depth)).state_dict().items()}
        path = _place(tmp_path / "file.pth", state)
        loaded = build_backbone(_cfg(name, depth, PRETRAIN=True, PRETRAIN_PATH=str(path))).state_dict()
        assert all(torch.equal(loaded[key], state[key].to(loaded[key])) for key in state)

    @pytest.mark.parametrize(("name", "depth"), BACKBONES)
    def test_a_missing_file_a_program_and_another_model(self, name: str, depth: str, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no weights file '.*nowhere.pth'.*PRETRAIN_PATH"):
            build_backbone(_cfg(name, depth, PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "nowhere.pth")))
        path = _place(tmp_path / "file.pth", {"state_dict": {}, "args": PurePosixPath("a")})
        with pytest.raises(CheckpointError, match="file.pth is refused: it asks for pathlib"):
            build_backbone(_cfg(name, depth, PRETRAIN=True, PRETRAIN_PATH=str(path)))
        _place(path, {"x.weight": torch.zeros(1)})
        with pytest.raises(ValueError, match="file.pth holds another model"):
            build_backbone(_cfg(name, depth, PRETRAIN=True, PRETRAIN_PATH=str(path)))

    def test_every_builder_of_the_host_loads_in_one_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        every = dict(BACKBONE_REGISTRY._obj_map)
        of_host = {name: build for name, build in every.items() if build.__module__.startswith("fastreid.")}
        assert len(of_host) == len(ALL_MODULES) and all(name.startswith("build_") for name in every)
        for build in of_host.values():
            assert build.__wrapped__ and build.__wrapped__ is not build
            assert vars(sys.modules[build.__module__])[build.__name__] is build

    @pytest.mark.parametrize("module", ALL_MODULES, ids=lambda module: module.__name__.rsplit(".")[-1])
    def test_no_backbone_reads_unsafely(self, module: types.ModuleType) -> None:
        assert module.torch.load is safe_load
        assert module.torch.nn is torch.nn


class TestStem:
    def test_is_fast_reids_where_the_key_is_off(self) -> None:
        assert type(build_backbone(_cfg()).maxpool) is torch.nn.MaxPool2d

    def test_on_it_gives_torchvisions_map(self) -> None:
        theirs = pytest.importorskip("torchvision").models.resnet18().eval()
        cfg = _cfg(LAST_STRIDE=2)
        cfg.MODEL.BACKBONE.STEM.PADDING = 1
        state = {n: t for n, t in theirs.state_dict().items() if not n.startswith("fc.")}
        images = torch.rand(2, 3, 64, 32)
        expected = torch.nn.Sequential(*list(theirs.children())[:-2])(images)
        for padding in (1, 0):
            cfg.MODEL.BACKBONE.STEM.PADDING = padding
            ours = build_backbone(cfg).eval()
            ours.load_state_dict(state)
            assert torch.allclose(ours(images), expected, atol=1e-5) == bool(padding)
            assert ours(images).shape == expected.shape

    def test_a_config_from_before_the_plugin(self) -> None:
        cfg = _cfg()
        for key in ("STEM", "TIMM", "CONV_STEM"):
            del cfg.MODEL.BACKBONE[key]
        build_backbone(cfg)

    def test_another_backbone_has_its_border_and_nothing_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        cfg = _cfg("build_osnet_backbone", "x0_25")
        cfg.MODEL.BACKBONE.STEM.PADDING = 1
        assert build_backbone(cfg).maxpool.padding == 1 and not caplog.messages


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

    def test_what_was_built_before_leaves_nothing(self) -> None:
        before = list(build_backbone(_cfg("build_regnet_backbone", "200x")).state_dict())
        build_backbone(_cfg("build_regnet_backbone", "200y")), build_backbone(_cfg("build_effnet_backbone", "b0"))
        assert list(build_backbone(_cfg("build_regnet_backbone", "200x")).state_dict()) == before


def test_torchscript_and_export_see_through_the_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch` in the backbones' modules is an overlay, which tracers must accept."""
    model: Callable = build_backbone(_cfg()).eval()
    image = torch.rand(1, 3, 64, 32)
    traced = torch.jit.trace(model, image)
    assert torch.allclose(traced(image), model(image), atol=1e-5)
