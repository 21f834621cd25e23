"""Eq. (6), (7) and (8) against plain loops; batches without a triplet; long distances."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling.losses import triplet_loss

from fastreid_parts.losses import BranchLoss, build_losses
from fastreid_parts.losses.triplet import batch_hard_triplet, weighted_regularized_triplet

from .loops import batch, distance, pairs, unit


def hard_loop(features: torch.Tensor, targets: torch.Tensor, value_of: Callable[[float], float]) -> float:
    rows, values = features.double().tolist(), []
    for i, (positives, negatives) in enumerate(zip(*pairs(targets))):
        if positives and negatives:
            farthest = max(distance(rows[i], rows[j]) for j in positives)
            nearest = min(distance(rows[i], rows[j]) for j in negatives)
            values.append(value_of(farthest - nearest))
    return sum(values) / len(values)


def weighted_loop(features: torch.Tensor, targets: torch.Tensor) -> float:
    rows, values = features.double().tolist(), []
    for i, (positives, negatives) in enumerate(zip(*pairs(targets))):
        near = [distance(rows[i], rows[j]) for j in positives]
        far = [distance(rows[i], rows[j]) for j in negatives]
        pull = sum(math.exp(d) / sum(map(math.exp, near)) * d for d in near)
        push = sum(math.exp(-d) / sum(math.exp(-e) for e in far) * d for d in far)
        values.append(math.log(1 + math.exp(pull - push)))
    return sum(values) / len(values)


class TestBatchHard:
    @pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
    def test_eq_6_as_a_loop(self, margin: float) -> None:
        features, targets = batch()
        expected = hard_loop(features, targets, lambda d: max(margin + d, 0))
        assert expected > 0
        assert float(batch_hard_triplet(features, targets, margin)) == pytest.approx(expected, rel=1e-5)

    def test_soft_margin_as_a_loop(self) -> None:
        features, targets = batch()
        expected = hard_loop(features, targets, lambda d: math.log(1 + math.exp(d)))
        assert float(batch_hard_triplet(features, targets, soft=True)) == pytest.approx(expected, rel=1e-5)

    def test_normalized(self) -> None:
        features, targets = batch()
        units = torch.tensor([unit(row) for row in features.tolist()])
        expected = hard_loop(units, targets, lambda d: max(0.3 + d, 0))
        assert float(batch_hard_triplet(features, targets, 0.3, normalize=True)) == pytest.approx(expected, rel=1e-5)

    def test_known_value(self) -> None:
        features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])  # distances 5 to the positive, 1 and sqrt(18)
        value = batch_hard_triplet(features, torch.tensor([0, 0, 1]))
        assert value.item() == pytest.approx((5 - 1 + 5 - math.sqrt(18)) / 2)

    def test_an_anchor_without_a_pair_does_not_count(self) -> None:
        """The identity of one image is a negative of the others, and no anchor."""
        features, targets = batch(identities=2, images=3)
        targets[0] = 7
        expected = hard_loop(features, targets, lambda d: max(1 + d, 0))
        assert float(batch_hard_triplet(features, targets, 1.0)) == pytest.approx(expected, rel=1e-5)


class TestWeighted:
    @pytest.mark.parametrize("length", [0.1, 1.0, 5.0])
    def test_eq_7_and_8_as_a_loop(self, length: float) -> None:
        features, targets = batch(length=length)
        assert float(weighted_regularized_triplet(features, targets)) == pytest.approx(
            weighted_loop(features, targets), rel=1e-5
        )

    def test_distances_of_30(self) -> None:
        """The host's weights of negatives add up to nothing here, and its loss is the distance to the positives."""
        features, targets = batch(identities=8, width=2048, length=30 / math.sqrt(2 * 2048))
        assert 25 < torch.cdist(features, features)[0, 1] < 35
        features.requires_grad_()
        value = weighted_regularized_triplet(features, targets)
        value.backward()
        assert value.item() == pytest.approx(weighted_loop(features.detach(), targets), rel=1e-4)
        assert value.item() < 3 and features.grad.abs().sum() > 0
        assert triplet_loss(features, targets, 0.0, False, False).item() > 25

    def test_the_hosts_value_where_distances_are_moderate(self) -> None:
        features, targets = batch(width=64, length=0.5)  # distances of 6: the anchor's own weight is below 1e-3
        host = float(triplet_loss(features, targets, 0.0, False, False))
        assert float(weighted_regularized_triplet(features, targets)) == pytest.approx(host, abs=0.01)

    def test_very_long_distances_stay_finite(self) -> None:
        features, targets = batch(length=1e6)
        features.requires_grad_()
        value = weighted_regularized_triplet(features, targets)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(features.grad).all()


def test_many_images_that_are_close_and_far_from_the_origin() -> None:
    """Products in place of differences would lose the distances, as torch prefers them for more than 25 rows."""
    features, targets = batch(identities=10, images=4, length=0.01)
    features = features + 100.0
    assert float(batch_hard_triplet(features, targets)) == pytest.approx(
        hard_loop(features, targets, lambda d: max(d, 0)), rel=1e-3
    )


HARD = {"hinge": {"margin": 0.3}, "soft": {"soft": True}}
LOSSES = {
    **{name: lambda f, t, s=settings: batch_hard_triplet(f, t, **s) for name, settings in HARD.items()},
    "weighted": weighted_regularized_triplet,
}


@pytest.mark.parametrize("name", LOSSES)
class TestDegenerate:
    @pytest.mark.parametrize("targets", [[0, 0, 0, 0], [0, 1, 2, 3], [5]])
    def test_no_triplet_is_zero_with_a_gradient(self, name: str, targets: list[int]) -> None:
        features = torch.randn(len(targets), 3, requires_grad=True)
        value = LOSSES[name](features, torch.tensor(targets))
        value.backward()
        assert value.item() == 0 and features.grad.eq(0).all()

    def test_equal_images_have_a_finite_gradient(self, name: str) -> None:
        features = torch.ones(4, 3, requires_grad=True)
        value = LOSSES[name](features, torch.tensor([0, 0, 1, 1]))
        value.backward()
        assert value.item() == pytest.approx(0.3 if name == "hinge" else math.log(2))
        assert torch.isfinite(features.grad).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, name: str, dtype: torch.dtype) -> None:
        features, targets = batch()
        features = features.to(dtype).requires_grad_()
        value = LOSSES[name](features, targets)
        value.backward()
        assert value.dtype is torch.float32 and features.grad.dtype is dtype
        assert value.item() == pytest.approx(float(LOSSES[name](features.detach().float(), targets)))


class TestConfig:
    def term(self, tiny_cfg: Callable, *overrides: object) -> BranchLoss:
        (term,) = build_losses(tiny_cfg("MODEL.LOSSES.NAME", ("TripletLoss",), *overrides))
        return term

    def test_forms(self, tiny_cfg: Callable) -> None:
        features, targets = batch()
        margin = ("MODEL.LOSSES.TRI.MARGIN", 0.0)

        def value(form: str, *overrides: object) -> torch.Tensor:
            return self.term(tiny_cfg, "MODEL.LOSSES.TRI.FORM", form, *overrides)(features, targets)

        assert torch.equal(value("hinge", *margin), batch_hard_triplet(features, targets, 0.0))
        assert torch.equal(value("hinge"), batch_hard_triplet(features, targets, 0.3))
        assert torch.equal(value("soft_margin"), batch_hard_triplet(features, targets, soft=True))
        normalized = value("hinge", "MODEL.LOSSES.TRI.NORM_FEAT", True)
        assert torch.equal(normalized, batch_hard_triplet(features, targets, 0.3, normalize=True))
        hard = ("MODEL.LOSSES.TRI.HARD_MINING", True)
        assert torch.equal(value("host", *margin, *hard), triplet_loss(features, targets, 0.0, False, True))

    def test_weighted(self, tiny_cfg: Callable) -> None:
        features, targets = batch()
        (term,) = build_losses(tiny_cfg("MODEL.LOSSES.NAME", ("WRTLoss",), "MODEL.LOSSES.WRT.SCALE", 0.5))
        assert (term.term, term.weight) == ("wrt", 0.5)
        assert torch.equal(term(features, targets), weighted_regularized_triplet(features, targets))

    def test_bad_settings(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match=r"TRI\.FORM is 'hing'; it is one of host, hinge, soft_margin"):
            self.term(tiny_cfg, "MODEL.LOSSES.TRI.FORM", "hing")
        with pytest.raises(ValueError, match=r"TRI\.MARGIN is -0\.1"):
            self.term(tiny_cfg, "MODEL.LOSSES.TRI.FORM", "hinge", "MODEL.LOSSES.TRI.MARGIN", -0.1)


def test_squared_distances_as_in_can_eq_7(tiny_cfg: Callable[..., CfgNode]) -> None:
    torch.manual_seed(0)
    features, targets = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    cfg = tiny_cfg("MODEL.LOSSES.NAME", ("TripletLoss",), "MODEL.LOSSES.TRI.FORM", "hinge",
                   "MODEL.LOSSES.TRI.MARGIN", 1.3, "MODEL.LOSSES.TRI.SQUARED", True)  # fmt: skip
    expected = 0.0
    for a in range(6):
        squares = [float((features[a] - features[b]).pow(2).sum()) for b in range(6)]
        positive = max(d for d, t in zip(squares, targets) if t == targets[a])
        negative = min(d for d, t in zip(squares, targets) if t != targets[a])
        expected += max(0.0, 1.3 + positive - negative) / 6
    assert float(build_losses(cfg)[0](features, targets)) == pytest.approx(expected, rel=1e-5)
    cfg.MODEL.LOSSES.TRI.FORM = "host"
    with pytest.raises(ValueError, match="TRI.SQUARED needs MODEL.LOSSES.TRI.FORM hinge"):
        build_losses(cfg)
