"""Losses against plain loops, and the registry."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fastreid.modeling.heads import build_heads
from fastreid.modeling.losses import cross_entropy_loss, triplet_loss

from fastreid_parts.losses import LOSSES, build_losses, register_loss
from fastreid_parts.losses.cross_entropy import cross_entropy


def loop(logits: torch.Tensor, targets: torch.Tensor, epsilon: float) -> float:
    total, k = 0.0, logits.shape[1]
    for row, target in zip(logits.double().tolist(), targets.tolist()):
        normaliser = math.log(sum(math.exp(z) for z in row))
        for j, z in enumerate(row):
            y = (1 - epsilon) * (j == target) + epsilon / k
            total -= y * (z - normaliser) / len(targets)
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


class TestRegistry:
    def test_names_weights_and_terms(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("MODEL.LOSSES.NAME", ("TripletLoss", "CrossEntropyLoss", "CircleLoss", "Cosface"))
        cfg.MODEL.LOSSES.TRI.SCALE, cfg.MODEL.LOSSES.CE.SCALE = 2.0, 0.5
        terms = build_losses(cfg)
        assert [t.term for t in terms] == ["triplet", "cls", "circle", "cosface"]
        assert [t.applies_to for t in terms] == ["features", "logits", "features", "features"]
        assert [t.weight for t in terms[:2]] == [2.0, 0.5]
        features, targets = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
        tri = cfg.MODEL.LOSSES.TRI
        expected = triplet_loss(features, targets, tri.MARGIN, tri.NORM_FEAT, tri.HARD_MINING)
        assert torch.equal(terms[0].function(features, targets), expected)
        assert all(torch.isfinite(t.function(features, targets)) for t in terms if t.applies_to == "features")

    def test_unknown_and_empty(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="'TripleLoss'; known are.*TripletLoss"):
            build_losses(tiny_cfg("MODEL.LOSSES.NAME", ("TripleLoss",)))
        with pytest.raises(ValueError, match="no name"):
            build_losses(tiny_cfg("MODEL.LOSSES.NAME", ()))
        with pytest.raises(ValueError, match="WRTLoss and WRTLoss: both are the term 'loss_wrt'"):
            build_losses(tiny_cfg("MODEL.LOSSES.NAME", ("WRTLoss", "WRTLoss")))

    def test_registering(self) -> None:
        with pytest.raises(ValueError, match="registered already"):
            register_loss("TripletLoss", "triplet", "features")
        with pytest.raises(ValueError, match="'maps'"):
            register_loss("NewLoss", "new", "maps")
        with pytest.raises(ValueError, match="only a loss over features"):
            register_loss("NewLoss", "new", "logits", per_branch=True)
        assert "NewLoss" not in LOSSES


class TestParameters:
    """Losses with parameters of their own: one module for each branch of features."""

    def test_a_module_for_each_branch(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("MODEL.LOSSES.NAME", ("SphereLoss",), "MODEL.HEADS.NUM_CLASSES", 6)
        (term,) = build_losses(cfg, {"": 4, "half": 3})
        shapes = {name: tuple(p.shape) for name, p in term.function.named_parameters()}
        assert shapes == {"branch.softmax.W": (4, 6), "branch_half.softmax.W": (3, 6)}
        targets = torch.tensor([0, 1])
        for branch, width in (("", 4), ("half", 3)):
            features = torch.randn(2, width)
            module = term.function[term.function.key(branch)]
            assert torch.equal(term(features, targets, branch), module(features, targets))

    def test_widths_of_the_hosts_heads(self, tiny_cfg: Callable) -> None:
        for embedding, neck_feat, width in ((0, "after", 512), (32, "after", 32), (32, "before", 512)):
            overrides = ("MODEL.HEADS.EMBEDDING_DIM", embedding, "MODEL.HEADS.NECK_FEAT", neck_feat)
            cfg = tiny_cfg("MODEL.LOSSES.NAME", ("SphereLoss",), "MODEL.HEADS.NUM_CLASSES", 6, *overrides)
            (term,) = build_losses(cfg)
            assert term.function.metric_dims == {"": width}
            head = build_heads(cfg)
            assert head(torch.rand(2, 512, 3, 2), torch.tensor([0, 1]))["features"].shape == (2, width)

    def test_a_branch_that_was_not_declared_is_an_error(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("MODEL.LOSSES.NAME", ("SphereLoss",), "MODEL.HEADS.NUM_CLASSES", 6)
        (term,) = build_losses(cfg, {"": 4})
        for branch, width in (("", 5), ("upper", 4)):
            with pytest.raises(ValueError, match=f"branch '{branch}' with {width}.*metric_dims"):
                term(torch.randn(2, width), torch.tensor([0, 1]), branch)
