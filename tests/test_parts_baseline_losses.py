"""Losses in the shared meta-architecture: every one with any head, and those that have parameters of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from fastreid_parts import PartsBaseline, PartsTrainer
from fastreid_parts.checkpoints import training_only
from fastreid_parts.engine.solver import parameter_settings
from fastreid_parts.losses import LOSSES
from fastreid_parts.methods.cmbn import CMBN
from fastreid_parts.parts_head import PartsHead

from .methods.tester import batch, losses_of

HOST_HEAD = ("MODEL.META_ARCHITECTURE", "PartsBaseline")
SPHERE = ("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "SphereLoss"), "MODEL.LOSSES.SPHERE.NORM_FEAT", True)
METRIC = sorted(name for name, registered in LOSSES.items() if registered.applies_to == "features")


@pytest.fixture(params=["host's head", "CMBN"])
def make_cfg(request: Any, tiny_cfg: Callable, cmbn_cfg: Callable) -> Callable:
    """Configs of PartsBaseline with fast-reid's own head, and of a method with named branches."""
    if request.param == "CMBN":
        return lambda *overrides: cmbn_cfg("MODEL.HEADS.NUM_CLASSES", 6, *overrides)
    return lambda *overrides: tiny_cfg(*HOST_HEAD, "MODEL.HEADS.NUM_CLASSES", 6, *overrides)


@pytest.mark.smallest
class TestEveryLoss:
    @pytest.mark.parametrize("classification", ["CrossEntropyLoss", "FocalLoss"])
    def test_with_every_head_and_in_half_precision(self, make_cfg: Callable, classification: str) -> None:
        model = build_model(make_cfg("MODEL.LOSSES.NAME", (classification, *METRIC)))
        inputs = batch()
        plain = losses_of(model, inputs)
        assert {name.split("_")[1] for name in plain} == {"cls", *(LOSSES[name].term for name in METRIC)}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = losses_of(model, inputs)
        assert half.keys() == plain.keys()
        for values in (plain, half):
            sum(values.values()).backward()
            assert all(value.dtype is torch.float32 and torch.isfinite(value) for value in values.values())
            gradients = {name: p.grad for name, p in model.named_parameters()}
            assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)
            assert gradients[f"loss_modules.{sphere_of(model)}"].abs().sum() > 0
            model.zero_grad()

    def test_precise_batch_norm_targets(self, make_cfg: Callable) -> None:
        """A batch of one identity: nothing to compare with."""
        model = build_model(make_cfg("MODEL.LOSSES.NAME", ("CrossEntropyLoss", *METRIC)))
        with torch.no_grad():
            values = losses_of(model, {**batch(), "targets": torch.full((6,), -1)})
        assert all(torch.isfinite(value) for value in values.values())


def sphere_of(model: nn.Module) -> str:
    """The name of SphereLoss's weights, below `loss_modules`."""
    (name,) = [name for name, _ in model.loss_modules.named_parameters()]
    return name


class TestParameters:
    def test_names_widths_and_learning_rate(self, make_cfg: Callable) -> None:
        cfg = make_cfg(*SPHERE, "SOLVER.LR_FACTORS", [["loss_modules.sphere", 7.0]], "SOLVER.BASE_LR", 1.0)
        model = build_model(cfg)
        names = {p: name for name, p in model.named_parameters()}
        rates = {names[s["params"][0]]: s["lr"] for s in parameter_settings(cfg, model)}
        assert rates.pop(f"loss_modules.{sphere_of(model)}") == 7.0
        assert not any(name.startswith("loss_modules") or rate == 7.0 for name, rate in rates.items())
        width = model.eval()(batch()).shape[1]
        assert model.loss_modules.get_parameter(sphere_of(model)).shape == (width, 6)

    def test_they_are_part_of_the_model_only_where_there_are_any(self, make_cfg: Callable) -> None:
        plain = build_model(make_cfg())
        assert {name for name, _ in plain.named_children()} == {"backbone", "heads"}
        with_sphere = build_model(make_cfg(*SPHERE))
        extra = with_sphere.state_dict().keys() - plain.state_dict().keys()
        assert extra == {f"loss_modules.{sphere_of(with_sphere)}"}
        assert with_sphere.to("meta").loss_modules.get_parameter(sphere_of(with_sphere)).device.type == "meta"

    def test_training_only_is_what_a_class_names_and_what_it_inherits(self) -> None:
        class Method(PartsBaseline):
            training_only = ("heads.centers",)

        class Variant(Method):
            pass

        shared = set(PartsBaseline.training_only)
        assert {"heads.weight", "loss_modules"} == shared
        assert set(Method.training_only) == set(Variant.training_only) == {"heads.centers", *shared}
        assert {"backbone.reversal_block", *shared} < set(CMBN.training_only)

    def test_what_is_needed_in_training_only_is_said_by_the_module_that_has_it(self, cmbn_cfg: Callable) -> None:
        model = build_model(cmbn_cfg("MODEL.HEADS.NAME", "CGEHead", "MODEL.CGE.HEAD", "CMBNHead"))
        prefixes = training_only(model)
        assert {"heads.classifiers", "heads.revise.local_classifiers", "backbone.reversal_block"} < set(prefixes)

    @pytest.mark.smallest
    def test_trained_saved_resumed_and_evaluated(self, make_cfg: Callable, tmp_path: Path) -> None:
        """Two epochs in one go end where one epoch, a stop and another do; evaluation needs no loss."""

        def train(folder: str, epochs: int, resume: bool) -> PartsTrainer:
            overrides = ("OUTPUT_DIR", str(tmp_path / folder), "SOLVER.MAX_EPOCH", epochs, "SOLVER.STEPS", [9])
            trainer = PartsTrainer(make_cfg(*SPHERE, *overrides))
            key = f"loss_modules.{sphere_of(trainer.model)}"
            start = trainer.model.state_dict()[key].clone()
            trainer.resume_or_load(resume=resume)
            trainer.train()
            assert not torch.equal(start, trainer.model.state_dict()[key])
            return trainer

        unbroken = train("unbroken", 2, resume=False).model.state_dict()
        train("broken", 1, resume=False)
        trainer = train("broken", 2, resume=True)
        assert trainer.start_epoch == 1
        resumed = trainer.model.state_dict()
        assert unbroken.keys() == resumed.keys()
        assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)

        expected = trainer.model.eval()(batch())
        weights = str(tmp_path / "broken" / "model_final.pth")
        for losses in (SPHERE, ()):  # evaluation knows no number of identities, and may not know the loss
            model = build_model(make_cfg(*losses, "MODEL.HEADS.NUM_CLASSES", 0)).eval()
            Checkpointer(model).load(weights)
            assert torch.equal(model(batch()), expected)

    def test_a_model_that_was_trained_without_the_loss_is_evaluated_with_it(
        self, make_cfg: Callable, tmp_path: Path
    ) -> None:
        plain = build_model(make_cfg()).eval()
        torch.save({"model": plain.state_dict()}, tmp_path / "plain.pth")
        model = build_model(make_cfg(*SPHERE)).eval()
        Checkpointer(model).load(str(tmp_path / "plain.pth"))
        assert torch.equal(model(batch()), plain(batch()))

    def test_a_head_says_what_its_features_are(self, tiny_cfg: Callable) -> None:
        from fastreid.modeling import REID_HEADS_REGISTRY

        from fastreid_parts import BranchOutputs

        class TwoFeatures(PartsHead):
            feature_dims = {"global": 512}
            metric_dims = {"whole": 512, "half": 256}

            def __init__(self, _: Any) -> None:
                super().__init__()
                self.fc = nn.Linear(512, 6)

            def forward(self, x: torch.Tensor, targets: Any = None) -> Any:
                feature = x.mean((2, 3))
                if not self.training:
                    return feature
                return BranchOutputs({"": self.fc(feature)}, {"whole": feature, "half": feature[:, :256]})

        REID_HEADS_REGISTRY.register(TwoFeatures)
        try:
            overrides = ("MODEL.HEADS.NAME", "TwoFeatures", "MODEL.HEADS.NUM_CLASSES", 6)
            model = build_model(tiny_cfg(*HOST_HEAD, *SPHERE, *overrides))
            assert set(losses_of(model, batch())) == {"loss_cls", "loss_sphere_whole", "loss_sphere_half"}
            shapes = {name: tuple(p.shape) for name, p in model.loss_modules.named_parameters()}
            assert shapes == {"sphere.branch_whole.softmax.W": (512, 6), "sphere.branch_half.softmax.W": (256, 6)}
        finally:
            del REID_HEADS_REGISTRY._obj_map["TwoFeatures"]
