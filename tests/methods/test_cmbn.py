"""CMBN against its paper: equations as plain loops, Alg. 1 step by step, and what inference keeps."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.layers.batch_norm import FrozenBatchNorm
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts.engine.solver import build_optimizer
from fastreid_parts.engine.step import TrainStep
from fastreid_parts.layers import channel_mask
from fastreid_parts.methods.cmbn import ReversalBlock, reversal_mask, reverse_gradient

from ..conftest import CMBN as CMBN_OVERRIDES
from .tester import IDENTITIES, MethodTester, batch, losses_of

RB, MG, CDS = "MODEL.CMBN.REVERSAL_BRANCH", "MODEL.CMBN.MASK_GENERATOR", "MODEL.CMBN.CONTEXTUAL_DETACHMENT"


class TestCMBN(MethodTester):
    overrides = CMBN_OVERRIDES
    dimension = 32
    variants = (
        (RB, False, MG, False),
        (MG, False),
        (RB, False),
        (CDS, False),
        (),
        ("MODEL.CMBN.FEATURE", "pooled"),
        ("MODEL.CMBN.FEATURE", "pooled", MG, False),
        ("MODEL.CMBN.DETACH_MASK", True),
        ("MODEL.HEADS.WITH_BNNECK", True, "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss")),
        ("MODEL.HEADS.CLS_LAYER", "CircleSoftmax", "MODEL.HEADS.SCALE", 64, "MODEL.HEADS.MARGIN", 0.35),
        ("MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP"),
    )


class TestEquations:
    @pytest.mark.proves("cmbn", level=1)
    def test_eq_1_gradient_is_minus_lambda_times_the_plain_one(self) -> None:
        torch.manual_seed(0)
        x = torch.randn(5, 7, requires_grad=True)
        classifier = nn.Linear(7, 4)
        targets = torch.tensor([0, 1, 2, 3, 0])
        (plain,) = torch.autograd.grad(F.cross_entropy(classifier(x), targets), x)
        (reversed_,) = torch.autograd.grad(F.cross_entropy(classifier(reverse_gradient(x, 0.2)), targets), x)
        assert torch.equal(reversed_, -0.2 * plain)

    def test_eq_1_forwards_the_identity_and_leaves_the_classifier_its_own_gradient(self) -> None:
        x, classifier = torch.randn(5, 7), nn.Linear(7, 4)
        assert torch.equal(reverse_gradient(x, 0.2), x)
        targets = torch.tensor([0, 1, 2, 3, 0])
        loss = F.cross_entropy(classifier(reverse_gradient(x, 0.2)), targets)
        plain = F.cross_entropy(classifier(x), targets)
        got = torch.autograd.grad(loss, classifier.weight)[0]
        assert torch.equal(got, torch.autograd.grad(plain, classifier.weight)[0])

    @pytest.mark.proves("cmbn", level=1)
    def test_eq_2_as_a_loop(self) -> None:
        torch.manual_seed(0)
        block = ReversalBlock(channels=3, norm="BN").eval()
        features = torch.randn(2, 3, 4, 2)
        got = block(features)
        for n in range(2):
            for i in range(4):
                for j in range(2):
                    conv = sum(block.conv.weight[0, c, 0, 0] * features[n, c, i, j] for c in range(3))
                    norm = conv / math.sqrt(1 + block.norm.eps)  # fresh statistics: mean 0, variance 1
                    expected = 1 - 1 / (1 + math.exp(-float(norm.detach())))
                    assert float(got[n, 0, i, j].detach()) == pytest.approx(expected, abs=1e-6)

    def test_eq_2_is_high_where_the_response_is_low(self) -> None:
        mask = reversal_mask(torch.tensor([-20.0, 0.0, 20.0]))
        assert torch.allclose(mask, torch.tensor([1.0, 0.5, 0.0]), atol=1e-6)

    @pytest.mark.proves("cmbn", level=1)
    def test_eq_3_as_a_loop(self) -> None:
        torch.manual_seed(0)
        identity_weight, weight, bias = torch.randn(4, 3), torch.randn(1, 4), torch.randn(1)
        got = channel_mask(identity_weight, weight, bias)
        assert got.shape == (3,)
        for d in range(3):
            response = float(bias) + sum(float(weight[0, k]) * float(identity_weight[k, d]) for k in range(4))
            assert float(got[d]) == pytest.approx(1 / (1 + math.exp(-response)), abs=1e-6)

    def test_eq_3_stays_in_full_precision_under_autocast(self) -> None:
        identity_weight, weight, bias = torch.randn(40, 8), torch.randn(1, 40), torch.randn(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = channel_mask(identity_weight, weight, bias)
        assert got.dtype == torch.float32
        assert torch.equal(got, channel_mask(identity_weight, weight, bias))


class TestLosses:
    @pytest.mark.proves("cmbn", level=1)
    def test_objective_of_algorithm_1_as_a_loop(self, cmbn_cfg: Callable[..., CfgNode]) -> None:
        """L = L_ID1 + L_ID2 + beta L_CS, each a cross-entropy over the classifier that Sec. 3.3 gives it."""
        cfg = cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES, "MODEL.CMBN.CHAOS_WEIGHT", 0.4)
        torch.manual_seed(0)
        model = build_model(cfg)
        inputs = batch()
        terms = losses_of(model, inputs)
        maps = model.backbone(model.preprocess_image(inputs), with_reversal=True)
        head = model.heads

        def pooled(x: torch.Tensor) -> torch.Tensor:
            return x.amax(dim=(2, 3))

        feature = pooled(maps["backbone"]) @ head.compression[0].weight.t() + head.compression[0].bias
        w_id = head.classifiers["identity"].weight
        mask = torch.sigmoid(w_id.t() @ head.generator.weight[0] + head.generator.bias)
        background = pooled(maps["reversal"]) @ head.chaos_compression[0].weight.t() + head.chaos_compression[0].bias
        expected = {
            "loss_cls_global": (feature @ w_id.t(), 1.0),
            "loss_cls_masked": ((feature * mask) @ head.classifiers["masked"].weight.t(), 1.0),
            "loss_cls_reversal": (background @ head.classifiers["chaos"].weight.t(), 0.4),
        }
        assert terms.keys() == expected.keys()
        for name, (logits, weight) in expected.items():
            value = 0.0
            for row, target in zip(logits.detach(), inputs["targets"]):
                value -= math.log(math.exp(row[target]) / sum(math.exp(z) for z in row)) / len(logits)
            assert float(terms[name].detach()) == pytest.approx(weight * value, rel=1e-4)

    @pytest.mark.parametrize("feature", ["embedding", "pooled"])
    @pytest.mark.parametrize("masked", [True, False])
    @pytest.mark.parametrize("neck_feat", ["before", "after"])
    def test_every_classifier_has_the_margin_and_metric_losses_see_the_masked_feature(
        self, cmbn_cfg: Callable[..., CfgNode], feature: str, masked: bool, neck_feat: str
    ) -> None:
        cfg = cmbn_cfg(
            "MODEL.HEADS.NUM_CLASSES", IDENTITIES, "MODEL.CMBN.FEATURE", feature, MG, masked,
            "MODEL.HEADS.WITH_BNNECK", True, "MODEL.HEADS.NECK_FEAT", neck_feat,
            "MODEL.HEADS.CLS_LAYER", "CircleSoftmax", "MODEL.HEADS.SCALE", 64, "MODEL.HEADS.MARGIN", 0.35,
        )  # fmt: skip
        torch.manual_seed(0)
        head, targets = build_model(cfg).heads, batch()["targets"]
        maps = {name: torch.rand(6, 512, 3, 2) for name in ("backbone", "reversal")}
        outputs = head(maps, targets)
        backbone, reversal = (maps[name].amax(dim=(2, 3)) for name in ("backbone", "reversal"))
        before = head.compression(backbone) if feature == "embedding" else backbone
        after = F.batch_norm(before, None, None, training=True)
        mask = head.compute_mask() if masked else 1.0
        classified = {"identity": after, "masked": after * mask}
        if feature == "pooled":  # the compression is a layer of the classifier
            classified = {
                "identity": after if masked else head.compression(after),
                "masked": head.compression(after * mask),
            }
        classified["chaos"] = head.chaos_compression(reversal)
        names = {"identity": "global", "chaos": "reversal/global", **({"masked": "masked/global"} if masked else {})}
        assert set(outputs.logits) == set(names.values())
        assert torch.allclose(outputs.scores, head.classifiers["identity"](classified["identity"]), atol=1e-4)
        for name, branch in names.items():
            expected = head.classifiers[name](classified[name], targets)
            assert torch.allclose(outputs.logits[branch], expected, atol=1e-2), name
            without_margin = head.classifiers[name](classified[name])
            assert not torch.allclose(expected, without_margin, atol=1.0)
        (metric,) = outputs.features.values()
        assert torch.allclose(metric, (before if neck_feat == "before" else after) * mask, atol=1e-4)

    def test_masks_multiply_the_inputs_of_both_reversal_stages(self, cmbn_cfg: Callable[..., CfgNode]) -> None:
        """Sec. 3.2: up-sampled on the input of Conv4_Re, as it is on that of Conv5_Re."""
        model = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES)).eval()
        seen = {}
        stages = model.backbone.branches["reversal"]
        for name, stage in stages.items():
            stage.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
        images = model.preprocess_image(batch(size=(64, 32)))
        with torch.no_grad():
            maps = model.backbone(images, with_reversal=True)
            shared = model.backbone.forward_shared(images)
            mask = model.backbone.reversal_block(maps["backbone"])
            conv4 = stages["layer3"](seen["layer3"])
        assert mask.shape[-2] * 2 == shared.shape[-2]
        large = F.interpolate(mask, scale_factor=2, mode="bilinear", align_corners=False)
        assert torch.allclose(seen["layer3"], shared * large)
        assert torch.allclose(seen["layer4"], conv4 * mask)

    def test_reversal_branch_reaches_the_backbone_branch_through_the_mask(self, cmbn_cfg: Callable) -> None:
        model = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES))
        losses_of(model, batch())["loss_cls_reversal"].backward()
        gradient = model.backbone.branches["backbone"]["layer4"].blocks[-1].conv2.weight.grad
        assert gradient.abs().sum() > 0

    @pytest.mark.parametrize("detached", [False, True])
    def test_second_loss_reaches_w_id_through_the_mask_unless_detached(self, cmbn_cfg: Callable, detached) -> None:
        model = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES, "MODEL.CMBN.DETACH_MASK", detached))
        losses_of(model, batch())["loss_cls_masked"].backward()
        gradient = model.heads.classifiers["identity"].weight.grad
        assert (gradient is None) if detached else gradient.abs().sum() > 0


OPTIMIZERS = {
    "sgd": ("SOLVER.OPT", "SGD", "SOLVER.AMSGRAD", False, "SOLVER.MOMENTUM", 0.9),
    "adam": ("SOLVER.OPT", "Adam"),
    "clipped": ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1),
}


def test_the_reversal_block_has_the_norm_of_the_backbone(cmbn_cfg: Callable[..., CfgNode]) -> None:
    """A frozen one, too, which fast-reid cannot initialize."""
    for name, kind in (("BN", nn.BatchNorm2d), ("FrozenBN", FrozenBatchNorm)):
        model = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES, "MODEL.BACKBONE.NORM", name))
        norms = [one for one in model.backbone.reversal_block.modules() if hasattr(one, "running_mean")]
        assert norms and all(isinstance(one, kind) for one in norms)
        assert all(torch.isfinite(loss) for loss in losses_of(model, batch()).values())


class TestContextualDetachment:
    """Alg. 1: two optimizer steps on one mini-batch; the second leaves the reversal branch bit for bit as it was."""

    prefixes = (
        "backbone.branches.reversal.",
        "backbone.reversal_block.",
        "heads.chaos_compression.",
        "heads.classifiers.chaos.",
    )

    def step(self, cfg: CfgNode, **kwargs: Any) -> tuple[TrainStep, list]:
        torch.manual_seed(0)
        model = build_model(cfg)
        optimizer, wrapper = build_optimizer(cfg, model)
        step = TrainStep(model, [batch(), batch(seed=1), batch(seed=2)], optimizer, wrapper, **kwargs)
        step.iter = 0
        states: list = []
        update = step.update

        def recorded(*args: Any) -> Any:
            result = update(*args)
            states.append(copy.deepcopy(model.state_dict()))
            return result

        step.update = recorded  # type: ignore[method-assign]
        return step, states

    @pytest.mark.smallest
    @pytest.mark.parametrize(
        ("optimizer", "amp"),
        # bfloat16 is slow where no instruction computes it: once, where gradients are scaled back to be clipped
        [*((name, False) for name in OPTIMIZERS), ("clipped", True)],
    )
    def test_second_step_leaves_the_reversal_branch_untouched(
        self, cmbn_cfg: Callable[..., CfgNode], optimizer: str, amp: bool
    ) -> None:
        cfg = cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES, "SOLVER.WEIGHT_DECAY", 0.1, *OPTIMIZERS[optimizer])
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if amp else None
        step, states = self.step(cfg, amp=amp, cpu_dtype="bfloat16", grad_scaler=scaler)
        with EventStorage():
            for _ in range(3):
                step.run_step()
        assert len(states) == 6
        for joint, detached in zip(states[::2], states[1::2]):
            reversal = [k for k in joint if k.startswith(self.prefixes)]
            assert len(reversal) > 20 and any(k.endswith("running_mean") for k in reversal)
            assert all(torch.equal(joint[k], detached[k]) for k in reversal)
            others = [k for k in joint if k.endswith("weight") and k not in reversal and "norm" not in k]
            assert all(not torch.equal(joint[k], detached[k]) for k in others)
        first, second = states[1], states[2]  # the next joint step moves the reversal branch again
        kernels = [k for k in reversal if first[k].dim() == 4]
        assert len(kernels) > 10 and all(not torch.equal(first[k], second[k]) for k in kernels)

    def test_batch_norm_of_the_backbone_branch_moves_in_both_steps(self, cmbn_cfg: Callable) -> None:
        step, states = self.step(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES))
        with EventStorage():
            step.run_step()
        key = "backbone.branches.backbone.layer4.blocks.0.bn1.num_batches_tracked"
        assert (int(states[0][key]), int(states[1][key])) == (1, 2)

    def test_one_step_where_a_component_is_off(self, cmbn_cfg: Callable) -> None:
        for overrides in ((CDS, False), (RB, False)):
            model = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides))
            assert model.update_steps == ("joint",)

    def test_a_trainer_that_knows_one_step_only_is_told_once(self, cmbn_cfg: Callable, caplog: Any) -> None:
        model = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES))
        with caplog.at_level(logging.WARNING, "fastreid_parts.methods.cmbn"):
            logging.getLogger("fastreid_parts.methods.cmbn").addHandler(caplog.handler)
            with torch.no_grad():
                losses_of(model, batch())  # batch-norm statistics are taken of it
            assert not caplog.records
            losses_of(model, batch())
            losses_of(model, batch())
        assert sum("PartsTrainer" in r.message for r in {id(r): r for r in caplog.records}.values()) == 1


class TestInference:
    """After training the reversal branch and the generator are gone, and the mask is one fixed vector."""

    def trained(self, cmbn_cfg: Callable, *overrides: object) -> nn.Module:
        cfg = cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides)
        torch.manual_seed(0)
        model = build_model(cfg)
        optimizer, wrapper = build_optimizer(cfg, model)
        step = TrainStep(model, [batch(), batch(seed=1)], optimizer, wrapper)
        step.iter = 0
        with EventStorage():
            step.run_step()
            step.run_step()
        return model

    def test_mask_is_that_of_the_last_weights(self, cmbn_cfg: Callable) -> None:
        model = self.trained(cmbn_cfg)
        state = model.state_dict()  # saving brings it up to date
        assert torch.equal(state["heads.mask"], model.heads.compute_mask().detach())
        assert state["heads.mask"].shape == (32,)
        assert not torch.allclose(state["heads.mask"], torch.full((32,), 0.5), atol=1e-6)

    def test_evaluation_is_feature_times_mask(self, cmbn_cfg: Callable) -> None:
        model = self.trained(cmbn_cfg).eval()
        feature = model.heads.compression(model.feature_map(batch()["images"]).amax(dim=(2, 3)))
        assert torch.allclose(model(batch()), feature * model.heads.compute_mask(), atol=1e-6)

    @pytest.mark.parametrize("feature", ["embedding", "pooled"])
    def test_deployed_model_equals_the_training_graph_and_costs_what_the_baseline_costs(
        self, cmbn_cfg: Callable, feature: str
    ) -> None:
        model = self.trained(cmbn_cfg, "MODEL.CMBN.FEATURE", feature).eval()
        only = ("MODEL.CMBN.INFERENCE_ONLY", True, "MODEL.CMBN.FEATURE", feature)
        deployed = build_model(cmbn_cfg(*only)).eval()
        deployed.load_state_dict({k: v for k, v in model.state_dict().items() if k in deployed.state_dict()})
        assert torch.equal(deployed(batch()), model(batch()))

        baseline = build_model(cmbn_cfg(*only, RB, False, MG, False))
        count = [sum(p.numel() for p in m.parameters()) for m in (deployed, baseline)]
        assert count[0] == count[1]
        assert count[0] < sum(p.numel() for p in model.parameters()) / 1.8
        modules = [len(list(m.modules())) for m in (deployed, baseline)]
        assert modules[0] == modules[1]

    def test_deployed_model_cannot_be_trained(self, cmbn_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="INFERENCE_ONLY"):
            losses_of(build_model(cmbn_cfg("MODEL.CMBN.INFERENCE_ONLY", True)), batch())

    def test_evaluation_without_the_number_of_identities_uses_the_saved_mask(self, cmbn_cfg: Callable) -> None:
        model = self.trained(cmbn_cfg).eval()
        other = build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", 0))
        state = {k: v for k, v in model.state_dict().items() if not k.startswith(("heads.classifiers", "heads.gen"))}
        other.load_state_dict(state, strict=False)
        assert torch.equal(other.eval()(batch()), model(batch()))

    def test_evaluation_does_not_run_the_reversal_branch(self, cmbn_cfg: Callable) -> None:
        model = self.trained(cmbn_cfg).eval()

        def never(*_: Any) -> None:
            raise AssertionError("the reversal branch ran")

        model.backbone.branches["reversal"]["layer3"].register_forward_hook(never)
        model.backbone.reversal_block.register_forward_hook(never)
        model(batch())


class TestBadSettings:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (("MODEL.CMBN.FEATURE", "both"), "embedding"),
            (("MODEL.HEADS.EMBEDDING_DIM", 0), "EMBEDDING_DIM"),
            (("MODEL.HEADS.POOL_LAYER", "NoPool"), "GlobalMaxPool"),
            (("MODEL.HEADS.CLS_LAYER", "NoSoftmax"), "CircleSoftmax"),
            (("MODEL.HEADS.NECK_FEAT", "beside"), "before"),
        ],
    )
    def test_is_named(self, cmbn_cfg: Callable, overrides: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build_model(cmbn_cfg("MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides))
