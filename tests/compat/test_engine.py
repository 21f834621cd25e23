"""The host's engine, patched: each test names what the unpatched host does."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.engine import DefaultTrainer, defaults, hooks
from fastreid.modeling import build_model
from fastreid.solver.lr_scheduler import WarmupLR
from fastreid.solver.optim import SWA
from fastreid.utils.events import EventStorage

from fastreid_parts.engine.solver import build_optimizer


def train(cfg: Any, trainer_class: type = DefaultTrainer, resume: bool = False) -> Any:
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.start = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.results = trainer.train()
    return trainer


class Contiguous(DefaultTrainer):
    """The host's trainer with the host's flat buffers."""

    @classmethod
    def build_optimizer(cls, cfg: Any, model: Any) -> Any:
        return defaults.build_optimizer(cfg, model, contiguous=True)


@pytest.mark.parametrize("trainer_class", [DefaultTrainer, Contiguous])
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.smallest
def test_every_weight_moves_under_the_stock_trainer(
    tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch, trainer_class: type, amp: bool
) -> None:
    """Unpatched on torch 2: losses are logged, no weight ever moves; with AMP "No inf checks were recorded"."""
    monkeypatch.setattr("fastreid_parts.engine.amp._cpu_has_bfloat16", lambda: True)
    trainer = train(tiny_cfg("SOLVER.AMP.ENABLED", amp, "SOLVER.MAX_EPOCH", 1), trainer_class)
    assert getattr(trainer._trainer, "dtype", None) == (torch.bfloat16 if amp else None)
    still = [n for n, p in trainer.model.named_parameters() if p.requires_grad and torch.equal(p, trainer.start[n])]
    assert still == []
    assert 0 < trainer.results["mAP"] <= 100


STOCK = {
    "bagtricks": ("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"), "INPUT.REA.ENABLED", True),
    "agw": (
        "MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", 2048, "MODEL.BACKBONE.WITH_NL", True,
        "MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPooling",
    ),
    "sbs": (
        "MODEL.FREEZE_LAYERS", ["backbone"], "SOLVER.FREEZE_ITERS", 3,
        "MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP", "MODEL.HEADS.CLS_LAYER", "CircleSoftmax",
        "MODEL.HEADS.SCALE", 64, "MODEL.HEADS.MARGIN", 0.35,
        "INPUT.AUTOAUG.ENABLED", True, "INPUT.AUTOAUG.PROB", 1.0, "SOLVER.SCHED", "CosineAnnealingLR",
    ),
    "mgn": (
        "MODEL.META_ARCHITECTURE", "MGN", "MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", 2048,
        "MODEL.HEADS.EMBEDDING_DIM", 16, "MODEL.FREEZE_LAYERS", ["backbone", "b1", "b2", "b3"],
        "SOLVER.FREEZE_ITERS", 1, "INPUT.SIZE_TRAIN", [96, 32], "INPUT.SIZE_TEST", [96, 32],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STOCK)
def test_stock_recipes_train_and_evaluate(tiny_cfg: Callable, name: str) -> None:
    cfg = tiny_cfg(
        "SOLVER.MAX_EPOCH", 1, "DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "SOLVER.CHECKPOINT_PERIOD", 0,
        "TEST.FLIP.ENABLED", True, *STOCK[name],
    )  # fmt: skip
    trainer = train(cfg)
    frozen = name == "sbs"
    moved = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, trainer.start[n])]
    assert any(n.startswith("backbone") for n in moved) is not frozen
    assert any("head" in n for n in moved)
    assert trainer.results["mAP"] > 0


class TestFreezing:
    def test_batch_norm_stays_frozen_after_an_evaluation(self, tiny_cfg: Callable) -> None:
        """Unpatched: model.train(True) after the first evaluation sets frozen batch norm loose."""
        cfg = tiny_cfg(
            "MODEL.FREEZE_LAYERS", ["backbone"], "SOLVER.FREEZE_ITERS", 6, "TEST.EVAL_PERIOD", 1,
        )  # fmt: skip
        trainer = DefaultTrainer(cfg)
        before = trainer.model.backbone.bn1.running_mean.clone()
        trainer.train()
        assert torch.equal(trainer.model.backbone.bn1.running_mean, before)

    def test_the_freeze_does_not_start_over_on_resume(self, tiny_cfg: Callable) -> None:
        """Unpatched: the optimizer counts its frozen steps from zero again."""
        settings = ("MODEL.FREEZE_LAYERS", ["backbone"], "SOLVER.FREEZE_ITERS", 3)
        train(tiny_cfg("SOLVER.MAX_EPOCH", 1, *settings))
        resumed = DefaultTrainer(tiny_cfg("SOLVER.MAX_EPOCH", 2, *settings))
        resumed.resume_or_load(resume=True)
        assert resumed.start_epoch == 1
        weight = resumed.model.backbone.conv1.weight.detach().clone()
        resumed.train()
        assert not torch.equal(resumed.model.backbone.conv1.weight, weight)

    def test_a_pattern_freezes_statistics_as_it_freezes_weights(self, tiny_cfg: Callable) -> None:
        """The optimizer takes regular expressions; the hook looked for a module of that name, in the first step."""
        cfg = tiny_cfg(
            "MODEL.FREEZE_LAYERS", ["backbone.layer[12]"], "SOLVER.FREEZE_ITERS", 6, "SOLVER.MAX_EPOCH", 1,
        )  # fmt: skip
        trainer = DefaultTrainer(cfg)
        before = {name: buffer.clone() for name, buffer in trainer.model.backbone.named_buffers() if "mean" in name}
        trainer.train()
        after = dict(trainer.model.backbone.named_buffers())
        kept = {name.split(".")[0] for name, buffer in before.items() if torch.equal(after[name], buffer)}
        assert kept == {"layer1", "layer2"}

    def test_a_misspelt_layer_is_an_error(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="'backbon'"):
            DefaultTrainer(tiny_cfg("MODEL.FREEZE_LAYERS", ["backbon"], "SOLVER.FREEZE_ITERS", 3))


@pytest.mark.smallest
class TestRuns:
    def test_metrics_hold_the_last_evaluation(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("TEST.EVAL_PERIOD", 2)
        train(cfg)
        assert "mAP" in Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()[-1]

    def test_evaluation_period_zero_means_at_the_end(self, tiny_cfg: Callable) -> None:
        """Unpatched: ZeroDivisionError."""
        assert train(tiny_cfg("TEST.EVAL_PERIOD", 0)).results["mAP"] > 0

    def test_no_test_set_means_no_evaluation(self, tiny_cfg: Callable) -> None:
        """Unpatched: IndexError."""
        assert not train(tiny_cfg("DATASETS.TESTS", (), "SOLVER.MAX_EPOCH", 1)).results

    def test_checkpoint_period_zero_means_at_the_end(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("SOLVER.CHECKPOINT_PERIOD", 0)
        train(cfg)
        assert {p.name for p in Path(cfg.OUTPUT_DIR).glob("*.pth")} == {"model_best.pth", "model_final.pth"}

    def test_resuming_a_finished_run_evaluates_it(self, tiny_cfg: Callable) -> None:
        """Unpatched: AttributeError."""
        first = train(tiny_cfg("SOLVER.MAX_EPOCH", 1))
        again = train(tiny_cfg("SOLVER.MAX_EPOCH", 1), resume=True)
        assert again.start_epoch == 1 and again.results["mAP"] == first.results["mAP"]

    def test_best_metric_survives_a_resume(self, tiny_cfg: Callable) -> None:
        """Unpatched: it starts at -1 again, and a worse model overwrites model_best."""
        cfg = tiny_cfg("SOLVER.MAX_EPOCH", 1)
        train(cfg)
        best = torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)["best_metric"]
        trainer = DefaultTrainer(tiny_cfg("SOLVER.MAX_EPOCH", 2))
        trainer.resume_or_load(resume=True)
        hook = next(h for h in trainer._hooks if isinstance(h, hooks.PeriodicCheckpointer))
        assert hook.best_metric == best > 0

    def test_batch_larger_than_the_dataset_is_named(self, tiny_cfg: Callable) -> None:
        """Unpatched: ZeroDivisionError."""
        with pytest.raises(ValueError, match="IMS_PER_BATCH"):
            DefaultTrainer(tiny_cfg("SOLVER.IMS_PER_BATCH", 64))

    def test_number_of_identities_is_checked(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="NUM_CLASSES is 7"):
            DefaultTrainer(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 7))

    def test_test_loader_takes_the_workers_it_is_told(self, tiny_cfg: Callable) -> None:
        """Unpatched: four workers, whatever is asked for."""
        loader, queries = defaults.build_reid_test_loader(tiny_cfg(), dataset_name="FolderReID", num_workers=0)
        assert (loader.num_workers, queries) == (0, 4)

    def test_cmbn_trains_jointly_under_the_stock_trainer(self, cmbn_cfg: Callable) -> None:
        trainer = train(cmbn_cfg("SOLVER.MAX_EPOCH", 1))
        lines = [json.loads(line) for line in Path(trainer.cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
        assert "loss_cls_reversal" in lines[0] and "detached_loss" not in lines[0]


class TestOptimizers:
    def test_five_steps_give_the_losses_of_the_host_on_its_own_stack(self, tiny_cfg: Callable) -> None:
        """The patched optimizer is Adam with the host's settings: the same weights as torch's own."""
        cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 3)
        torch.manual_seed(0)
        model = build_model(cfg).backbone
        torch.manual_seed(0)
        reference = build_model(cfg).backbone
        optimizer, _ = build_optimizer(cfg, model)
        plain = torch.optim.Adam(reference.parameters(), lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
        for step in range(5):
            torch.manual_seed(step)
            x = torch.randn(2, 3, 32, 16)
            for net, opt in ((model, optimizer), (reference, plain)):
                opt.zero_grad()
                net(x).square().mean().backward()
                opt.step()
        assert torch.allclose(model.conv1.weight, reference.conv1.weight, atol=1e-6)

    def test_stochastic_weight_averaging(self) -> None:
        """Unpatched on torch 2: no attribute '_optimizer_step_pre_hooks'."""
        layer = torch.nn.Linear(2, 2)
        optimizer = SWA(torch.optim.SGD(layer.parameters(), lr=0.1), 1, 1.0)
        optimizer.reset_lr_to_swa()
        seen = []
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            seen.append(layer.weight.detach().clone())
        optimizer.swap_swa_param()
        assert torch.allclose(layer.weight, torch.stack(seen).mean(0), atol=1e-6)


def test_warm_up_arrives_under_a_gradient_scale_that_changes() -> None:
    """Unpatched: the warm-up step of an iteration that overflowed is left out, and the rate never reaches BASE_LR."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    warmup = WarmupLR(optimizer, warmup_factor=0.1, warmup_iters=4, warmup_method="linear")
    hook = hooks.LRScheduler(optimizer, {"warmup_sched": warmup})
    rates: list[float] = []
    scaler = types.SimpleNamespace(get_scale=lambda: float(len(rates)))  # every iteration changes it
    hook.trainer = types.SimpleNamespace(grad_scaler=scaler)
    hook.before_train()
    with EventStorage() as hook.trainer.storage:
        for hook.trainer.iter in range(6):
            hook.before_step()
            optimizer.step()
            rates.append(optimizer.param_groups[0]["lr"])
            hook.after_step()
    assert rates == pytest.approx([0.05, 0.1625, 0.275, 0.3875, 0.5, 0.5])
