"""The losses of pytorch-metric-learning, and the host's circle loss, against plain loops of their definitions."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from pytorch_metric_learning.losses import CircleLoss

from fastreid_parts.losses import BranchLoss, build_losses
from fastreid_parts.losses.library import SphereLoss, contrastive_loss, instance_loss, lifted_loss

from .loops import batch, cosine, distance, pairs, unit


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def sphere_loop(features: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, m: int, normalize: bool) -> float:
    values = []
    for row, target in zip(features.double().tolist(), targets.tolist()):
        length = 1 if normalize else math.hypot(*row)
        cosines = [cosine(row, column) for column in weight.detach().double().t().tolist()]
        theta = math.acos(cosines[target])
        k = math.floor(theta * m / math.pi)
        psi = (-1) ** k * math.cos(m * theta) - 2 * k
        logits = [length * (psi if j == target else c) for j, c in enumerate(cosines)]
        values.append(math.log(sum(math.exp(z) for z in logits)) - logits[target])
    return mean(values)


def lifted_loop(features: torch.Tensor, targets: torch.Tensor, m_p: float, m_n: float) -> float:
    rows, values = [unit(row) for row in features.double().tolist()], []
    for i, (positives, negatives) in enumerate(zip(*pairs(targets))):
        if positives and negatives:
            pull = math.log(sum(math.exp(distance(rows[i], rows[j]) - m_p) for j in positives))
            push = math.log(sum(math.exp(m_n - distance(rows[i], rows[j])) for j in negatives))
            values.append(max(pull + push, 0))
    return mean(values)


def instance_loop(features: torch.Tensor, gamma: float) -> float:
    rows, values = features.double().tolist(), []
    for i, row in enumerate(rows):
        logits = [gamma * cosine(row, other) for other in rows]
        values.append(math.log(sum(math.exp(z) for z in logits)) - logits[i])
    return mean(values)


def contrastive_loop(features: torch.Tensor, targets: torch.Tensor, m_p: float, m_n: float) -> float:
    rows = [unit(row) for row in features.double().tolist()]
    positives, negatives = pairs(targets)
    pull = [max(distance(rows[i], rows[j]) - m_p, 0) for i, p in enumerate(positives) for j in p]
    push = [max(m_n - distance(rows[i], rows[j]), 0) for i, n in enumerate(negatives) for j in n]
    return mean([v for v in pull if v > 0]) + mean([v for v in push if v > 0])


def circle_loop(features: torch.Tensor, targets: torch.Tensor, m: float, gamma: float) -> float:
    rows, values = features.double().tolist(), []
    for i, (positives, negatives) in enumerate(zip(*pairs(targets))):
        near = [cosine(rows[i], rows[j]) for j in positives]
        far = [cosine(rows[i], rows[j]) for j in negatives]
        pull = sum(math.exp(-gamma * max(1 + m - s, 0) * (s - (1 - m))) for s in near)
        push = sum(math.exp(gamma * max(s + m, 0) * (s - m)) for s in far)
        values.append(math.log(1 + pull * push))
    return mean(values)


class TestDefinitions:
    @pytest.mark.parametrize("margin", [1, 2, 3, 4])
    @pytest.mark.parametrize("normalize", [False, True])
    def test_sphere(self, margin: int, normalize: bool) -> None:
        features, targets = batch()
        torch.manual_seed(0)
        loss = SphereLoss(3, 5, margin, normalize)
        expected = sphere_loop(features, targets, loss.softmax.W, margin, normalize)
        assert loss(features, targets).item() == pytest.approx(expected, rel=1e-4)

    def test_sphere_with_margin_1_is_a_softmax_of_cosines(self) -> None:
        features, targets = batch()
        loss = SphereLoss(3, 5, 1, normalize=True)
        cosines = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(loss.softmax.W, dim=0)
        expected = torch.nn.functional.cross_entropy(cosines, targets)
        assert torch.allclose(loss(features, targets), expected, atol=1e-6)

    @pytest.mark.parametrize("margins", [(0.0, 1.0), (0.2, 0.7), (3.0, 0.0)])
    def test_lifted(self, margins: tuple[float, float]) -> None:
        features, targets = batch()
        value = lifted_loss(*margins)(features, targets).item()
        assert value == pytest.approx(lifted_loop(features, targets, *margins), rel=1e-4)

    def test_lifted_where_an_image_is_alone_of_its_identity(self) -> None:
        features, targets = batch()
        targets[0] = 7
        assert lifted_loss()(features, targets).item() == pytest.approx(lifted_loop(features, targets, 0, 1), rel=1e-4)

    @pytest.mark.parametrize("gamma", [1.0, 8.0])
    def test_instance(self, gamma: float) -> None:
        features, targets = batch()
        value = instance_loss(gamma)(features, targets).item()
        assert value == pytest.approx(instance_loop(features, gamma), rel=1e-4)
        assert value == instance_loss(gamma)(features, targets.flip(0)).item()

    @pytest.mark.parametrize("margins", [(0.0, 1.0), (0.5, 1.2)])
    def test_contrastive(self, margins: tuple[float, float]) -> None:
        features, targets = batch()
        value = contrastive_loss(*margins)(features, targets).item()
        assert value == pytest.approx(contrastive_loop(features, targets, *margins), rel=1e-4)

    def test_what_they_are_without_settings(self) -> None:
        """The library's defaults."""
        features, targets = batch()
        for build, settings in ((lifted_loss, (0, 1)), (instance_loss, (64,)), (contrastive_loss, (0, 1))):
            assert torch.equal(build()(features, targets), build(*settings)(features, targets))
        assert (SphereLoss(3, 5).softmax.margin, SphereLoss(3, 5).normalize) == (4, False)

    @pytest.mark.parametrize("m, gamma", [(0.25, 2), (0.4, 32)])
    def test_circle_is_the_papers_and_the_librarys(self, tiny_cfg: Callable, m: float, gamma: int) -> None:
        features, targets = batch()
        term = build(tiny_cfg, "CircleLoss", "MODEL.LOSSES.CIRCLE.MARGIN", m, "MODEL.LOSSES.CIRCLE.GAMMA", gamma)
        gradients = []
        for function in (term, CircleLoss(m=m, gamma=gamma)):
            inputs = features.clone().requires_grad_()
            value = function(inputs, targets)
            value.backward()
            gradients.append(inputs.grad)
            assert value.item() == pytest.approx(circle_loop(features, targets, m, gamma), rel=1e-4)
        assert torch.allclose(*gradients, atol=1e-5)


def build(tiny_cfg: Callable, name: str, *overrides: object) -> BranchLoss:
    """The term of a loss for features of width 5 and six identities."""
    cfg = tiny_cfg("MODEL.LOSSES.NAME", (name,), "MODEL.HEADS.NUM_CLASSES", 6, *overrides)
    (term,) = build_losses(cfg, {"": 5})
    return term


NAMES = ("SphereLoss", "LiftedLoss", "InstanceLoss", "ContrastiveLoss", "CircleLoss")
OF_PAIRS = ("LiftedLoss", "CircleLoss")  # 0 where the batch lacks one kind of pair


@pytest.mark.parametrize("name", NAMES)
class TestEachLoss:
    @pytest.mark.parametrize("targets", [[0, 0, 0, 0], [0, 1, 2, 3], [5], [1, 1, 1, 2]])
    def test_finite_with_a_gradient_whatever_the_batch(self, tiny_cfg: Callable, name: str, targets: list[int]) -> None:
        torch.manual_seed(0)
        features = torch.randn(len(targets), 5, requires_grad=True)
        term = build(tiny_cfg, name, "MODEL.LOSSES.INSTANCE.GAMMA", 1.0)  # with 64, random images are told apart: 0
        value = term(features, torch.tensor(targets))
        value.backward()
        assert value.ndim == 0 and torch.isfinite(value) and torch.isfinite(features.grad).all()
        no_triplet = len(set(targets)) in (1, len(targets))
        if no_triplet and (name in OF_PAIRS or (name == "ContrastiveLoss" and len(targets) == 1)):
            assert value.item() == 0 and features.grad.eq(0).all()
        elif len(targets) > 1:
            assert value.item() > 0

    def test_equal_and_empty_features_have_a_finite_gradient(self, tiny_cfg: Callable, name: str) -> None:
        for fill in (0.0, 1.0):
            features = torch.full((4, 5), fill, requires_grad=True)
            value = build(tiny_cfg, name)(features, torch.tensor([0, 0, 1, 1]))
            value.backward()
            assert torch.isfinite(value) and torch.isfinite(features.grad).all()

    @pytest.mark.parametrize("length", [1e-3, 1e3])
    def test_short_and_long_features(self, tiny_cfg: Callable, name: str, length: float) -> None:
        features, targets = batch(length=length)
        features.requires_grad_()
        value = build(tiny_cfg, name)(features, targets)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(features.grad).all() and features.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CircleLoss"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(tiny_cfg: Callable, name: str, dtype: torch.dtype) -> None:
    features, targets = batch()
    features = features.to(dtype).requires_grad_()
    term = build(tiny_cfg, name)
    value = term(features, targets)
    value.backward()
    assert value.dtype is torch.float32 and features.grad.dtype is dtype
    assert value.item() == pytest.approx(term(features.detach().float(), targets).item())
    if name == "SphereLoss":
        assert all(p.dtype is torch.float32 and p.grad.abs().sum() > 0 for p in term.function.parameters())


class TestConfig:
    def test_names_terms_and_weights(self, tiny_cfg: Callable) -> None:
        names = tuple(name for name in NAMES if name != "CircleLoss")
        sections = ("SPHERE", "LIFTED", "INSTANCE", "CONTRASTIVE")
        scales = [x for i, section in enumerate(sections) for x in (f"MODEL.LOSSES.{section}.SCALE", 0.5 + i)]
        terms = build_losses(tiny_cfg("MODEL.LOSSES.NAME", names, "MODEL.HEADS.NUM_CLASSES", 6, *scales), {"": 5})
        assert [t.term for t in terms] == ["sphere", "lifted", "instance", "contrastive"]
        assert [t.weight for t in terms] == [0.5, 1.5, 2.5, 3.5]
        assert {t.applies_to for t in terms} == {"features"}

    def test_settings_reach_the_losses(self, tiny_cfg: Callable) -> None:
        features, targets = batch()
        settings = "MODEL.LOSSES."
        lifted = build(tiny_cfg, "LiftedLoss", settings + "LIFTED.POS_MARGIN", 0.2, settings + "LIFTED.NEG_MARGIN", 0.7)
        assert torch.equal(lifted(features, targets), lifted_loss(0.2, 0.7)(features, targets))
        instance = build(tiny_cfg, "InstanceLoss", settings + "INSTANCE.GAMMA", 8.0)
        assert torch.equal(instance(features, targets), instance_loss(8.0)(features, targets))
        margins = (settings + "CONTRASTIVE.POS_MARGIN", 0.5, settings + "CONTRASTIVE.NEG_MARGIN", 1.2)
        contrastive = build(tiny_cfg, "ContrastiveLoss", *margins)
        assert torch.equal(contrastive(features, targets), contrastive_loss(0.5, 1.2)(features, targets))
        sphere = build(tiny_cfg, "SphereLoss", settings + "SPHERE.MARGIN", 2, settings + "SPHERE.NORM_FEAT", True)
        (module,) = sphere.function.values()
        assert (module.softmax.margin, module.normalize) == (2, True)
        assert module.softmax.W.shape == (5, 6)

    def test_bad_settings(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match=r"SPHERE\.MARGIN is 0"):
            build(tiny_cfg, "SphereLoss", "MODEL.LOSSES.SPHERE.MARGIN", 0)
        with pytest.raises(ValueError, match=r"INSTANCE\.GAMMA is 0\.0"):
            build(tiny_cfg, "InstanceLoss", "MODEL.LOSSES.INSTANCE.GAMMA", 0.0)


def test_the_library_is_imported_when_it_is_used() -> None:
    code = "import sys, fastreid_parts; assert 'pytorch_metric_learning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
