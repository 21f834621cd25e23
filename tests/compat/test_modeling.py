"""Devices, batches and losses of the host's models."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import defaults
from fastreid.evaluation import evaluator
from fastreid.layers import Non_local, get_norm
from fastreid.layers.pooling import AdaptiveAvgMaxPool, GlobalMaxPool
from fastreid.modeling import build_model
from fastreid.modeling.losses import triplet_loss as host_triplet
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, Baseline
from fastreid.modeling.meta_arch import build as host_build
from fastreid.modeling.meta_arch.mgn import MGN
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts import devices
from fastreid_parts.compat import modeling as patches
from fastreid_parts.compat.overlay import wrap
from fastreid_parts.losses.triplet import batch_hard_triplet

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without CUDA")


def _cfg(*options: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            "MODEL.BACKBONE.DEPTH", "18x",
            "MODEL.BACKBONE.FEAT_DIM", 512,
            "MODEL.HEADS.NUM_CLASSES", 5,
            "MODEL.HEADS.WITH_BNNECK", True,
            "MODEL.DEVICE", "cpu",
        ]
    )  # fmt: skip
    cfg.merge_from_list(list(options))
    return cfg


def _batch(count: int = 4) -> dict:
    torch.manual_seed(0)
    return {
        "images": torch.rand(count, 3, 64, 32) * 255,
        "targets": torch.arange(count) % 2,
        "camids": torch.zeros(count, dtype=torch.long),
        "img_paths": [f"{i}.jpg" for i in range(count)],
    }


class TestSyncBatchNorm:
    @no_cuda
    def test_without_cuda(self) -> None:
        for options in (["MODEL.BACKBONE.NORM", "syncBN"], ["MODEL.HEADS.NORM", "syncBN"]):
            with pytest.raises(ValueError, match="syncBN needs CUDA.*MODEL.BACKBONE.NORM BN.*MODEL.HEADS.NORM BN"):
                build_model(_cfg(*options))

    def test_with_cuda_it_is_the_hosts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        norm = get_norm("syncBN", 3, bias_freeze=True)
        assert isinstance(norm, nn.SyncBatchNorm) and not norm.bias.requires_grad
        # what the message promises
        assert norm.state_dict().keys() == get_norm("BN", 3).state_dict().keys()


@no_cuda
class TestDevice:
    def test_falls_back_with_one_line(self, caplog: pytest.LogCaptureFixture) -> None:
        devices._the_cpu.cache_clear()
        cfg = _cfg("MODEL.DEVICE", "cuda")
        with caplog.at_level(logging.WARNING):
            models = [build_model(cfg), build_model(cfg)]
        assert all(next(model.parameters()).device.type == "cpu" for model in models)
        assert [r.getMessage() for r in caplog.records if "CUDA is not available" in r.getMessage()] == [
            "MODEL.DEVICE is cuda, but CUDA is not available here: using the CPU"
        ]
        assert cfg.MODEL.DEVICE == "cuda"

    def test_without_the_patch_it_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host_build, "torch", torch)
        with pytest.raises((RuntimeError, AssertionError)):
            build_model(_cfg("MODEL.DEVICE", "cuda"))

    def test_a_numbered_device(self) -> None:
        assert next(build_model(_cfg("MODEL.DEVICE", "cuda:1")).parameters()).device.type == "cpu"

    def test_for_whoever_bound_build_model(self) -> None:
        # demo, deployment and training import it from three places; all are the host's own function
        assert build_model is host_build.build_model is defaults.build_model
        assert build_model.__module__ == "fastreid.modeling.meta_arch.build"

    def test_predictor(self) -> None:
        cfg = _cfg("MODEL.DEVICE", "cuda")
        assert defaults.DefaultPredictor(cfg)(_batch()["images"]).shape == (4, 512)


@pytest.fixture(scope="module")
def baseline() -> nn.Module:
    return build_model(_cfg())


class TestPreprocessing:
    @pytest.mark.parametrize("as_dict", [True, False])
    def test_the_batch_stays_as_it_came(self, baseline: nn.Module, as_dict: bool) -> None:
        batch = _batch()
        before = batch["images"].clone()
        got = baseline.preprocess_image(batch if as_dict else batch["images"])
        assert torch.equal(batch["images"], before)
        want = baseline.__class__.preprocess_image.__wrapped__(baseline, {"images": before.clone()})
        torch.testing.assert_close(got, want)

    def test_the_hosts_changes_it(self, baseline: nn.Module) -> None:
        batch = _batch()
        before = batch["images"].clone()
        Baseline.preprocess_image.__wrapped__(baseline, batch)
        assert not torch.equal(batch["images"], before)

    def test_flip_test_sees_a_mirror_image(self, baseline: nn.Module) -> None:
        """A symmetric image has the same features as its mirror image, so their mean is the features."""
        half = torch.rand(2, 3, 64, 16) * 255
        images = torch.cat([half, half.flip(dims=[3])], dim=3)
        seen: list = []

        class Evaluator(evaluator.DatasetEvaluator):
            def process(self, inputs: dict, outputs: torch.Tensor) -> None:
                seen.append(outputs)

        class Loader(list):
            dataset = images

        with evaluator.inference_context(baseline), torch.no_grad():
            want = baseline({"images": images.clone()})
        evaluator.inference_on_dataset(baseline, Loader([{"images": images}]), Evaluator(), flip_test=True)
        assert F.cosine_similarity(seen[0], want).min() > 0.9999

    def test_bytes_and_other_types(self, baseline: nn.Module) -> None:
        images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
        assert baseline.preprocess_image(images).dtype == torch.float32
        with pytest.raises(TypeError, match="list"):
            baseline.preprocess_image([images])

    def test_mgn(self) -> None:
        assert MGN.preprocess_image.__wrapped__ is not Baseline.preprocess_image.__wrapped__
        model = object.__new__(MGN)
        nn.Module.__init__(model)
        model.register_buffer("pixel_mean", torch.full((1, 3, 1, 1), 2.0))
        model.register_buffer("pixel_std", torch.full((1, 3, 1, 1), 4.0))
        images = torch.full((1, 3, 2, 2), 10.0)
        assert torch.equal(model.preprocess_image(images), torch.full((1, 3, 2, 2), 2.0))
        assert torch.equal(images, torch.full((1, 3, 2, 2), 10.0))


class TestBatchDevice:
    def test_targets_follow_the_model(self) -> None:
        class Elsewhere(nn.Module):
            device = torch.device("meta")  # a device that every machine has

            def forward(self, batched_inputs: Any) -> Any:
                return batched_inputs

        wrap(Elsewhere, "forward", patches._forward_on_device)
        batch = _batch()
        seen = Elsewhere()(batch)
        assert {key for key, value in seen.items() if isinstance(value, torch.Tensor) and value.is_meta} == {
            "images", "targets", "camids"
        }  # fmt: skip
        assert seen["img_paths"] == batch["img_paths"]
        assert not batch["targets"].is_meta  # the batch itself stays
        assert Elsewhere()(batch["images"]) is batch["images"]  # as the exporters call a model

    def test_the_hosts_models_do_it(self) -> None:
        for architecture in (Baseline, MGN):
            assert architecture.forward.__wrapped__.__module__.startswith("fastreid.")

    def test_a_training_step(self, baseline: nn.Module) -> None:
        batch = _batch()
        before = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
        with EventStorage():
            losses = baseline.train()(batch)
        assert torch.isfinite(sum(losses.values()))
        assert all(torch.equal(batch[key], value) for key, value in before.items())

    def test_the_sign_of_precise_batch_norm_still_works(self, baseline: nn.Module) -> None:
        batch = _batch()
        batch["targets"].fill_(-1)
        with EventStorage():
            assert baseline.train()(batch)

    @pytest.mark.gpu
    def test_a_batch_on_the_other_device(self) -> None:
        with EventStorage():
            build_model(_cfg("MODEL.DEVICE", "cuda")).train()(_batch())
            on_gpu = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in _batch().items()}
            build_model(_cfg()).train()(on_gpu)


class TestMGNOnAnyBackbone:
    def build(self, last_stride: int) -> nn.Module:
        return build_model(
            _cfg(
                "MODEL.META_ARCHITECTURE", "MGN", "MODEL.BACKBONE.LAST_STRIDE", last_stride,
                "MODEL.HEADS.EMBEDDING_DIM", 8, "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"),
            )
        )  # fmt: skip

    def test_a_training_step_reaches_every_parameter(self) -> None:
        model = self.build(1).train()
        batch = {**_batch(), "images": torch.rand(4, 3, 96, 48) * 255}
        with EventStorage():
            losses = model(batch)
        assert len(losses) == 13 and torch.isfinite(sum(losses.values()))
        sum(losses.values()).backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        model.eval()
        assert model(torch.rand(2, 3, 96, 48)).shape == (2, 8 * 8)

    def test_branches_start_alike_and_are_their_own(self) -> None:
        """As the host's: copies of one stage, which only the first branch down-samples in."""
        model = self.build(2)
        whole, two, three = (neck.state_dict() for neck in (model.b1, model.b2, model.b3))
        assert all(torch.equal(whole[k], two[k]) and torch.equal(whole[k], three[k]) for k in whole)
        assert len({p.data_ptr() for p in model.parameters()}) == len(list(model.parameters()))
        features = model.backbone(torch.rand(1, 3, 96, 48))
        assert model.b1(features).shape[2:] == (3, 2)
        assert model.b2(features).shape[2:] == model.b3(features).shape[2:] == (6, 3)

    @pytest.mark.parametrize("width", [512, 2048])
    def test_resnet50_is_the_hosts_own_whatever_feat_dim_says(self, width: int) -> None:
        cfg = _cfg("MODEL.META_ARCHITECTURE", "MGN", "MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", width)
        model = build_model(cfg)
        assert model.b2[1][0].conv3.out_channels == 2048 and model.b1_head.weight.shape[1] == 2048

    def test_non_local_blocks_are_not_ignored(self) -> None:
        model = build_model(
            _cfg("MODEL.META_ARCHITECTURE", "MGN", "MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.WITH_NL", True)
        )
        assert sum(isinstance(m, Non_local) for m in model.backbone.modules()) == 2  # of layer2, which all share
        assert [sum(isinstance(m, Non_local) for m in neck.modules()) for neck in (model.b1, model.b3)] == [3, 3]


class TestGlobalMaximum:
    """A map of few values has its maxima several times, as one in half precision has."""

    images = torch.randint(0, 3, (4, 5, 6, 3), generator=torch.Generator().manual_seed(0)).float()

    @pytest.mark.parametrize("layer", [GlobalMaxPool(), AdaptiveAvgMaxPool()], ids=lambda layer: type(layer).__name__)
    def test_in_evaluation_it_has_a_form_in_every_exporter(self, layer: nn.Module) -> None:
        with torch.no_grad():
            program = torch.export.export(layer.eval(), (self.images,), dynamic_shapes=({0: torch.export.Dim("n")},))
        assert "adaptive_max_pool2d" not in str(program.graph)
        assert torch.equal(program.module()(self.images[:1]), layer(self.images[:1]))

    @pytest.mark.parametrize("size", [1, (1, 1), (3, 1)])
    def test_values_and_what_a_training_step_sees_are_the_hosts(self, size: Any) -> None:
        layer, theirs = GlobalMaxPool(size), nn.AdaptiveMaxPool2d(size)
        assert torch.equal(layer.eval()(self.images), theirs(self.images))
        ours, expected = (self.images.clone().requires_grad_() for _ in range(2))
        layer.train()(ours).sum().backward()
        theirs(expected).sum().backward()
        assert torch.equal(ours.grad, expected.grad)


class TestLosses:
    @pytest.mark.parametrize("name", ["FocalLoss", "TripletLos", "BinaryCrossEntropyLoss"])
    def test_unknown_to_baseline(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"Baseline does not compute {name}.*Known: CircleLoss, Cosface, CrossEn"):
            build_model(_cfg("MODEL.LOSSES.NAME", ("CrossEntropyLoss", name)))

    @pytest.mark.parametrize("name", ["CircleLoss", "Cosface"])
    def test_never_computed_by_mgn(self, name: str) -> None:
        cfg = _cfg("MODEL.META_ARCHITECTURE", "MGN", "MODEL.LOSSES.NAME", ("CrossEntropyLoss", name))
        with pytest.raises(ValueError, match=f"MGN does not compute {name}.*Known: CrossEntropyLoss, TripletLoss$"):
            build_model(cfg)

    def test_every_known_loss_is_computed(self) -> None:
        names = ("CrossEntropyLoss", "TripletLoss", "CircleLoss", "Cosface")
        model = build_model(_cfg("MODEL.LOSSES.NAME", names)).train()
        with EventStorage():
            assert len(model(_batch())) == len(names)

    @pytest.mark.parametrize("name", ["Baseline", "MGN"])
    @pytest.mark.parametrize(
        ("form", "margin", "hard_mining", "squared", "normed", "computed"),
        [
            ("soft_margin", 0.0, True, False, False, True),
            ("hinge", 0.3, True, False, False, True),
            ("soft_margin", 0.3, True, False, False, False),
            ("hinge", 0.0, True, False, False, False),
            ("hinge", 0.3, False, False, False, False),
            ("hinge", 0.3, True, True, False, False),
            ("hinge", 0.3, True, False, True, False),
            ("hinge", 0.3, True, True, True, True),
        ],
    )
    def test_a_form_of_triplets_that_the_host_does_not_compute(
        self, name: str, form: str, margin: float, hard_mining: bool, squared: bool, normed: bool, computed: bool
    ) -> None:
        cfg = _cfg(
            "MODEL.META_ARCHITECTURE", name, "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"),
            "MODEL.LOSSES.TRI.FORM", form, "MODEL.LOSSES.TRI.MARGIN", margin,
            "MODEL.LOSSES.TRI.HARD_MINING", hard_mining, "MODEL.LOSSES.TRI.SQUARED", squared,
            "MODEL.LOSSES.TRI.NORM_FEAT", normed,
        )  # fmt: skip
        if computed:
            features, targets = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) // 2
            ours = batch_hard_triplet(features, targets, margin, form == "soft_margin", normed, squared)
            assert torch.allclose(ours, host_triplet(features, targets, margin, normed, hard_mining), atol=1e-5)
            return patches.check_losses(cfg)
        with pytest.raises(ValueError, match=f"TRI.FORM is '{form}', and {name} .*PartsBaseline"):
            patches.check_losses(cfg)
        cfg.MODEL.LOSSES.NAME = ("CrossEntropyLoss",)
        return patches.check_losses(cfg)

    def test_features_that_the_hosts_models_have_not(self) -> None:
        with pytest.raises(ValueError, match="TEST.FEATURES is .*this Baseline does not read it"):
            build_model(_cfg("TEST.FEATURES", ("global",)))

    def test_heirs_of_the_hosts_losses(self) -> None:
        cfg = _cfg("MODEL.META_ARCHITECTURE", "MoCo", "MODEL.LOSSES.NAME", ("FocalLoss",))
        with pytest.raises(ValueError, match="MoCo does not compute FocalLoss"):
            build_model(cfg)

    def test_an_architecture_with_losses_of_its_own(self) -> None:
        class OwnLosses(Baseline):
            def losses(self, outputs: Any, gt_labels: torch.Tensor) -> dict:
                return {}

        patches.check_losses(_cfg("MODEL.LOSSES.NAME", ("OwnLoss",)), OwnLosses)
        assert OwnLosses(_cfg("MODEL.LOSSES.NAME", ("OwnLoss",))).loss_kwargs["loss_names"] == ("OwnLoss",)

    def test_the_architecture_of_the_config(self) -> None:
        patches.check_losses(_cfg())
        with pytest.raises(ValueError, match="Baseline"):
            patches.check_losses(_cfg("MODEL.LOSSES.NAME", ("FocalLoss",)))
        assert META_ARCH_REGISTRY.get("Baseline") is Baseline


SMALL = ("INPUT.SIZE_TRAIN", [64, 32])


class TestBackbones:
    """Widths and depths of the host's backbones, under its own architectures and the plugin's."""

    @pytest.mark.parametrize(
        ("name", "depth", "channels"),
        [
            ("build_osnet_backbone", "x0_25", 128),
            ("build_mobilenetv2_backbone", "0.5x", 1280),
            ("build_regnet_backbone", "200x", 368),
            ("build_vit_backbone", "small", 768),
        ],
    )
    def test_feat_dim_is_found_or_named(self, name: str, depth: str, channels: int) -> None:
        """JDAI-CV/fast-reid#317 and #305: running_mean should contain 2048 elements, in the first iteration."""
        options = (*SMALL, "MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.DEPTH", depth)
        with pytest.raises(ValueError, match=f"FEAT_DIM is 512, and the maps of {name} .* set .*FEAT_DIM {channels}$"):
            build_model(_cfg(*options))
        with EventStorage():
            for more in (
                ("MODEL.BACKBONE.FEAT_DIM", channels),
                ("MODEL.META_ARCHITECTURE", "PartsBaseline"),
            ):
                assert torch.isfinite(sum(build_model(_cfg(*options, *more)).train()(_batch()).values()))

    @pytest.mark.parametrize("architecture", ["Baseline", "PartsBaseline"])
    @pytest.mark.parametrize("size", [[0], [256]])
    def test_a_size_of_training_images_that_is_no_height_and_width(self, architecture: str, size: list[int]) -> None:
        """fast-reid's transforms crop such images, or resize their shorter side."""
        options = ("INPUT.CROP.ENABLED", True, "MODEL.META_ARCHITECTURE", architecture, "MODEL.BACKBONE.LAST_STRIDE", 1)
        mobile = ("MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone", "MODEL.BACKBONE.DEPTH", "0.1x")
        cfg = _cfg(*options, *mobile, "INPUT.SIZE_TRAIN", size, "MODEL.BACKBONE.FEAT_DIM", 1280)
        assert build_model(cfg).eval()(_batch()).shape == (4, 1280)

    def test_a_resnet_that_is_not_512_wide(self) -> None:
        with pytest.raises(
            ValueError, match="FEAT_DIM is 2048.*build_resnet_backbone with DEPTH 18x have 512 channels"
        ):
            build_model(_cfg("MODEL.BACKBONE.FEAT_DIM", 2048))

    @pytest.mark.parametrize(
        ("name", "known"),
        [
            ("build_resnet_backbone", "; it knows 18x, 34x, 50x, 101x$"),
            ("build_osnet_backbone", "; it knows x1_0, x0_75, x0_5, x0_25$"),
            ("build_repvgg_backbone", "; it knows A0, A1, "),
            ("build_shufflenetv2_backbone", "$"),
            ("build_mobilenetv3_backbone", "$"),
        ],
    )
    def test_an_unknown_depth(self, name: str, known: str) -> None:
        """JDAI-CV/fast-reid#545: which DEPTH another backbone takes is said nowhere but in its source."""
        with pytest.raises(ValueError, match=f"MODEL.BACKBONE.DEPTH is '7x', which {name} does not know{known}"):
            build_model(_cfg("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.DEPTH", "7x"))

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("MODEL.BACKBONE.NORM", "is 'BNN'; it is one of BN, syncBN"),
            ("MODEL.HEADS.NORM", "is 'BNN'; it is one of BN, syncBN, GhostBN, GN. Did you mean BN"),
            ("MODEL.HEADS.POOL_LAYER", "is 'BNN'; it is one of Identity, Flatten, GlobalAvgPool"),
            ("MODEL.HEADS.CLS_LAYER", "is 'BNN'; it is one of Linear, ArcSoftmax"),
        ],
    )
    @pytest.mark.parametrize("architecture", ["Baseline", "PartsBaseline"])
    def test_an_unknown_layer(self, key: str, message: str, architecture: str) -> None:
        with pytest.raises(ValueError, match=f"{key} {message}"):
            build_model(_cfg(key, "BNN", "MODEL.META_ARCHITECTURE", architecture))

    @pytest.mark.parametrize("error", [KeyError("conv9"), ValueError("no weights for ibn_18x")])
    def test_an_error_of_another_kind_stays(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        def fails(cfg: CfgNode) -> nn.Module:
            raise error

        for module in ("fastreid.own", "own"):
            fails.__module__ = module
            monkeypatch.setitem(patches.BACKBONE_REGISTRY._obj_map, "fails", fails)
            with pytest.raises(type(error)) as raised:
                build_model(_cfg("MODEL.BACKBONE.NAME", "fails"))
            assert raised.value is error

    @pytest.mark.parametrize(
        ("architecture", "name", "depth", "stride", "logged"),
        [
            ("PartsBaseline", "build_mobilenetv2_backbone", "0.1x", 2, False),
            ("PartsBaseline", "build_mobilenetv2_backbone", "0.1x", 1, False),
            ("Baseline", "build_mobilenetv2_backbone", "0.1x", 2, False),
            ("Baseline", "build_mobilenetv2_backbone", "0.1x", 1, True),
            ("Baseline", "build_osnet_backbone", "x0_25", 1, False),
            ("PartsBaseline", "build_osnet_backbone", "x0_25", 2, True),
        ],
    )
    def test_the_log_says_where_the_last_stride_is_another(
        self, architecture: str, name: str, depth: str, stride: int, logged: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = ("MODEL.META_ARCHITECTURE", architecture, "MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.DEPTH", depth)
        cfg = _cfg(*SMALL, *options, "MODEL.BACKBONE.LAST_STRIDE", stride)
        cfg.MODEL.BACKBONE.FEAT_DIM = 1280 if "mobile" in name else 128
        with caplog.at_level(logging.WARNING):
            build_model(cfg)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == logged
        assert all(f"MODEL.BACKBONE.LAST_STRIDE is {stride}, which has no effect on {name}" in line for line in lines)

    def test_a_key_without_effect_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        osnet = ("MODEL.BACKBONE.NAME", "build_osnet_backbone", "MODEL.BACKBONE.DEPTH", "x0_25")
        with caplog.at_level(logging.WARNING):
            build_model(_cfg("MODEL.BACKBONE.WITH_IBN", True))
        assert not caplog.records
        with caplog.at_level(logging.WARNING):
            build_model(_cfg("MODEL.BACKBONE.WITH_NL", True))  # which the host has for 50x and 101x
            build_model(_cfg(*osnet, "MODEL.BACKBONE.FEAT_DIM", 128, "MODEL.BACKBONE.WITH_SE", True))
        assert [record.getMessage() for record in caplog.records] == [
            "MODEL.BACKBONE.WITH_NL is True, which has no effect on build_resnet_backbone with DEPTH 18x",
            "MODEL.BACKBONE.WITH_SE is True, which has no effect on build_osnet_backbone with DEPTH x0_25",
        ]


@pytest.mark.parametrize("architecture", ["MGN", "BalancedMGN"])
def test_mgn_finds_its_width(architecture: str) -> None:
    cfg = _cfg("MODEL.META_ARCHITECTURE", architecture, "MODEL.BACKBONE.DEPTH", "50x", "MODEL.HEADS.EMBEDDING_DIM", 8)
    assert cfg.MODEL.BACKBONE.FEAT_DIM == 512 and build_model(cfg).eval()(torch.rand(2, 3, 96, 48)).shape == (2, 8 * 8)


def test_no_loss_at_all() -> None:
    with pytest.raises(ValueError, match="MODEL.LOSSES.NAME is empty; Baseline knows CircleLoss, Cosface"):
        build_model(_cfg("MODEL.LOSSES.NAME", ()))


def test_models_are_still_picklable(baseline: nn.Module) -> None:
    again = pickle.loads(pickle.dumps(baseline))
    assert isinstance(again, Baseline)
    torch.testing.assert_close(again.state_dict(), baseline.state_dict(), rtol=0, atol=0)
