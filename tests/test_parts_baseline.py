"""The shared meta-architecture: the sum over branches, fast-reid's own heads, batches that stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.modeling import REID_HEADS_REGISTRY, build_model
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts import BranchOutputs, PartsBaseline
from fastreid_parts.losses import BranchLoss

from .methods.tester import MethodTester, batch, losses_of


class TestWithTheHostsHead(MethodTester):
    """PartsBaseline with EmbeddingHead is the host's Baseline, with Eq. (5)'s label smoothing."""

    overrides = (
        "MODEL.META_ARCHITECTURE", "PartsBaseline",
        "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"),
    )  # fmt: skip
    dimension = 512

    def test_same_losses_and_features_as_the_hosts_baseline(self, tiny_cfg: Callable) -> None:
        models = []
        for name in ("Baseline", "PartsBaseline"):
            torch.manual_seed(0)
            models.append(build_model(self.config(tiny_cfg, "MODEL.META_ARCHITECTURE", name)))
        host, ours = (losses_of(m, batch()) for m in models)
        assert host.keys() == ours.keys() == {"loss_cls", "loss_triplet"}
        assert all(torch.allclose(host[k], ours[k], atol=1e-6) for k in host)
        assert torch.allclose(models[0].eval()(batch()), models[1].eval()(batch()), atol=1e-6)

    def test_accuracy_is_of_the_scores_where_there_are_some(self, tiny_cfg: Callable) -> None:
        model, targets = build_model(self.config(tiny_cfg)), batch()["targets"]
        right = torch.nn.functional.one_hot(targets).float()
        for scores, expected in ((right, 1.0), (None, 0.0)):
            outputs = BranchOutputs({"": -right}, {"": torch.randn(len(targets), 4)}, scores=scores)
            with EventStorage() as storage:
                model.losses(outputs, targets)
            assert storage.latest()["cls_accuracy"][0] == expected

    def test_width_comes_from_the_backbone(self, tiny_cfg: Callable) -> None:
        cfg = self.config(tiny_cfg, "MODEL.BACKBONE.FEAT_DIM", 2048)  # ResNet-18 has 512
        assert build_model(cfg).eval()(batch()).shape == (6, 512)


class TestPoolingOfAMap:
    """Identity and Flatten are for a backbone whose output is one position; of a map a head reads the first."""

    vit = (
        "MODEL.BACKBONE.NAME", "build_vit_backbone", "MODEL.BACKBONE.DEPTH", "small",
        "INPUT.SIZE_TRAIN", [32, 16], "INPUT.SIZE_TEST", [32, 16], "MODEL.BACKBONE.FEAT_DIM", 768,
    )  # fmt: skip
    parts = ("MODEL.META_ARCHITECTURE", "PartsBaseline")

    @pytest.mark.smallest
    @pytest.mark.parametrize(
        ("layer", "overrides", "shape"),
        [
            ("Identity", (*parts, *vit), "2 x 1"),
            ("Flatten", (*parts, "MODEL.HEADS.NAME", "GlobalHead"), "3 x 2"),
            ("Identity", (), "2 x 1"),
            ("Flatten", ("MODEL.META_ARCHITECTURE", "MGN", "MODEL.HEADS.EMBEDDING_DIM", 8), "3 x 2"),
        ],
    )
    def test_it_is_refused(self, tiny_cfg: Callable, layer: str, overrides: tuple, shape: str) -> None:
        cfg = tiny_cfg("MODEL.HEADS.POOL_LAYER", layer, *overrides)
        with pytest.raises(ValueError, match=f"POOL_LAYER is '{layer}', .* map of {shape}.*READOUT token"):
            build_model(cfg)

    @pytest.mark.parametrize("how", [(*parts, "MODEL.BACKBONE.READOUT", "token"), ()])
    def test_a_class_token_needs_no_pooling(self, tiny_cfg: Callable, how: tuple) -> None:
        model = build_model(tiny_cfg(*self.vit, *how, "MODEL.HEADS.POOL_LAYER", "Identity")).eval()
        assert model(batch(size=(32, 16))).shape == (6, 768)


class ThreeBranches(nn.Module):
    def __init__(self, _: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(512, 6)

    def forward(self, x: torch.Tensor, targets: Any = None) -> Any:
        feature = x.mean((2, 3))
        if not self.training:
            return feature
        logits = {"whole": self.fc(feature), "upper": self.fc(feature * 2), "lower": self.fc(feature * 3)}
        return BranchOutputs(logits, {"whole": feature}, {"upper": 0.5, "lower": 0.25})


class TestSum:
    @pytest.fixture
    def model(self, tiny_cfg: Callable) -> Any:
        REID_HEADS_REGISTRY.register(ThreeBranches)
        try:
            yield build_model(
                tiny_cfg(
                    "MODEL.META_ARCHITECTURE",
                    "PartsBaseline",
                    "MODEL.HEADS.NAME",
                    "ThreeBranches",
                    "MODEL.HEADS.NUM_CLASSES",
                    6,
                )  # fmt: skip
            )
        finally:
            del REID_HEADS_REGISTRY._obj_map["ThreeBranches"]

    def test_each_loss_over_each_branch_with_its_weight(self, model: PartsBaseline) -> None:
        model.loss_terms = [
            BranchLoss("cls", "logits", lambda z, _: z.sum(), 2.0),
            BranchLoss("norm", "features", lambda z, _: z.sum(), 3.0),
        ]
        outputs = BranchOutputs(
            {"whole": torch.ones(2, 3), "upper": torch.ones(2, 3)}, {"whole": torch.ones(2, 5)}, {"upper": 0.5}
        )
        got = {k: float(v) for k, v in model.losses(outputs, torch.tensor([0, 1])).items()}
        assert got == {"loss_cls_whole": 12.0, "loss_cls_upper": 6.0, "loss_norm_whole": 30.0}

    def test_names(self, model: PartsBaseline) -> None:
        assert set(losses_of(model, batch())) == {"loss_cls_whole", "loss_cls_upper", "loss_cls_lower"}

    def test_a_loss_without_a_branch_is_an_error(self, model: PartsBaseline) -> None:
        model.loss_terms = [BranchLoss("triplet", "features", lambda z, _: z.sum(), 1.0)]
        with pytest.raises(ValueError, match="'triplet' applies to features"):
            model.losses(BranchOutputs({"a": torch.ones(2, 3)}), torch.tensor([0, 1]))

    def test_losses_are_computed_in_full_precision(self, model: PartsBaseline) -> None:
        seen = []
        model.loss_terms = [BranchLoss("cls", "logits", lambda z, _: seen.append((z @ z.t()).dtype) or z.sum(), 1.0)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses_of(model, batch())
        assert set(seen) == {torch.float32}

    def test_precise_batch_norm_targets(self, model: PartsBaseline) -> None:
        """The host marks such batches with -1 in every place."""
        inputs = {**batch(), "targets": torch.full((6,), -1)}
        with torch.no_grad():
            assert all(torch.isfinite(v) for v in losses_of(model, inputs).values())
        assert inputs["targets"].eq(-1).all()

    def test_no_image_without_an_identity_is_learned_from(self, model: PartsBaseline) -> None:
        """It would be one of the first identity."""
        with pytest.raises(ValueError, match="the batch has the target -1: identities of a training set are 0, 1"):
            losses_of(model, {**batch(), "targets": torch.tensor([0, 0, 1, -1, 2, 2])})
