"""Local classifiers on a data set: hardness levels and precision against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.analysis.local_classifiers import (
    LocalDecisions,
    build_local_classifiers,
    find_local_classifiers,
    local_decisions,
)
from fastreid_parts.evaluation import backbone_map
from fastreid_parts.methods.cge import LocalClassifiers

from ..conftest import CMBN

K, STRIPES = 3, 3
CGE = ("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.HEADS.NAME", "CGEHead")
GEM = ("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP")


@pytest.fixture
def loader() -> list[dict[str, Any]]:
    """Ten images of three identities in three batches, the identities not in order."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0, 1, 2])
    images = torch.rand(10, 3, 48, 24, generator=generator) * 100 + 50 * targets[:, None, None, None]
    return [{"images": images[a:b], "targets": targets[a:b]} for a, b in ((0, 4), (4, 8), (8, 10))]


def make(tiny_cfg: Callable[..., CfgNode], *overrides: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(tiny_cfg("MODEL.HEADS.NUM_CLASSES", K, *overrides))


def plain_local_features(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """(N, n, C) where the three rows of the map are the three stripes, one pooling call each."""
    feature_map = backbone_map(model, batch["images"])
    assert feature_map.shape[2] == STRIPES
    with torch.no_grad():
        return torch.stack([model.heads.pool_layer(feature_map[:, :, i : i + 1])[..., 0, 0] for i in range(3)], dim=1)


def test_levels_and_precision_are_counts() -> None:
    correct = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]], bool)
    decisions = LocalDecisions(correct)
    assert decisions.level_shares() == pytest.approx([2 / 5, 1 / 5, 1 / 5, 1 / 5])
    assert decisions.precision() == pytest.approx([2 / 5, 4 / 5, 3 / 5])
    assert LocalDecisions(np.ones((4, 2), bool)).level_shares() == pytest.approx([1, 0, 0])
    assert LocalDecisions(np.zeros((4, 1), bool)).level_shares() == pytest.approx([0, 1])


@pytest.mark.parametrize("overrides", [(), GEM, CMBN], ids=["baseline", "gem", "cmbn"])
def test_built_memories_are_normalized_means(tiny_cfg: Callable[..., CfgNode], loader: list, overrides: tuple) -> None:
    model = make(tiny_cfg, "MODEL.BACKBONE.LAST_STRIDE", 1, *overrides)
    classifiers = build_local_classifiers(model, loader, K, STRIPES)
    local = torch.cat([plain_local_features(model, batch) for batch in loader])
    targets = torch.cat([batch["targets"] for batch in loader])
    for stripe in range(STRIPES):
        for identity in range(K):
            rows = [local[n, stripe] for n in range(10) if targets[n] == identity]
            mean = sum(rows) / len(rows)
            assert torch.allclose(classifiers.memory[stripe, identity], mean / mean.norm(), atol=1e-5)


def test_decisions_are_the_nearest_slot(tiny_cfg: Callable[..., CfgNode], loader: list) -> None:
    model = make(tiny_cfg).train()
    classifiers = build_local_classifiers(model, loader, K, STRIPES)
    # Slots that disagree with the images in the middle stripe, so that something is wrong
    classifiers.memory[1] = classifiers.memory[1].roll(1, dims=0)
    decisions = local_decisions(model, loader, classifiers)
    expected = []
    for batch in loader:
        for local, target in zip(plain_local_features(model, batch), batch["targets"]):
            row = []
            for stripe in range(STRIPES):
                cosines = [float(local[stripe] @ slot / local[stripe].norm()) for slot in classifiers.memory[stripe]]
                row.append(cosines.index(max(cosines)) == target)
            expected.append(row)
    assert decisions.correct.tolist() == np.array(expected).tolist()
    assert decisions.correct.shape == (10, STRIPES) and 0 < decisions.correct.mean() < 1
    assert model.training


def test_an_identity_without_images_has_an_empty_slot(tiny_cfg: Callable[..., CfgNode], loader: list) -> None:
    classifiers = build_local_classifiers(make(tiny_cfg), loader, K + 1, 2)
    assert (classifiers.memory[:, K] == 0).all()
    assert torch.allclose(classifiers.memory[:, :K].norm(dim=2), torch.ones(2, K))


def test_own_memories_are_found_and_only_read(tiny_cfg: Callable[..., CfgNode], loader: list) -> None:
    model = make(tiny_cfg, *CGE)
    own = find_local_classifiers(model)
    assert own is model.heads.revise.local_classifiers
    assert find_local_classifiers(make(tiny_cfg)) is None
    own.memory.copy_(build_local_classifiers(model, loader, K, 3).memory)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    local_decisions(model, loader, own)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_input_is_named(tiny_cfg: Callable[..., CfgNode], loader: list) -> None:
    model = make(tiny_cfg)
    with pytest.raises(ValueError, match="more identities than the 2"):
        build_local_classifiers(model, loader, 2, 3)
    with pytest.raises(ValueError, match="3 rows cannot be cut into 4 stripes"):
        build_local_classifiers(model, loader, K, 4)
    with pytest.raises(ValueError, match="no batch"):
        build_local_classifiers(model, [], K, 3)
    with pytest.raises(ValueError, match="512 channels, the memories 8"):
        local_decisions(model, loader, LocalClassifiers(3, K, 8))
    with pytest.raises(ValueError, match="Linear has no head that says how"):
        build_local_classifiers(nn.Linear(1, 1), loader, K, 3)
