"""Files of weights, made here: those that fit are loaded and counted, all others are errors, for every family."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.vision_transformer import VisionTransformer
from torch import nn

from fastreid_parts.checkpoints import CheckpointError
from fastreid_parts.engine.checks import check_config
from fastreid_parts.pretrained import load_pretrained, load_weights

State = dict[str, torch.Tensor]


def backbone_cfg(depth: str = "18x", **keys: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.DEPTH = depth
    for key, value in keys.items():
        cfg.MODEL.BACKBONE[key] = value
    return cfg


def resnet(depth: str = "18x", seed: int = 1, **keys: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_backbone(backbone_cfg(depth, **keys))


@pytest.fixture(scope="module")
def weights() -> State:
    """Of a ResNet-18, each tensor with values of its own."""
    generator = torch.Generator().manual_seed(0)
    state = resnet().state_dict()
    return {n: torch.rand(t.shape, generator=generator) if t.is_floating_point() else t for n, t in state.items()}


def plain(state: State) -> State:
    """As LUPerson publishes it: without a head."""
    return dict(state)


def torchvision_like(state: State) -> State:
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def moco(state: State, prefix: str = "module.") -> dict[str, Any]:
    """What MoCo v2 saves: two encoders with a projection head of two layers, a queue, and the optimizer."""
    head = {
        f"fc.{layer}.{name}": torch.zeros(2) for layer in (0, 2) for name in ("weight", "bias")
    }  # fmt: skip
    encoders = {f"{prefix}encoder_q.{n}": t for n, t in {**state, **head}.items()}
    encoders.update({f"{prefix}encoder_k.{n}": torch.full_like(t, -1) for n, t in {**state, **head}.items()})
    encoders[f"{prefix}queue"], encoders[f"{prefix}queue_ptr"] = torch.zeros(128, 8), torch.zeros(1)
    return {"epoch": 200, "arch": "resnet18", "state_dict": encoders, "optimizer": {"state": {}, "param_groups": []}}


FORMATS: dict[str, Callable[[State], Any]] = {
    "plain": plain,
    "plain, in an entry": lambda state: {"model": plain(state)},
    "of several GPUs": lambda state: {"state_dict": {f"module.{n}": t for n, t in state.items()}},
    "torchvision": torchvision_like,
    "MoCo": moco,
    "MoCo on one GPU": lambda state: moco(state, prefix=""),
    "MoCo, its tensors alone": lambda state: moco(state)["state_dict"],
    "a whole model of fast-reid": lambda state: {"model": whole(state), "iteration": 3},
    "self-distillation": lambda state: self_distilled(state),
}


def whole(state: State) -> State:
    """fast-reid's model: a backbone, and a head with its batch norm and classifier."""
    head = {"bottleneck.0.weight": torch.zeros(512), "bottleneck.0.num_batches_tracked": torch.tensor(3)}
    head["classifier.weight"] = torch.zeros(751, 512)
    return {f"backbone.{n}": t for n, t in state.items()} | {f"heads.{n}": t for n, t in head.items()}


def self_distilled(state: State) -> dict[str, Any]:
    """As DINO and those after it save: teacher and student, of several GPUs, with the command line that it was."""
    teacher = {f"module.backbone.{n}": t for n, t in state.items()} | {"module.head.mlp.0.weight": torch.zeros(2)}
    student = {n: torch.full_like(t, -1) for n, t in teacher.items()}
    return {"student": student, "teacher": teacher, "epoch": 100, "args": argparse.Namespace(arch="resnet18")}


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_weights(name: str, weights: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", FORMATS[name](weights))
    loaded = resnet(PRETRAIN=True, PRETRAIN_PATH=path).state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in weights.items())


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="fastreid_parts.pretrained")
    return caplog


class TestTheLog:
    def test_how_much_of_the_backbone_and_what_was_left_out(
        self, weights: State, tmp_path: Path, log: pytest.LogCaptureFixture
    ) -> None:
        path = saved(tmp_path / "moco.pth", moco(weights))
        load_weights(resnet(), path)
        total, moment = len(weights), len(weights) + 4
        assert log.messages == [
            f"{path}: {total} of {total} tensors of the backbone; left out: encoder_k ({moment}), queue (1), "
            "queue_ptr (1), fc (4)"
        ]

    def test_a_file_without_counters_of_batches_lacks_nothing(
        self, weights: State, tmp_path: Path, log: pytest.LogCaptureFixture
    ) -> None:
        state = {n: t for n, t in weights.items() if not n.endswith("num_batches_tracked")}
        load_weights(resnet(), saved(tmp_path / "old.pth", state))
        assert f"{len(state)} of {len(state)} tensors" in log.text and log.records[0].levelname == "INFO"

    def test_what_starts_untrained_is_a_warning(
        self, weights: State, tmp_path: Path, log: pytest.LogCaptureFixture
    ) -> None:
        state = {n: t for n, t in weights.items() if not n.startswith("layer2.1.conv2")}
        load_weights(resnet(), saved(tmp_path / "part.pth", state))
        assert log.records[0].levelname == "WARNING"
        assert f"{len(state)} of {len(weights)} tensors of the backbone; untrained: layer2 (1)" in log.text


class TestBlocksThatTheFileLacks:
    def test_non_local_blocks_start_as_without_the_file(self, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
        path = saved(tmp_path / "r50.pth", resnet("50x", seed=2).state_dict())
        loaded = resnet("50x", WITH_NL=True, PRETRAIN=True, PRETRAIN_PATH=path).state_dict()
        fresh = resnet("50x", WITH_NL=True).state_dict()
        non_local = [n for n in loaded if n.startswith("NL_")]
        assert non_local and all(torch.equal(loaded[n], fresh[n]) for n in non_local)
        assert not torch.equal(loaded["conv1.weight"], fresh["conv1.weight"])
        assert "untrained: NL_2 (" in log.text and log.records[0].levelname == "INFO"

    def test_those_of_the_file_are_used(self, tmp_path: Path) -> None:
        state = resnet("50x", seed=2, WITH_NL=True).state_dict()
        path = saved(tmp_path / "agw.pth", state)
        loaded = resnet("50x", WITH_NL=True, PRETRAIN=True, PRETRAIN_PATH=path).state_dict()
        assert all(torch.equal(loaded[n], state[n]) for n in state)

    def test_squeeze_and_excitation(self, weights: State, tmp_path: Path) -> None:
        path = saved(tmp_path / "r18.pth", weights)
        loaded = resnet(WITH_SE=True, PRETRAIN=True, PRETRAIN_PATH=path).state_dict()
        assert any(".se." in n for n in loaded) and torch.equal(loaded["conv1.weight"], weights["conv1.weight"])


# ---- every family ---------------------------------------------------------------------------------------------------

#: A small model of each family, and a file of a larger or another one, of which the smaller's tensors may be a part
FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "ResNet": (lambda: resnet("18x"), lambda: resnet("34x")),
    "ResNet with IBN": (lambda: resnet("18x", WITH_IBN=True), lambda: resnet("18x")),
    "ResNeXt": (lambda: host("resnext", "50x"), lambda: resnet("50x")),
    "ResNeSt": (lambda: host("resnest", "50x"), lambda: resnet("50x")),
    "OSNet": (lambda: host("osnet", "x0_25"), lambda: host("osnet", "x0_5")),
    "MobileNetV2": (lambda: host("mobilenetv2", "0.1x"), lambda: host("mobilenetv2", "0.25x")),
    "MobileNetV3": (lambda: host("mobilenetv3", "Small"), lambda: host("mobilenetv3", "Large")),
    "RegNet": (lambda: host("regnet", "200x"), lambda: host("regnet", "200y")),
    "EfficientNet": (lambda: host("effnet", "b0"), lambda: host("effnet", "b1")),
    "ShuffleNet": (lambda: host("shufflenetv2", "0.5x"), lambda: host("shufflenetv2", "1.0x")),
    "RepVGG": (lambda: host("repvgg", "A0"), lambda: host("repvgg", "A1")),
    "ViT": (lambda: vit(depth=2), lambda: vit(depth=4)),
    "timm's ConvNeXt": (lambda: of_timm("convnext_atto"), lambda: of_timm("convnext_femto")),
    "timm's ViT": (lambda: of_timm("vit_tiny_patch16_224", depth=2), lambda: of_timm("vit_tiny_patch16_224", depth=4)),
    "timm's EVA": (lambda: of_timm("eva02_tiny_patch14_224", depth=2), lambda: resnet("18x")),
}


def host(name: str, depth: str) -> nn.Module:
    return build_backbone(backbone_cfg(depth, NAME=f"build_{name}_backbone"))


def vit(**options: Any) -> nn.Module:
    return VisionTransformer((64, 32), embed_dim=16, num_heads=2, **options)


def of_timm(name: str, **options: Any) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=0, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_files_that_do_not_fit_are_errors(family: str, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    build, build_other = FAMILIES[family]
    model = build()
    state = {n: torch.rand_like(t) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    before = {n: t.clone() for n, t in model.state_dict().items()}
    path = tmp_path / "file.pth"

    def refused(content: Any, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            load_weights(model, saved(path, content))
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items()), (
            "changed by a file that was refused"
        )

    kind = type(model).__name__
    refused(build_other().state_dict(), f"holds another model than the backbone, a {kind}: .* of .* tensors fit. ")
    refused({"x.weight": torch.zeros(3)}, f"a {kind}: 0 of .* Missing: .*Without a place in the backbone: x .1.")
    refused({"epoch": 3}, f"a {kind}: 0 of .* tensors fit. Missing: ")
    names = [n for n in state if state[n].ndim]
    half = {n: state[n] for n in names[: len(names) // 2]}
    refused(half, f"of .* tensors fit. Missing: .*, first {re.escape(names[len(names) // 2])}")
    # One of those that no size of the image changes
    wrong = next(n for n in reversed(names) if state[n].ndim > 1 and "pos_embed" not in n)
    refused(
        {**state, wrong: torch.cat([state[wrong]] * 2)}, f"Of another shape: .*first {re.escape(wrong)}: .* instead of"
    )
    few = {n: t for i, (n, t) in enumerate(state.items()) if i % 15}
    refused(few, "tensors fit. Missing: ")
    whole_file = Path(saved(path, state)).read_bytes()
    path.write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(CheckpointError, match="file.pth is cut short"):
        load_weights(model, str(path))
    assert not log.messages
    load_weights(model, saved(path, state))
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert f"{len(state)} of {len(state)} tensors" in log.text


def test_an_error_says_what_to_set(weights: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "lup_moco_r50.pth", moco(resnet("34x").state_dict()))
    with pytest.raises(ValueError) as caught:
        resnet(PRETRAIN=True, PRETRAIN_PATH=path)
    assert str(caught.value) == (
        f"{path} holds another model than the backbone, a ResNet: 120 of 120 tensors fit. Without a place in the "
        "backbone: layer1 (10), layer2 (20), layer3 (40), layer4 (10), first layer1.2.conv1.weight. Set NAME, DEPTH, "
        "WITH_IBN, WITH_SE and NORM of MODEL.BACKBONE as the weights were trained, or name another file in its "
        "PRETRAIN_PATH"
    )


class TestSafetensors:
    def test_are_read(self, weights: State, tmp_path: Path) -> None:
        pytest.importorskip("safetensors.torch").save_file(weights, tmp_path / "model.safetensors")
        model = resnet()
        load_weights(model, str(tmp_path / "model.safetensors"))
        assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())


class TestTimmsOwn:
    def test_by_name(self, weights: State, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> None:
        models = pytest.importorskip("timm.models")
        asked = []
        monkeypatch.setattr(models, "load_state_dict_from_hf", lambda name: asked.append(name) or weights)
        model = resnet(PRETRAIN=True, PRETRAIN_PATH="timm/resnet18.a1_in1k")
        assert asked == ["timm/resnet18.a1_in1k"] and torch.equal(model.conv1.weight, weights["conv1.weight"])
        assert "timm/resnet18.a1_in1k: 120 of 120 tensors" in log.text

    def test_is_what_a_model_of_timms_starts_from(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = of_timm("convnext_atto")
        state = {n: torch.rand_like(t) for n, t in model.state_dict().items()}
        asked = []
        monkeypatch.setattr("timm.models.load_state_dict_from_hf", lambda name: asked.append(name) or state)
        load_pretrained(model, backbone_cfg(NAME="build_timm_backbone", PRETRAIN=True))
        assert asked == ["timm/convnext_atto.d2_in1k"]
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())

    def test_elsewhere_than_at_timms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = of_timm("resnet18")
        model.pretrained_cfg = {"hf_hub_id": "somebody/net"}
        asked = []
        state = model.state_dict()
        monkeypatch.setattr("timm.models.load_state_dict_from_hf", lambda name: asked.append(name) or state)
        load_pretrained(model, backbone_cfg(NAME="build_timm_backbone", PRETRAIN=True))
        assert asked == ["somebody/net"]

    @pytest.mark.parametrize("of_model", [{}, {"hf_hub_id": None}])
    def test_a_model_without_any(self, of_model: dict) -> None:
        model = of_timm("resnet18")
        model.pretrained_cfg = of_model
        cfg = backbone_cfg(NAME="build_timm_backbone", TIMM="resnet18", PRETRAIN=True)
        with pytest.raises(ValueError, match=r"no weights are known for resnet18\. Name a file"):
            load_pretrained(model, cfg)

    def test_an_error_without_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(name: str) -> None:
            raise TimeoutError

        monkeypatch.setattr(pytest.importorskip("timm.models"), "load_state_dict_from_hf", fail)
        with pytest.raises(OSError, match="cannot be fetched: TimeoutError. They are"):
            resnet(PRETRAIN=True, PRETRAIN_PATH="timm/x")

    def test_without_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(name: str) -> None:
            raise ConnectionError("the network is down")

        monkeypatch.setattr(pytest.importorskip("timm.models"), "load_state_dict_from_hf", fail)
        with pytest.raises(
            OSError, match="network is down. They are model.safetensors of https://huggingface.co/timm/x"
        ):
            resnet(PRETRAIN=True, PRETRAIN_PATH="timm/x")


def test_a_trainer_asks_for_the_file_before_it_reads_data(tiny_cfg: Callable) -> None:
    check_config(tiny_cfg("MODEL.BACKBONE.PRETRAIN_PATH", "nowhere.pth"))
    with pytest.raises(FileNotFoundError, match="no weights file 'nowhere.pth'"):
        check_config(tiny_cfg("MODEL.BACKBONE.PRETRAIN_PATH", "nowhere.pth", "MODEL.BACKBONE.PRETRAIN", True))


def test_the_key_does_nothing_without_pretrain(tmp_path: Path) -> None:
    resnet(PRETRAIN=False, PRETRAIN_PATH=str(tmp_path / "nowhere.pth"))


def test_the_config_stays(weights: State, tmp_path: Path) -> None:
    cfg = backbone_cfg(PRETRAIN=True, PRETRAIN_PATH=saved(tmp_path / "r18.pth", weights))
    cfg.freeze()
    build_backbone(cfg)
    assert cfg.MODEL.BACKBONE.PRETRAIN is True
