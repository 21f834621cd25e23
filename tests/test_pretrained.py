"""A ResNet's weights from files in the public formats, made here, and from files that are none of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import build_backbone

from fastreid_parts.checkpoints import CheckpointError
from fastreid_parts.engine.checks import check_config
from fastreid_parts.pretrained import load_resnet_weights, read_resnet_weights

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
}


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_weights(name: str, weights: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", FORMATS[name](weights))
    loaded = resnet(PRETRAIN=True, PRETRAIN_PATH=path).state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in weights.items())


def test_the_log_says_what_it_was_and_how_much(
    weights: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fastreid_parts.pretrained")
    path = saved(tmp_path / "moco.pth", moco(weights))
    load_resnet_weights(resnet(), path)
    count = sum(not n.endswith("num_batches_tracked") for n in weights)
    assert f"{path}: a checkpoint of MoCo, its query encoder, {count} of {count} tensors" in caplog.text
    assert f"left out: momentum encoder ({len(weights) + 4}), queue and others (2), classifier or pro" in caplog.text
    caplog.clear()
    load_resnet_weights(resnet(), saved(tmp_path / "plain.pth", plain(weights)))
    assert caplog.messages == [
        f"{tmp_path / 'plain.pth'}: the state dict of a ResNet, {count} of {count} tensors of the backbone"
    ]


def test_reading_gives_the_query_encoder_alone(weights: State, tmp_path: Path) -> None:
    kind, state, left_out = read_resnet_weights(saved(tmp_path / "moco.pth", moco(weights)))
    assert "MoCo" in kind and set(state) == {n for n in weights if not n.endswith("num_batches_tracked")}
    assert left_out["classifier or projection head"] == 4


class TestBlocksThatTheFileLacks:
    def test_non_local_blocks_start_as_without_the_file(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="fastreid_parts.pretrained")
        path = saved(tmp_path / "r50.pth", resnet("50x", seed=2).state_dict())
        loaded = resnet("50x", WITH_NL=True, PRETRAIN=True, PRETRAIN_PATH=path).state_dict()
        fresh = resnet("50x", WITH_NL=True).state_dict()
        non_local = [n for n in loaded if n.startswith("NL_")]
        assert non_local and all(torch.equal(loaded[n], fresh[n]) for n in non_local)
        assert not torch.equal(loaded["conv1.weight"], fresh["conv1.weight"])
        assert "untrained: NL_2, NL_3" in caplog.text

    def test_those_of_the_file_are_used(self, tmp_path: Path) -> None:
        state = resnet("50x", seed=2, WITH_NL=True).state_dict()
        path = saved(tmp_path / "agw.pth", state)
        loaded = resnet("50x", WITH_NL=True, PRETRAIN=True, PRETRAIN_PATH=path).state_dict()
        assert all(torch.equal(loaded[n], state[n]) for n in state)

    def test_squeeze_and_excitation(self, weights: State, tmp_path: Path) -> None:
        path = saved(tmp_path / "r18.pth", weights)
        loaded = resnet(WITH_SE=True, PRETRAIN=True, PRETRAIN_PATH=path).state_dict()
        assert any(".se." in n for n in loaded) and torch.equal(loaded["conv1.weight"], weights["conv1.weight"])


class TestFilesThatDoNotFit:
    def load(self, path: str, **keys: Any) -> None:
        resnet(PRETRAIN=True, PRETRAIN_PATH=path, **keys)

    @pytest.mark.parametrize("cut", [0.0, 0.3, 0.9])
    def test_cut_short(self, cut: float, weights: State, tmp_path: Path) -> None:
        path = tmp_path / "lup_moco_r50.pth"
        whole = Path(saved(tmp_path / "whole.pth", moco(weights))).read_bytes()
        path.write_bytes(whole[: int(cut * len(whole))])
        with pytest.raises(CheckpointError, match="lup_moco_r50.pth is cut short"):
            self.load(str(path))

    def test_tensors_are_missing(self, weights: State, tmp_path: Path) -> None:
        state = {n: t for n, t in weights.items() if not n.startswith("layer2.1.conv2")}
        with pytest.raises(ValueError, match="PRETRAIN_PATH.*layer2.1.conv2.weight is missing. Set"):
            self.load(saved(tmp_path / "part.pth", state))

    def test_another_depth(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "lup_moco_r50.pth", moco(resnet("34x").state_dict()))
        with pytest.raises(ValueError, match="holds a ResNet 34x and the backbone is a ResNet 18x: .*DEPTH"):
            self.load(path)
        with pytest.raises(ValueError, match="holds a ResNet 34x and the backbone is a ResNet 18x with SE"):
            self.load(path, WITH_SE=True)

    def test_bottlenecks_for_basic_blocks(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "r50.pth", resnet("50x").state_dict())
        with pytest.raises(ValueError, match="holds a ResNet 50x and the backbone is a ResNet 34x"):
            resnet("34x", PRETRAIN=True, PRETRAIN_PATH=path)

    def test_another_width(self, weights: State, tmp_path: Path) -> None:
        wide = {n: torch.cat([t, t]) if t.ndim else t for n, t in weights.items()}
        with pytest.raises(ValueError, match=r"conv1.weight is \(128, 3, 7, 7\), the backbone's \(64, 3, 7, 7\)"):
            self.load(saved(tmp_path / "wide.pth", wide))

    def test_ibn(self, weights: State, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds a ResNet 18x and the backbone is a ResNet 18x with IBN.*WITH_IBN"):
            self.load(saved(tmp_path / "r18.pth", weights), WITH_IBN=True)

    def test_nothing_is_loaded_before_all_is_checked(self, weights: State, tmp_path: Path) -> None:
        model, state = resnet(), {n: t for n, t in weights.items() if n != "layer4.1.bn2.bias"}
        before = model.conv1.weight.detach().clone()
        with pytest.raises(ValueError, match="layer4.1.bn2.bias"):
            load_resnet_weights(model, saved(tmp_path / "part.pth", state))
        assert torch.equal(model.conv1.weight, before)

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ({"patch_embed.weight": torch.zeros(1)}, "patch_embed.weight"),
            ({"model": {"backbone.conv1.weight": torch.zeros(1)}}, "backbone.conv1.weight.*MODEL.WEIGHTS"),
            ({"state_dict": {"module.encoder_k.conv1.weight": torch.zeros(1)}}, "encoder_k.conv1.weight"),
            ({"epoch": 3}, "no tensors"),
            ([torch.zeros(1)], "no tensors"),
        ],
    )
    def test_no_resnet(self, content: Any, found: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=f"PRETRAIN_PATH .*other.pth holds no ResNet.*{found}"):
            self.load(saved(tmp_path / "other.pth", content))

    def test_an_absent_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError) as caught:
            self.load("weights/lup_moco_r50.pth")
        message = str(caught.value)
        assert "'weights/lup_moco_r50.pth', which MODEL.BACKBONE.PRETRAIN_PATH names" in message
        assert "https://github.com/DengpanFu/LUPerson" in message
        assert message.endswith(f"Place it at {tmp_path / 'weights' / 'lup_moco_r50.pth'}.")
        with pytest.raises(FileNotFoundError, match="PRETRAIN_PATH names.$"):
            self.load("mine.pth")


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
