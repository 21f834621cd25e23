"""The fingerprint of a model: it follows what features depend on, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.retrieval import model_fingerprint


@pytest.fixture
def trained(cmbn_cfg: Callable[..., CfgNode]) -> Callable[..., tuple[CfgNode, nn.Module]]:
    """A function that builds a model with the same weights as far as its tensors have the same names and shapes."""
    torch.manual_seed(0)
    weights = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", 6)).state_dict()

    def build(*overrides: Any) -> tuple[CfgNode, nn.Module]:
        torch.manual_seed(torch.seed())  # whatever is not loaded is random
        cfg = cmbn_cfg("MODEL.HEADS.NUM_CLASSES", 6, *overrides)
        model = build_model(cfg)
        own = model.state_dict()
        fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict(fitting, strict=False)
        return cfg, model.eval()

    return build


def test_same_for_a_checkpoint_loaded_twice(trained: Callable, tmp_path: Path) -> None:
    one, another = model_fingerprint(*trained()), model_fingerprint(*trained())
    assert one == another and len(one) == 64 and int(one, 16) >= 0


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.HEADS.NUM_CLASSES", 1),  # classifiers of another shape, and so random
        ("MODEL.CMBN.INFERENCE_ONLY", True),  # without the branches of training
        ("MODEL.LOSSES.CE.EPSILON", 0.3),
        ("TEST.METRIC", "euclidean"),
        ("TEST.IMS_PER_BATCH", 3),
        ("INPUT.SIZE_TEST", (48, 24)),  # a tuple where the default is a list
        ("OUTPUT_DIR", "elsewhere"),
    ],
)
def test_the_same_where_features_are_the_same(trained: Callable, overrides: tuple) -> None:
    (cfg, model), (changed_cfg, changed) = trained(), trained(*overrides)
    images = {"images": torch.rand(2, 3, 48, 24) * 255}
    with torch.no_grad():
        torch.testing.assert_close(changed(images), model(images))
    assert model_fingerprint(changed_cfg, changed) == model_fingerprint(cfg, model)


@pytest.mark.parametrize(
    "overrides",
    [
        ("INPUT.SIZE_TEST", [64, 24]),
        ("INPUT.CROP.ENABLED", True),
        ("TEST.FLIP.ENABLED", True),
        ("MODEL.CMBN.FEATURE", "pooled"),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
        ("MODEL.BACKBONE.LAST_STRIDE", 2),
    ],
)
def test_another_where_a_key_changes_features(trained: Callable, overrides: tuple) -> None:
    assert model_fingerprint(*trained(*overrides)) != model_fingerprint(*trained())


@pytest.mark.parametrize("name", ["conv1.weight", "running_var"])
def test_another_where_a_weight_changes(trained: Callable, name: str) -> None:
    cfg, model = trained()
    before = model_fingerprint(cfg, model)
    state = model.state_dict()
    key = next(key for key in sorted(state) if key.endswith(name) and "reversal" not in key)
    state[key].view(-1)[-1] += 1e-3
    assert model_fingerprint(cfg, model) != before


def test_the_names_of_weights_count(trained: Callable) -> None:
    """Two layers of equal shape that exchange their weights are another model."""
    cfg, model = trained()
    before = model_fingerprint(cfg, model)
    convolutions = [p for n, p in model.named_parameters() if n.endswith("conv2.weight") and "reversal" not in n]
    first, second = convolutions[0].data, convolutions[1].data
    assert first.shape == second.shape
    first[:], second[:] = second.clone(), first.clone()
    assert model_fingerprint(cfg, model) != before


def test_a_new_key_at_its_default_changes_nothing(trained: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, model = trained()
    before = model_fingerprint(cfg, model)

    def later_defaults() -> CfgNode:
        defaults = get_cfg()
        defaults.MODEL.BACKBONE.LATER = "off"
        return defaults

    monkeypatch.setattr("fastreid_parts.retrieval.fingerprint.get_cfg", later_defaults)
    cfg.MODEL.BACKBONE.LATER = "off"
    assert model_fingerprint(cfg, model) == before
    cfg.MODEL.BACKBONE.LATER = "on"
    assert model_fingerprint(cfg, model) != before


def test_wrapped_for_several_processes_and_half_precision(trained: Callable) -> None:
    cfg, model = trained()
    before = model_fingerprint(cfg, model)
    assert model_fingerprint(cfg, nn.DataParallel(model)) == before
    assert model_fingerprint(cfg, model.to(torch.bfloat16)) != before
