"""Focal loss against a plain loop, and where a softmax underflows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from fastreid_parts.losses import build_losses
from fastreid_parts.losses.focal import focal_loss

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # torch warns of a softmax over a dimension it guesses


def loop(logits: torch.Tensor, targets: torch.Tensor, alpha: float, gamma: float) -> float:
    total = 0.0
    for row, target in zip(logits.double().tolist(), targets.tolist()):
        p = math.exp(row[target]) / sum(math.exp(z) for z in row)
        total -= alpha * (1 - p) ** gamma * math.log(p)
    return total / len(targets)


@pytest.mark.parametrize("alpha, gamma", [(0.5, 1.0), (0.25, 2.0), (1.0, 0.5)])
def test_as_a_loop(alpha: float, gamma: float) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7) * 3, torch.tensor([0, 3, 6, 6, 1])
    assert float(focal_loss(logits, targets, alpha, gamma)) == pytest.approx(loop(logits, targets, alpha, gamma))


def test_known_values() -> None:
    logits, targets = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    assert float(focal_loss(logits, targets, 0.5, 1.0)) == pytest.approx(0.25 * math.log(2))
    assert float(focal_loss(logits, targets, 1.0, 0)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("gamma", [0, 0.5, 1.0, 2])
def test_finite_where_the_probability_is_0_or_1(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0], [1e4, 1e4]], requires_grad=True)
    value = focal_loss(logits, torch.tensor([0, 0, 0]), 0.5, gamma)
    value.backward()
    assert value.item() == pytest.approx(0.5 * (200 + 0.5**gamma * math.log(2)) / 3, rel=1e-5)
    assert torch.isfinite(logits.grad).all()


def test_half_precision() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 6).half(), torch.tensor([0, 1, 2, 3])
    value = focal_loss(logits, targets)
    assert value.dtype is torch.float32
    assert value.item() == pytest.approx(loop(logits, targets, 0.5, 1.0), rel=1e-5)


def test_from_the_config_it_takes_the_place_of_cross_entropy(tiny_cfg: Callable) -> None:
    cfg = tiny_cfg("MODEL.LOSSES.NAME", ("FocalLoss",), "MODEL.LOSSES.FL.ALPHA", 0.5, "MODEL.LOSSES.FL.GAMMA", 1)
    (term,) = build_losses(cfg)
    assert (term.term, term.applies_to, term.weight) == ("cls", "logits", 1.0)
    assert float(term(torch.zeros(3, 2), torch.tensor([0, 1, 1]))) == pytest.approx(0.25 * math.log(2))
    with pytest.raises(ValueError, match="CrossEntropyLoss and FocalLoss: both are the term 'loss_cls'"):
        build_losses(tiny_cfg("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "FocalLoss")))
    with pytest.raises(ValueError, match=r"FL\.GAMMA is -1; it is at least 0"):
        build_losses(tiny_cfg("MODEL.LOSSES.NAME", ("FocalLoss",), "MODEL.LOSSES.FL.GAMMA", -1))
