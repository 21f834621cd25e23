"""Cross-entropy with label smoothing, against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from fastreid.modeling.losses import cross_entropy_loss

from fastreid_parts.losses.cross_entropy import cross_entropy


def loop(logits: torch.Tensor, targets: torch.Tensor, epsilon: float) -> float:
    total, k = 0.0, logits.shape[1]
    for row, target in zip(logits.double().tolist(), targets.tolist()):
        normalizer = math.log(sum(math.exp(z) for z in row))
        for j, z in enumerate(row):
            y = (1 - epsilon) * (j == target) + epsilon / k
            total -= y * (z - normalizer) / len(targets)
    return total


class TestCrossEntropy:
    @pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
    def test_as_a_loop(self, epsilon: float) -> None:
        torch.manual_seed(0)
        logits, targets = torch.randn(5, 7), torch.tensor([0, 3, 6, 6, 1])
        assert float(cross_entropy(logits, targets, epsilon)) == pytest.approx(loop(logits, targets, epsilon), rel=1e-5)

    def test_known_value(self) -> None:
        assert float(cross_entropy(torch.zeros(3, 8), torch.tensor([0, 1, 2]))) == pytest.approx(math.log(8))

    def test_one_identity_and_large_logits_stay_finite(self) -> None:
        logits = torch.full((4, 3), 1e4, requires_grad=True)
        value = cross_entropy(logits, torch.zeros(4, dtype=torch.long), 0.1)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(logits.grad).all()

    def test_a_sample_of_zero_loss_counts_in_the_mean(self) -> None:
        logits = torch.tensor([[200.0, 0.0], [0.0, 0.0]])
        assert float(cross_entropy(logits, torch.tensor([0, 0]))) == pytest.approx(math.log(2) / 2)

    def test_adaptive_smoothing_is_the_hosts(self) -> None:
        logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
        values = [cross_entropy(logits, targets, -1, alpha) for alpha in (0.2, 0.4)]
        assert values == [cross_entropy_loss(logits, targets, -1, alpha) for alpha in (0.2, 0.4)]
        assert values[0] != values[1] and values[0] == cross_entropy(logits, targets, -1)
