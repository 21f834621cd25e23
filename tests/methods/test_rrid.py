"""RRID against its paper and its authors' recipe: equations as plain loops, parts, switches, dimensions."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.engine.solver import parameter_settings
from fastreid_parts.layers import balanced_bounds, contrast, maxima_per_row
from fastreid_parts.methods.rrid import RRIDHead, RRIDSettings, rest_matrix

from .plain_rrid import PlainRRIDHead
from .tester import IDENTITIES, MethodTester, batch, build_head, stripes_of

# 48 rows of an image are three of the map: the tests' images are taller
SIZE = (96, 24)
OVERRIDES = (
    "MODEL.META_ARCHITECTURE", "RRID",
    "MODEL.HEADS.NAME", "RRIDHead",
    "MODEL.HEADS.WITH_BNNECK", False,
    "MODEL.HEADS.EMBEDDING_DIM", 8,
    "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"),
    "MODEL.LOSSES.TRI.MARGIN", 1.2,
    "MODEL.LOSSES.TRI.HARD_MINING", True,
    "MODEL.BACKBONE.LAST_STRIDE", 1,
    "MODEL.RRID.PARTS", [2, 3],
    "INPUT.SIZE_TRAIN", list(SIZE),
    "INPUT.SIZE_TEST", list(SIZE),
)  # fmt: skip


def head(feat_dim: int = 12, **overrides: Any) -> RRIDHead:
    return build_head(RRIDHead, feat_dim, **{"embedding_dim": 5, "num_classes": 4, **overrides})


class TestRRID(MethodTester):
    overrides = OVERRIDES
    dimension = 8 * (2 + 3 + 2)
    variants = (
        (),
        ("MODEL.RRID.CONTRAST", "avg_minus_max"),
        ("MODEL.RRID.REDUCTION", "conv"),
        ("MODEL.RRID.CLASSIFY", "final"),
        ("MODEL.RRID.CLASSIFIER_BIAS", False),
        ("MODEL.RRID.TRIPLET", "concatenation"),
        ("MODEL.RRID.RELATION", "rest"),
        ("MODEL.RRID.RELATION", "none"),
        ("MODEL.RRID.GLOBAL_POOL", "gap_gmp"),
        ("MODEL.RRID.GLOBAL_POOL", "none", "MODEL.RRID.LOCAL_POOL", "gap", "MODEL.RRID.RELATION", "none"),
        ("MODEL.RRID.GLOBAL_POOL", "gap", "MODEL.RRID.LOCAL_POOL", "none"),
        ("MODEL.RRID.GLOBAL_POOL", "gem", "MODEL.RRID.LOCAL_POOL", "gem"),
        ("MODEL.RRID.LOCAL_POOL", "gem", "MODEL.HEADS.WITH_BNNECK", True),
        ("MODEL.HEADS.NAME", "CGEHead", "MODEL.CGE.HEAD", "RRIDHead"),
    )
    size = SIZE


def _parts(feature_map: torch.Tensor, count: int) -> list[torch.Tensor]:
    rows = feature_map.shape[2] // count
    return [feature_map[:, :, i * rows : (i + 1) * rows].amax(dim=(2, 3)) for i in range(count)]


class TestEquations:
    feature_map = torch.randn(3, 12, 12, 4, generator=torch.Generator().manual_seed(3))

    @pytest.mark.proves("rrid", level=1)
    def test_rest_is_the_mean_of_the_other_parts(self) -> None:
        parts = torch.randn(2, 10, 7)
        rest = torch.einsum("ij,njc->nic", rest_matrix([4, 6]), parts)
        for first, count in ((0, 4), (4, 6)):
            for i in range(count):
                others = [parts[:, first + j] for j in range(count) if j != i]
                assert torch.allclose(rest[:, first + i], sum(others) / (count - 1), atol=1e-6)

    def test_contrast_of_the_code_and_of_the_text(self) -> None:
        parts = torch.rand(2, 6, 7)
        for n in range(2):
            for c in range(7):
                values = sorted(float(v) for v in parts[n, :, c])
                assert float(contrast(parts, "rest_mean")[n, c]) == pytest.approx(sum(values[:-1]) / 5, abs=1e-6)
                text = sum(values) / 6 - values[-1]
                assert float(contrast(parts, "avg_minus_max")[n, c]) == pytest.approx(text, abs=1e-6)
        assert (contrast(parts, "rest_mean") >= 0).all() and (contrast(parts, "avg_minus_max") <= 0).all()

    @pytest.mark.proves("rrid", level=1)
    def test_the_batched_head_is_the_plain_one(self) -> None:
        """Eq. (1) and Eq. (2), all classifiers, and the gradient of all of it."""
        batched = head().double()  # batch norm over three images: float32 leaves little of a gradient
        for parameter in batched.parameters():  # batch norm has weights to get wrong
            nn.init.normal_(parameter, std=0.5)
        plain = PlainRRIDHead(batched).double()
        targets = torch.tensor([0, 1, 2])
        one, other = (self.feature_map.double().requires_grad_() for _ in range(2))
        outputs = batched(one, targets)
        features, logits = plain(other)
        assert len(outputs.logits) == len(logits) == 45 and len(outputs.features) == len(features) == 15
        for got, expected in zip(outputs.features.values(), features):
            assert torch.allclose(got, expected, atol=1e-4)
        for got, expected in zip(outputs.logits.values(), logits):
            assert torch.allclose(got, expected, atol=1e-4)
        sum(F.cross_entropy(x, targets) for x in outputs.logits.values()).backward()
        sum(F.cross_entropy(x, targets) for x in logits).backward()
        assert torch.allclose(one.grad, other.grad, atol=1e-4)

    def test_eq_1_with_the_rest_alone(self) -> None:
        module = head(relation="rest", parts=[3], global_pool="none").eval()
        parts = _parts(self.feature_map, 3)
        for i in range(3):
            rest = sum(parts[j] for j in range(3) if j != i) / 2
            weights, biases = module.reduction.conv.weight, module.reduction.conv.bias
            # batch norm at its start, in evaluation, divides by sqrt(1 + eps)
            p, r = (
                F.relu(x @ weights[g].t() + biases[g]) / (1 + 1e-5) ** 0.5 for x, g in ((parts[i], i), (rest, 3 + i))
            )
            support = F.relu(r @ module.local_relation.conv.weight[i].t() + module.local_relation.conv.bias[i])
            expected = p + support / (1 + 1e-5) ** 0.5
            assert torch.allclose(module(self.feature_map)[:, i * 5 : i * 5 + 5], expected, atol=1e-5)

    @pytest.mark.parametrize("pool", ["gap", "gmp", "gap_gmp"])
    def test_table_2_global_pooling_is_of_the_whole_map(self, pool: str) -> None:
        module = head(global_pool=pool, local_pool="none", relation="none", parts=[6]).eval()
        average, maximum = self.feature_map.mean(dim=(2, 3)), self.feature_map.amax(dim=(2, 3))
        pooled = {"gap": average, "gmp": maximum, "gap_gmp": average + maximum}[pool]
        conv = module.reduction.conv
        expected = F.relu(pooled @ conv.weight[0].t() + conv.bias[0]) / (1 + 1e-5) ** 0.5
        assert torch.allclose(module(self.feature_map), expected, atol=1e-5)

    @pytest.mark.proves("rrid", level=1)
    def test_eq_3_4_sum_over_features_mean_over_images(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg(*OVERRIDES, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, "MODEL.LOSSES.CE.SCALE", 2.0,
                       "MODEL.LOSSES.CE.EPSILON", 0.0)  # fmt: skip
        model = build_model(cfg)
        targets = batch()["targets"]
        features = torch.rand(6, 512, 6, 2)
        outputs = model.heads(features, targets)
        expected_ce = 0.0
        for logits in outputs.logits.values():
            for n in range(6):
                expected_ce -= 2 * float(logits[n].detach().log_softmax(0)[targets[n]]) / 6
        expected_triplet = 0.0
        for q in outputs.features.values():
            for a in range(6):
                distance = [float((q[a] - q[b]).norm()) for b in range(6)]
                positive = max(d for d, t in zip(distance, targets) if t == targets[a])
                negative = min(d for d, t in zip(distance, targets) if t != targets[a])
                expected_triplet += max(0.0, 1.2 + positive - negative) / 6
        losses = model.losses(outputs, targets)
        triplet = sum(float(v) for k, v in losses.items() if k.startswith("loss_triplet"))
        assert triplet == pytest.approx(expected_triplet, rel=1e-3)
        assert sum(map(float, losses.values())) - triplet == pytest.approx(expected_ce, rel=1e-4)


class TestRelations:
    def test_a_parts_own_feature_plays_no_role_in_its_rest(self) -> None:
        parts = torch.randn(2, 12, 7, requires_grad=True)
        rest = torch.einsum("ij,njc->nic", rest_matrix([2, 4, 6]), parts)
        for i in range(12):
            (gradient,) = torch.autograd.grad(rest[:, i].sum(), parts, retain_graph=True)
            assert not gradient[:, i].any()
        (gradient,) = torch.autograd.grad(rest[:, 7].sum(), parts)
        assert gradient[:, [6, 8, 9, 10, 11]].all() and not gradient[:, :6].any()  # its own scale alone

    def test_permuted_parts_with_permuted_weights_permute_the_local_features(self) -> None:
        module = head(parts=[4], global_pool="none").eval()
        feature_map = torch.randn(2, 12, 8, 3)
        before = module(feature_map).view(2, 4, 5)
        order = torch.tensor([2, 0, 3, 1])
        with torch.no_grad():
            for layer in (module.reduction.conv, module.local_relation.conv):
                index = torch.cat([order, order + 4])[: layer.weight.shape[0]]
                layer.weight.copy_(layer.weight[index])
                layer.bias.copy_(layer.bias[index])
        permuted = feature_map.unflatten(2, (4, 2))[:, :, order].flatten(2, 3)
        assert torch.allclose(module(permuted).view(2, 4, 5), before[:, order], atol=1e-6)


class TestDimensions:
    @pytest.mark.parametrize(("parts", "dimension", "classifiers"), [([6], 1792, 21), ([2, 4, 6], 3840, 45)])
    def test_of_the_papers_settings(self, parts: list[int], dimension: int, classifiers: int) -> None:
        module = head(feat_dim=2048, embedding_dim=256, num_classes=751, parts=parts).eval()
        assert module(torch.rand(2, 2048, 24, 8)).shape == (2, dimension)
        assert module.classifiers.weight.shape == (classifiers, 751, 256)
        count = sum(p.numel() for p in module.parameters())
        scales, total = len(parts), sum(parts)
        reductions = (2 * scales + 2 * total) * (2048 * 256 + 256 + 512)
        relations = (scales + total) * (512 * 256 + 256 + 512)
        assert count == reductions + relations + classifiers * (256 * 751 + 751)
        print(f"RRID {parts}: {dimension} dimensions, {count:,} parameters in the head")

    def test_names_follow_the_order_of_the_features(self) -> None:
        module = head(parts=[2, 3], embedding_dim=4)
        assert module.feature_names == [
            "global_of_2", "global_of_3", "part_1_of_2", "part_2_of_2", "part_1_of_3", "part_2_of_3", "part_3_of_3",
        ]  # fmt: skip
        outputs = module(torch.rand(3, 12, 12, 4), torch.tensor([0, 1, 2]))
        assert list(outputs.features) == module.feature_names


class TestSingleFeatures:
    def test_evaluation_with_named_features_alone(self, tiny_cfg: Callable) -> None:
        def build(*overrides: object) -> nn.Module:
            torch.manual_seed(0)
            return build_model(tiny_cfg(*OVERRIDES, *overrides)).eval()

        images = batch(size=SIZE)["images"]
        whole = build()(images).view(6, 7, 8)
        chosen = build("TEST.FEATURES", ["part_2_of_3", "global_of_2"])(images)
        assert torch.equal(chosen, torch.cat([whole[:, 5], whole[:, 0]], dim=1))
        with pytest.raises(
            ValueError, match="TEST.FEATURES has part_1_of_9; the features of this head are global_of_2"
        ):
            build("TEST.FEATURES", ["part_1_of_9"])


class TestLearningRates:
    def test_backbone_1e_3_and_the_rest_1e_2(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg(*OVERRIDES, "MODEL.HEADS.NUM_CLASSES", 4, "SOLVER.BASE_LR", 1e-3, "SOLVER.HEADS_LR_FACTOR", 10.0)
        model = build_model(cfg)
        names = {parameter: name for name, parameter in model.named_parameters()}
        rates = {names[s["params"][0]]: s["lr"] for s in parameter_settings(cfg, model)}
        assert set(rates) == set(names.values())
        for name, rate in rates.items():
            assert rate == pytest.approx(1e-3 if name.startswith("backbone.") else 1e-2), name


def uneven_map(channels: int) -> torch.Tensor:
    """Six rows; the images have their maxima at different heights."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(4, 1, 6, 1, generator=generator) ** 3
    return torch.rand(4, channels, 6, 3, generator=generator) * (0.2 + rows)


class TestBalancedParts:
    @pytest.fixture
    def make(self, tiny_cfg: Callable) -> Callable[..., RRIDHead]:
        def build(*overrides: object) -> RRIDHead:
            torch.manual_seed(0)
            return build_model(tiny_cfg(*OVERRIDES, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides)).heads

        return build

    @pytest.mark.parametrize(("abp_pool", "local_pool"), [("max", "gmp"), ("avg", "gmp"), ("layer", "gem")])
    def test_pools_the_balanced_parts_of_each_image(self, make: Callable, abp_pool: str, local_pool: str) -> None:
        overrides = ("MODEL.ABP.MODE", "test", "MODEL.ABP.POOL", abp_pool, "MODEL.RRID.LOCAL_POOL", local_pool)
        head = make(*overrides).eval()
        feature_map = uneven_map(512)
        bounds = balanced_bounds(maxima_per_row(feature_map), 3)
        assert len({tuple(row) for row in bounds.tolist()}) > 1

        def pool(part: torch.Tensor) -> torch.Tensor:
            by_name = {"max": part.amax(dim=(2, 3)), "avg": part.mean(dim=(2, 3))}
            return by_name[abp_pool] if abp_pool in by_name else head.part_pool_layer(part).flatten(1)

        parts, maxima = [], []
        for image in feature_map:
            cut = [stripe for p in (2, 3) for stripe in stripes_of(image, p)]
            parts.append(torch.cat([pool(stripe) for stripe in cut]))
            maxima.append(torch.cat([stripe.amax(dim=(2, 3)) for stripe in cut]))
        parts, maxima = torch.stack(parts), torch.stack(maxima)  # (N, 5, C)
        assert torch.allclose(head.pool_parts(feature_map, head.part_pool_layer), parts, atol=1e-5)

        # All that the head makes of parts: maxima and contrasts of the scales 2 and 3, parts, rests
        by_scale = list(zip(parts.split([2, 3], dim=1), maxima.split([2, 3], dim=1)))
        rests = [(p.sum(dim=1, keepdim=True) - p) / (p.shape[1] - 1) for p, _ in by_scale]
        highest = torch.stack([m.amax(dim=1) for _, m in by_scale], dim=1)
        contrasts = torch.stack([contrast(m, "rest_mean") for _, m in by_scale], dim=1)
        inputs = torch.cat([highest, contrasts, parts, *rests], dim=1)
        made_of = head.reduce(feature_map)
        assert torch.allclose(torch.cat(list(made_of.values()), dim=1), head.reduction(inputs), atol=1e-5)

    def test_balanced_when_it_is_told_to(self, make: Callable) -> None:
        feature_map = uneven_map(512)
        heads = {mode: make("MODEL.ABP.MODE", mode) for mode in ("off", "test", "always")}
        assert len({tuple(head.state_dict()) for head in heads.values()}) == 1  # a checkpoint fits all of them
        for training in (False, True):
            pooled = {m: h.train(training).pool_parts(feature_map, h.part_pool_layer) for m, h in heads.items()}
            assert torch.equal(pooled["test"], pooled["off"]) == training
            assert not torch.equal(pooled["always"], pooled["off"])

    def test_balanced_parts_need_no_divisible_height(self, make: Callable) -> None:
        feature_map = torch.rand(2, 512, 5, 3)
        with pytest.raises(ValueError, match="does not divide the 5 rows"):
            make().eval()(feature_map)
        assert make("MODEL.ABP.MODE", "test").eval()(feature_map).shape == (2, 7 * 8)


def test_a_relation_that_nothing_has_is_none() -> None:
    """Without parts there is nothing to relate: features and fingerprints are the same."""
    usual = RRIDSettings()
    kinds = [dataclasses.replace(usual, local_pool="none", relation=kind) for kind in ("none", "rest")]
    assert kinds[0].feature_settings() == kinds[1].feature_settings()
    assert dataclasses.replace(usual, relation="none").feature_settings() != usual.feature_settings()


class TestErrors:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"relation": "all_pairs"}, "MODEL.RRID.RELATION is 'all_pairs'; it is one of one_vs_rest"),
            ({"test_feat": "both"}, "MODEL.HEADS.TEST_FEAT is 'both'"),
            ({"parts": []}, r"MODEL.RRID.PARTS is \[\]"),
            ({"parts": [0, 2]}, r"MODEL.RRID.PARTS is \[0, 2\]; it is at least 1"),
            ({"parts": [6, 6]}, r"MODEL.RRID.PARTS is \[6, 6\]; .* each number once"),
            ({"parts": [1, 2]}, "a single part has no rest"),
            ({"parts": [1, 2], "global_pool": "gap"}, "a single part has no rest"),
            ({"parts": [1, 2], "relation": "none"}, "a single part has no rest"),
            ({"global_pool": "none", "local_pool": "none"}, "no feature is left"),
            ({"embedding_dim": 0}, "EMBEDDING_DIM must be positive"),
        ],
    )
    def test_settings(self, overrides: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            head(**overrides)

    def test_a_single_part_where_nothing_is_compared(self) -> None:
        module = head(parts=[1, 2], global_pool="gap", relation="none").eval()
        assert module(torch.rand(2, 12, 12, 4)).shape == (2, 5 * (2 + 3))

    @pytest.mark.parametrize(
        ("overrides", "size", "message"),
        [
            ((), [80, 24], r"INPUT.SIZE_TEST is \[80, 24\], and MODEL.RRID.PARTS has 2, 3, .* the 5 rows"),
            (("MODEL.ABP.MODE", "test"), [80, 24], ""),
            (("MODEL.ABP.MODE", "test"), [32, 24], "and a feature map of 2 rows cannot be cut into 3 stripes"),
            (("MODEL.RRID.GLOBAL_POOL", "gmp", "MODEL.RRID.LOCAL_POOL", "none"), [80, 24], ""),
            (("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [80, 24]), [96, 24], r"INPUT.CROP.SIZE is \[80, 24\]"),
            (("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [96, 24]), [80, 24], ""),
            ((), [0], ""),
            ((), [80], ""),  # the shorter side
        ],
    )
    def test_a_size_of_the_test_that_parts_do_not_divide(
        self, tiny_cfg: Callable, overrides: tuple, size: list, message: str
    ) -> None:
        cfg = tiny_cfg(*OVERRIDES, *overrides, "INPUT.SIZE_TEST", size)
        with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
            build_model(cfg)

    def test_the_size_of_the_test_is_checked_without_a_random_number(self, tiny_cfg: Callable) -> None:
        states = []
        for size in ([0], [192, 48]):
            torch.manual_seed(0)
            build_model(tiny_cfg(*OVERRIDES, "INPUT.SIZE_TEST", size))
            states.append(torch.random.get_rng_state())
        assert torch.equal(*states)

    def test_parts_that_do_not_divide_the_height(self) -> None:
        with pytest.raises(ValueError, match="PARTS has 4, 6, which does not divide the 10 rows of the feature map"):
            head()(torch.rand(2, 12, 10, 4), torch.tensor([0, 1]))
