"""What MODEL.LOSSES.NAME can name: the registry, and losses with parameters of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fastreid.modeling.heads import build_heads
from fastreid.modeling.losses import triplet_loss

from fastreid_parts.losses import LOSSES, build_losses, register_loss


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

    def test_a_registered_loss_is_built(self, tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(LOSSES, "NewLoss", raising=False)
        register_loss("NewLoss", "new", "logits")(lambda cfg: (lambda logits, targets: logits.sum(), 0.25))
        try:
            (term,) = build_losses(tiny_cfg("MODEL.LOSSES.NAME", ("NewLoss",)))
        finally:
            del LOSSES["NewLoss"]
        assert (term.term, term.applies_to, term.weight) == ("new", "logits", 0.25)
        assert term(torch.ones(2, 3), torch.tensor([0, 1])) == 6


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
