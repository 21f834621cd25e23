"""The center loss: Eq. (9) of CAN and the centers' own steps as plain loops; several processes; checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastreid.modeling import build_model

from fastreid_parts.engine import PartsTrainer
from fastreid_parts.losses.center import CenterLoss

from ..methods.tester import batch, losses_of

NAMES = ("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "CenterLoss"))


def _case() -> tuple[CenterLoss, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    loss = CenterLoss(5, 3, learning_rate=0.4)
    loss.centers.normal_()
    return loss, torch.randn(6, 3), torch.tensor([4, 0, 4, 2, 0, 4])


def test_eq_9_is_half_the_mean_squared_distance() -> None:
    loss, features, targets = _case()
    expected = sum(float((features[i] - loss.centers[targets[i]]).norm() ** 2) for i in range(6)) / 12
    assert float(loss(features, targets)) == pytest.approx(expected, rel=1e-5)


def test_centers_follow_the_mean_by_their_own_learning_rate() -> None:
    loss, features, targets = _case()
    before = loss.centers.clone()
    loss(features, targets)
    for identity in range(5):
        own = [features[i] for i in range(6) if targets[i] == identity]
        step = sum(before[identity] - x for x in own) / (1 + len(own)) if own else torch.zeros(3)
        assert torch.allclose(loss.centers[identity], before[identity] - 0.4 * step, atol=1e-6)


def test_features_get_a_gradient_and_centers_none() -> None:
    loss, features, targets = _case()
    centers = loss.centers[targets].clone()
    features.requires_grad_()
    loss(features, targets).backward()
    assert torch.allclose(features.grad, (features.detach() - centers) / 6, atol=1e-6)
    assert list(loss.parameters()) == [] and loss.centers.grad_fn is None


def test_a_pass_without_gradients_moves_no_center() -> None:
    loss, features, targets = _case()
    before = loss.centers.clone()
    with torch.no_grad():
        loss(features, targets)
    assert torch.equal(loss.centers, before)


@pytest.mark.smallest
def test_every_branch_has_centers_that_training_saves(tiny_cfg: Callable, tmp_path: Path) -> None:
    cfg = tiny_cfg(*NAMES, "SOLVER.MAX_EPOCH", 1, "MODEL.LOSSES.CENTER.LR", 1.0)
    trainer = PartsTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    state = torch.load(tmp_path / "run" / "model_final.pth", weights_only=False)["model"]
    assert state["loss_modules.center.branch.centers"].abs().sum(dim=1).all()
    resumed = PartsTrainer(cfg)
    resumed.resume_or_load(resume=True)
    centers = resumed.model.loss_modules["center"]["branch"].centers
    assert torch.equal(centers, state["loss_modules.center.branch.centers"])


def test_its_weight(tiny_cfg: Callable) -> None:
    values = {}
    for scale in (0.0005, 1.0):
        torch.manual_seed(0)
        model = build_model(tiny_cfg(*NAMES, "MODEL.HEADS.NUM_CLASSES", 6, "MODEL.LOSSES.CENTER.SCALE", scale))
        values[scale] = float(losses_of(model, batch())["loss_center"].detach())
    assert values[0.0005] == pytest.approx(0.0005 * values[1.0], rel=1e-4)


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_impossible_learning_rates(rate: float) -> None:
    with pytest.raises(ValueError, match="MODEL.LOSSES.CENTER.LR"):
        CenterLoss(5, 3, rate)
