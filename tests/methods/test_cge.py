"""CGE against its paper: equations as plain loops, what the memory holds and when, and what inference keeps."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.engine.defaults import DefaultTrainer
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts.engine import PartsTrainer
from fastreid_parts.methods import cge
from fastreid_parts.methods.cge import (
    CGESettings,
    LocalClassifiers,
    LogitsRevise,
    local_cosines,
    local_weights,
    memory_momentum,
    update_memory,
)
from fastreid_parts.parts_head import BranchOutputs

from ..conftest import CMBN
from .tester import IDENTITIES, MethodTester, batch, losses_of

BOT = (
    "MODEL.META_ARCHITECTURE", "PartsBaseline",
    "MODEL.HEADS.NAME", "CGEHead",
    "MODEL.HEADS.POOL_LAYER", "GlobalAvgPool",
    "MODEL.HEADS.TEST_FEAT", "before",
    "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"),
)  # fmt: skip
AGW = ("MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP")
SETTINGS = CGESettings(alpha="linear", alpha_value=0.0)
PLAIN = ("MODEL.HEADS.NAME", "GlobalHead")
LOCAL_ONLY = (
    "MODEL.META_ARCHITECTURE", "RRID", "MODEL.RRID.GLOBAL_POOL", "none", "MODEL.RRID.PARTS", [3],
    "MODEL.HEADS.EMBEDDING_DIM", 8, "MODEL.HEADS.TEST_FEAT", "after", "MODEL.HEADS.POOL_LAYER", "GlobalAvgPool",
    "MODEL.BACKBONE.LAST_STRIDE", 1,
)  # fmt: skip


class TestCGE(MethodTester):
    overrides = BOT
    dimension = 512
    variants = (
        (),
        AGW,
        ("MODEL.META_ARCHITECTURE", "Baseline"),
        ("MODEL.CGE.HEAD", "ClassMapHead", "MODEL.HEADS.WITH_BNNECK", False),
        ("MODEL.CGE.HEAD", "EmbeddingHead", "MODEL.HEADS.TEST_FEAT", "after"),
        ("MODEL.CGE.REVISE", False),
        ("MODEL.CGE.DETACH_LOCAL", True),
        ("MODEL.CGE.NUM_STRIPES", 1),
        ("MODEL.HEADS.CLS_LAYER", "CircleSoftmax", "MODEL.HEADS.SCALE", 64, "MODEL.HEADS.MARGIN", 0.35),
    )


class TestCGEOnCMBN(MethodTester):
    overrides = (*CMBN, "MODEL.HEADS.NAME", "CGEHead", "MODEL.CGE.HEAD", "CMBNHead")
    dimension = 32
    variants = ((), ("MODEL.CMBN.MASK_GENERATOR", False), ("MODEL.CGE.BRANCHES", ["masked/global"]))


def _memory(model: nn.Module) -> torch.Tensor:
    return model.heads.revise.local_classifiers.memory


def _filled(stripes: int = 3, identities: int = 5, channels: int = 7) -> torch.Tensor:
    return F.normalize(torch.randn(stripes, identities, channels, generator=torch.Generator().manual_seed(1)), dim=-1)


class TestEquations:
    @pytest.mark.proves("cge", level=1)
    def test_eq_1_with_the_mean_of_each_identitys_instances(self) -> None:
        torch.manual_seed(0)
        classifiers = LocalClassifiers(3, 5, 7)
        before = _filled()
        classifiers.memory.copy_(before)
        local, targets, alpha = torch.randn(6, 3, 7), torch.tensor([4, 0, 4, 2, 0, 4]), 0.3
        classifiers.write(local, targets, alpha)
        for stripe in range(3):
            for identity in range(5):
                own = [local[i, stripe] for i in range(6) if targets[i] == identity]
                if not own:
                    assert torch.equal(classifiers.memory[stripe, identity], before[stripe, identity])
                    continue
                mean = sum(own) / len(own)
                slot = alpha * before[stripe, identity] + (1 - alpha) * mean / math.sqrt(sum(v * v for v in mean))
                expected = slot / math.sqrt(sum(v * v for v in slot))
                assert torch.allclose(classifiers.memory[stripe, identity], expected, atol=1e-6)

    @pytest.mark.proves("cge", level=1)
    def test_eq_2_is_the_geometric_mean_of_the_sigmoids(self) -> None:
        torch.manual_seed(0)
        local, memory = torch.randn(4, 3, 7), _filled()
        weights = local_weights(local_cosines(local, memory))
        for n in range(4):
            for k in range(5):
                product = 1.0
                for stripe in range(3):
                    cosine = float(local[n, stripe] @ memory[stripe, k] / local[n, stripe].norm())
                    product *= 1 / (1 + math.exp(-cosine))
                assert float(weights[n, k]) == pytest.approx(product ** (1 / 3), abs=1e-6)

    @pytest.mark.parametrize("meta", ["Baseline", "PartsBaseline"])
    @pytest.mark.proves("cge", level=1)
    def test_eq_3_multiplies_the_logits_and_nothing_else(self, tiny_cfg: Callable, meta: str) -> None:
        cfg = tiny_cfg(*BOT, "MODEL.META_ARCHITECTURE", meta, "MODEL.HEADS.NUM_CLASSES", IDENTITIES)
        model = build_model(cfg)
        with torch.no_grad():
            _memory(model).copy_(_filled(3, IDENTITIES, 512))
        features, targets = torch.rand(6, 512, 6, 4), batch()["targets"]
        weights = local_weights(
            local_cosines(torch.stack([s.mean(dim=(2, 3)) for s in features.split(2, 2)], 1), _memory(model))
        )
        with torch.no_grad():
            revised = model.heads(features, targets)
            model.heads.revise.cge = dataclasses.replace(model.heads.revise.cge, revise=False)
            plain = model.heads(features, targets)
        assert torch.allclose(revised["cls_outputs"], plain["cls_outputs"] * weights, atol=1e-6)
        assert torch.equal(revised["features"], plain["features"])
        assert torch.equal(revised["pred_class_logits"], plain["pred_class_logits"])

    @pytest.mark.proves("cge", level=1)
    def test_eq_11_and_12(self) -> None:
        for t in range(120):
            assert memory_momentum("linear", t, 120, 0.0) == pytest.approx(1 / 120 * t)
            assert memory_momentum("exponential", t, 120, 0.0) == pytest.approx(math.e ** (-5 * ((1 - t) / 120) ** 2))
            assert memory_momentum("ramp_up", t, 120, 0.0) == pytest.approx(math.e ** (-5 * (1 - t / 120) ** 2))
            assert memory_momentum("constant", t, 120, 0.01) == 0.01

    def test_table_6_class_maps_weighted_before_the_average(self, tiny_cfg: Callable) -> None:
        head = ("MODEL.CGE.HEAD", "ClassMapHead", "MODEL.HEADS.WITH_BNNECK", False)
        model = build_model(tiny_cfg(*BOT, *head, "MODEL.HEADS.NUM_CLASSES", IDENTITIES))
        head = model.heads
        with torch.no_grad():
            _memory(model).copy_(_filled(3, IDENTITIES, 512))
            features = torch.rand(6, 512, 6, 4)
            maps = head.class_maps(features)
            local = torch.stack([s.mean(dim=(2, 3)) for s in features.split(2, 2)], 1)
            weights = local_weights(local_cosines(local, _memory(model)))
            expected = (maps * weights[:, :, None, None]).mean(dim=(2, 3))
            got = head(features, batch()["targets"])
        assert torch.allclose(got["cls_outputs"], expected, atol=1e-5)
        assert torch.allclose(got["features"], features.mean(dim=(2, 3)), atol=1e-6)


class TestFigure3:
    """Two identities; the stripes of an easy sample look like its own, those of a hard one like the other."""

    logits = torch.tensor([[2.0, 1.5]])
    target = torch.tensor([0])

    def _loss(self, seen_in_the_stripes: int) -> float:
        classifiers = LocalClassifiers(3, 2, 4)
        classifiers.write(torch.eye(4)[:2, None].repeat(1, 3, 1), torch.tensor([0, 1]), 0.0)
        weights = local_weights(classifiers.read(torch.eye(4)[seen_in_the_stripes].expand(1, 3, 4)))
        return float(F.cross_entropy(self.logits * weights, self.target))

    def test_an_easy_samples_loss_falls_and_a_hard_ones_rises(self) -> None:
        plain = float(F.cross_entropy(self.logits, self.target))
        assert self._loss(seen_in_the_stripes=0) < plain - 0.05
        assert self._loss(seen_in_the_stripes=1) > plain + 0.05

    def test_in_between_the_more_stripes_are_right_the_lower_the_loss(self) -> None:
        cosines = torch.zeros(4, 3, 2)
        for right in range(4):
            cosines[right, :right, 0] = 1.0
            cosines[right, right:, 1] = 1.0
        losses = F.cross_entropy(self.logits * local_weights(cosines), self.target.expand(4), reduction="none")
        assert all(a > b for a, b in zip(losses, losses[1:]))


class TestMemory:
    def test_written_once_and_read_back_the_cosine_is_one(self) -> None:
        classifiers = LocalClassifiers(3, 5, 7)
        local = torch.randn(2, 3, 7)
        classifiers.write(local, torch.tensor([1, 3]), alpha=0.0)
        cosines = classifiers.read(local)
        for row, identity in enumerate((1, 3)):
            assert torch.allclose(cosines[row, :, identity], torch.ones(3), atol=1e-6)

    def test_an_identity_that_never_came_up_stays_zero_and_weighs_one_half(self) -> None:
        classifiers = LocalClassifiers(3, 5, 7)
        for step in range(4):
            classifiers.write(torch.randn(2, 3, 7), torch.tensor([1, 3]), alpha=step / 4)
        assert not classifiers.memory[:, [0, 2, 4]].any()
        weights = local_weights(classifiers.read(torch.randn(6, 3, 7)))
        assert torch.allclose(weights[:, [0, 2, 4]], torch.full((6, 3), 0.5))
        empty = LocalClassifiers(3, 5, 7)
        assert torch.allclose(local_weights(empty.read(torch.randn(6, 3, 7))), torch.full((6, 5), 0.5))

    def test_a_rate_of_one_keeps_every_slot(self) -> None:
        slots = _filled()
        assert torch.allclose(update_memory(slots, torch.randn_like(slots), 1.0), slots, atol=1e-6)

    @pytest.mark.parametrize("detach", [False, True])
    def test_no_gradient_reaches_it_and_the_local_features_get_one_unless_cut(
        self, tiny_cfg: Callable, detach: bool
    ) -> None:
        cfg = tiny_cfg(*BOT, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, "MODEL.CGE.DETACH_LOCAL", detach)
        model = build_model(cfg)
        with torch.no_grad():
            _memory(model).copy_(_filled(3, IDENTITIES, 512))
        features = torch.rand(6, 512, 6, 4, requires_grad=True)
        local = torch.stack([s.mean(dim=(2, 3)) for s in features.split(2, 2)], 1)
        weights = local_weights(local_cosines(local, _memory(model).clone()))
        outputs = model.heads(features, batch()["targets"])
        (gradient,) = torch.autograd.grad(outputs["cls_outputs"][:, 0].sum(), features, retain_graph=True)
        expected = outputs["pred_class_logits"] * (weights.detach() if detach else weights)
        (expected_gradient,) = torch.autograd.grad(expected[:, 0].sum(), features)
        assert torch.allclose(gradient, expected_gradient, atol=1e-7)
        assert not _memory(model).requires_grad and _memory(model).grad_fn is None

    def test_a_step_reads_the_memory_of_the_steps_before(self, tiny_cfg: Callable) -> None:
        model = build_model(tiny_cfg(*BOT, "MODEL.HEADS.NUM_CLASSES", IDENTITIES))
        features, targets = torch.rand(6, 512, 6, 4), batch()["targets"]
        first = model.heads(features, targets)
        assert torch.allclose(first["cls_outputs"], first["pred_class_logits"] * 0.5, atol=1e-6)
        assert (_memory(model).norm(dim=2)[:, :3] > 0.99).all() and not _memory(model)[:, 3:].any()
        second = model.heads(features, targets)
        second["cls_outputs"].sum().backward()  # the memory has been written since it was read
        own = second["cls_outputs"] / second["pred_class_logits"]
        assert (own.gather(1, targets[:, None]) > 0.6).all()

    def test_passes_without_gradients_leave_it_alone(self, tiny_cfg: Callable) -> None:
        model = build_model(tiny_cfg(*BOT, "MODEL.HEADS.NUM_CLASSES", IDENTITIES))
        with torch.no_grad():
            model({**batch(), "targets": torch.full((6,), -1)})  # as PreciseBN does
        assert not _memory(model).any()

    def test_float32_under_mixed_precision_with_as_many_identities_as_msmt17(self) -> None:
        torch.manual_seed(0)
        revise = LogitsRevise(4101, 64, 4, SETTINGS)
        pool = nn.AdaptiveAvgPool2d(1)
        features, targets = torch.randn(8, 64, 6, 2), torch.arange(8) * 500
        expected = revise(features, pool, targets)
        revise.local_classifiers.memory.zero_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for _ in range(2):
                weights = revise(features.bfloat16(), pool, targets)
        assert revise.local_classifiers.memory.dtype == weights.dtype == torch.float32
        lengths = revise.local_classifiers.memory.norm(dim=2)
        assert torch.allclose(lengths[:, targets], torch.ones(3, 8), atol=1e-6) and float(lengths.sum()) < 24.01
        # bfloat16 features have three digits: the weights of a cosine of one are exact to about as many
        own = weights.gather(1, targets[:, None])
        assert torch.allclose(own, torch.full_like(own, 1 / (1 + math.exp(-1))), atol=1e-4)
        assert expected.shape == weights.shape == (8, 4101)


WORKER = """
import sys
import torch
torch.set_num_threads(1)
import fastreid_parts
from fastreid.utils import comm
from fastreid_parts.engine import launch
from fastreid_parts.methods.cge import LocalClassifiers


def work(out):
    batches = torch.load(out + "/batches.pth")
    classifiers = LocalClassifiers(3, 6, 16)
    share = slice(comm.get_rank() * 4, comm.get_rank() * 4 + 4)
    for step, (local, targets) in enumerate(batches):
        classifiers.write(local[share], targets[share], step / len(batches))
    torch.save(classifiers.memory, f"{out}/memory{comm.get_rank()}.pth")


if __name__ == "__main__":
    launch(work, 2, dist_url="auto", args=(sys.argv[1],))
"""


def test_two_processes_hold_the_same_memory_and_it_is_that_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Identities 1 and 2 have instances on both ranks
    batches = [(torch.randn(8, 3, 16), torch.tensor([0, 1, 2, 2, 1, 1, 2, 4])) for _ in range(3)]
    torch.save(batches, tmp_path / "batches.pth")
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"memory{rank}.pth") for rank in range(2))
    assert torch.equal(first, second)
    single = LocalClassifiers(3, 6, 16)
    for step, (local, targets) in enumerate(batches):
        single.write(local, targets, step / len(batches))
    assert torch.allclose(first, single.memory, atol=1e-6)
    assert single.memory[:, [0, 1, 2, 4]].norm(dim=2).min() > 0.99 and not first[:, [3, 5]].any()


class TestRate:
    def test_follows_the_trainers_epoch(self) -> None:
        revise = LogitsRevise(4, 8, 10, SETTINGS)
        assert revise.current_momentum() == 0.0  # outside a trainer
        with EventStorage() as storage:
            storage.epoch = 7
            assert revise.current_momentum() == 0.7

    @pytest.mark.parametrize("trainer_class", [DefaultTrainer, PartsTrainer])
    def test_under_the_stock_trainer_and_the_plugins(
        self, tiny_cfg: Callable, trainer_class: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used: list[float] = []
        write = LocalClassifiers.write

        def recorded(self: LocalClassifiers, local: torch.Tensor, targets: torch.Tensor, alpha: float) -> None:
            used.append(alpha)
            write(self, local, targets, alpha)

        monkeypatch.setattr(LocalClassifiers, "write", recorded)
        trainer = trainer_class(tiny_cfg(*BOT))
        trainer.resume_or_load(resume=False)
        trainer.train()
        assert used == [0.0] * 3 + [0.5] * 3  # 36 images in batches of 12, two epochs
        assert (_memory(trainer.model).norm(dim=2) > 0.99).all()


class TestCheckpoints:
    @pytest.mark.smallest
    def test_resuming_brings_memory_and_rate_back(self, tiny_cfg: Callable, tmp_path: Path) -> None:
        def run(folder: str, epochs: int, resume: bool) -> PartsTrainer:
            cfg = tiny_cfg(*BOT, "OUTPUT_DIR", str(tmp_path / folder), "SOLVER.MAX_EPOCH", 4)
            trainer = PartsTrainer(cfg)
            trainer.resume_or_load(resume=resume)
            trainer.max_epoch, trainer.max_iter = epochs, epochs * trainer.iters_per_epoch
            trainer.train()
            return trainer

        whole = run("whole", 4, resume=False)
        run("halves", 2, resume=False)
        resumed = run("halves", 4, resume=True)
        assert resumed.start_epoch == 2
        assert _memory(whole.model).any()
        for (name, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values()):
            assert torch.equal(a, b), name

    @pytest.mark.parametrize("meta", ["Baseline", "PartsBaseline"])
    def test_a_checkpoint_is_one_of_the_plain_head_too(self, tiny_cfg: Callable, tmp_path: Path, meta: str) -> None:
        def build(*overrides: object) -> nn.Module:
            return build_model(tiny_cfg(*BOT, "MODEL.META_ARCHITECTURE", meta, *overrides))

        model = build("MODEL.HEADS.NUM_CLASSES", IDENTITIES)
        losses_of(model, batch(seed=1))
        Checkpointer(model, str(tmp_path)).save("model")
        plain = build(*PLAIN)  # no identities, as in evaluation
        Checkpointer(plain).load(str(tmp_path / "model.pth"))
        assert torch.equal(plain.eval()(batch()), model.eval()(batch()))
        again = build()
        Checkpointer(again).load(str(tmp_path / "model.pth"))
        assert torch.equal(again.eval()(batch()), model(batch()))
        parameters = dict(model.named_parameters())
        plain = build(*PLAIN, "MODEL.HEADS.NUM_CLASSES", IDENTITIES)
        assert parameters.keys() == dict(plain.named_parameters()).keys()


class TestHeads:
    def test_the_feature_before_bnneck_is_the_pooled_map(self, tiny_cfg: Callable) -> None:
        def build(*overrides: object) -> nn.Module:
            torch.manual_seed(0)
            return build_model(tiny_cfg(*BOT, *PLAIN, *overrides)).eval()

        before, after = build(), build("MODEL.HEADS.TEST_FEAT", "after")
        after.heads.bottleneck[0].running_mean.fill_(0.1)
        images = batch()["images"]
        pooled = before.feature_map(images).mean(dim=(2, 3))
        assert torch.allclose(before(images), pooled, atol=1e-6)
        assert torch.allclose(after(images), after.heads.bottleneck(pooled[..., None, None])[..., 0, 0], atol=1e-6)
        assert not torch.allclose(before(images), after(images), atol=1e-2)

    def test_on_cmbn_the_global_branches_are_revised_and_reversal_is_not(self, tiny_cfg: Callable) -> None:
        model = build_model(
            tiny_cfg(*TestCGEOnCMBN.overrides, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, "MODEL.CGE.REVISE", False)
        )
        maps = {"backbone": torch.rand(6, 512, 6, 4), "reversal": torch.rand(6, 512, 6, 4)}
        targets = batch()["targets"]
        plain = model.heads(maps, targets).logits
        model.heads.revise.cge = dataclasses.replace(model.heads.revise.cge, revise=True)
        _memory(model).zero_()
        revised = model.heads(maps, targets).logits
        for name, factor in {"global": 0.5, "masked/global": 0.5, "reversal/global": 1.0}.items():
            assert torch.allclose(revised[name], plain[name] * factor, atol=1e-6), name


def test_the_branches_that_a_head_declares_as_global_are_revised() -> None:
    head = SimpleNamespace(
        revise=SimpleNamespace(cge=SimpleNamespace(branches=()), revised=cge.revise_logits), global_branches=("b", "c")
    )
    logits = {name: torch.ones(2, 3) for name in ("a", "b", "c")}
    revised = cge._revised(head, BranchOutputs(logits), torch.full((2, 3), 0.5))
    assert {name: value[0, 0].item() for name, value in revised.items()} == {"a": 1.0, "b": 0.5, "c": 0.5}


class TestErrors:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (("MODEL.CGE.HEAD", "NoHead"), "MODEL.CGE.HEAD is 'NoHead'; it is one of .*CMBNHead"),
            (("MODEL.CGE.HEAD", "CGEHead"), "MODEL.CGE.HEAD is 'CGEHead'"),
            (("MODEL.CGE.ALPHA", "cosine"), "MODEL.CGE.ALPHA is 'cosine'"),
            (("MODEL.CGE.ALPHA_VALUE", 1.5), "ALPHA_VALUE is 1.5"),
            (("MODEL.CGE.NUM_STRIPES", 0), "NUM_STRIPES is 0"),
            (("MODEL.HEADS.TEST_FEAT", "both"), "TEST_FEAT is 'both'"),
            (("MODEL.CGE.BRANCHES", ["global"]), "BRANCHES has global; the only branch of this head has no name"),
            (("MODEL.CGE.HEAD", "EmbeddingHead", "MODEL.HEADS.TEST_FEAT", "after", "MODEL.CGE.BRANCHES", ["global"]),
             "BRANCHES has global; the only branch of this head has no name"),
            (("MODEL.CGE.HEAD", "RRIDHead", *LOCAL_ONLY), "RRIDHead as it is configured has no global feature"),
        ],
    )  # fmt: skip
    def test_settings(self, tiny_cfg: Callable[..., CfgNode], overrides: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build_model(tiny_cfg(*BOT, *overrides))

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (("MODEL.CGE.NUM_STRIPES", 4), "3 rows cannot be cut into 4 stripes"),
            (("MODEL.META_ARCHITECTURE", "CMBN", "MODEL.CGE.HEAD", "CMBNHead", "MODEL.HEADS.EMBEDDING_DIM", 32,
              "MODEL.CGE.BRANCHES", ["part"]), "MODEL.CGE.BRANCHES has part; .* masked/global, reversal/global"),
        ],
    )  # fmt: skip
    def test_what_shows_with_the_first_batch(self, tiny_cfg: Callable, overrides: tuple, message: str) -> None:
        model = build_model(tiny_cfg(*BOT, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides))
        with pytest.raises(ValueError, match=message):
            losses_of(model, batch())

    @pytest.mark.parametrize("loss", ["CenterLoss", "SphereLoss"])
    def test_class_maps_train_with_losses_that_have_parameters(self, tiny_cfg: Callable, loss: str) -> None:
        head = ("MODEL.CGE.HEAD", "ClassMapHead", "MODEL.HEADS.WITH_BNNECK", False)
        losses = ("MODEL.LOSSES.NAME", ("CrossEntropyLoss", loss))
        model = build_model(tiny_cfg(*BOT, *head, *losses, "MODEL.HEADS.NUM_CLASSES", IDENTITIES))
        assert all(torch.isfinite(value) for value in losses_of(model, batch()).values())

    def test_local_features_are_revised_where_they_are_named(self, tiny_cfg: Callable) -> None:
        named = ("MODEL.CGE.HEAD", "RRIDHead", *LOCAL_ONLY, "MODEL.CGE.BRANCHES", ["part_2_of_3"])
        model = build_model(tiny_cfg(*BOT, *named, "MODEL.HEADS.NUM_CLASSES", IDENTITIES))
        assert all(torch.isfinite(value) for value in losses_of(model, batch()).values())

    def test_what_is_deployed_has_branches_too(self, tiny_cfg: Callable) -> None:
        assert build_model(tiny_cfg(*TestCGEOnCMBN.overrides, "MODEL.CMBN.INFERENCE_ONLY", True)).heads.global_branches

    def test_a_memory_of_another_width(self) -> None:
        revise = LogitsRevise(4, 8, 4, SETTINGS)
        with pytest.raises(ValueError, match="16 channels and the memory has 8: set MODEL.BACKBONE.FEAT_DIM"):
            revise(torch.rand(2, 16, 6, 4), nn.AdaptiveAvgPool2d(1), torch.tensor([0, 1]))
