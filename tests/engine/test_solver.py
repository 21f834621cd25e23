"""Optimizer and schedule: groups, clipping, freezing, and the errors that replace divisions by zero."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer, hooks
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts import PartsTrainer
from fastreid_parts.engine.solver import (
    SolverSettings,
    build_lr_scheduler,
    build_optimizer,
    parameter_settings,
    set_frozen_steps,
)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.b1 = nn.Linear(4, 4)
        self.b1_head = nn.Linear(4, 2)
        self.heads = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads(self.b1(self.backbone(x).mean((2, 3)))) + self.b1_head(self.backbone(x).mean((2, 3)))


def settings(cfg: CfgNode, model: nn.Module) -> dict[str, dict[str, Any]]:
    names = {p: n for n, p in model.named_parameters()}
    return {names[s["params"][0]]: s for s in parameter_settings(cfg, model)}


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(1)
    loss = model(torch.randn(4, 3, 2, 2)).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def run_schedule(trainer: Any, hook: hooks.LRScheduler) -> list[float]:
    """The rate of each iteration of a run, of which only the schedule's hook is played."""
    rates = []
    hook.before_train()
    with EventStorage() as trainer.storage:
        for iteration in range(trainer.max_epoch * trainer.iters_per_epoch):
            trainer.iter, trainer.epoch = iteration, iteration // trainer.iters_per_epoch
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            trainer.optimizer.step()
            hook.before_step()
            hook.after_step()
            if (iteration + 1) % trainer.iters_per_epoch == 0:
                trainer.iter += 1  # the host's loop counts an iteration before its epoch ends
                hook.after_epoch()
    return rates


def test_heads_factor_reaches_heads_and_the_hosts_branch_heads(tiny_cfg: Callable) -> None:
    got = settings(tiny_cfg("SOLVER.HEADS_LR_FACTOR", 10.0, "SOLVER.BASE_LR", 0.1), Toy())
    assert got["heads.weight"]["lr"] == got["b1_head.weight"]["lr"] == pytest.approx(1.0)
    assert got["b1.weight"]["lr"] == got["backbone.0.weight"]["lr"] == pytest.approx(0.1)


def test_heads_factor_without_heads_is_an_error(tiny_cfg: Callable) -> None:
    with pytest.raises(ValueError, match="HEADS_LR_FACTOR"):
        settings(tiny_cfg("SOLVER.HEADS_LR_FACTOR", 10.0), nn.Sequential(nn.Linear(2, 2)))


def test_named_factors(tiny_cfg: Callable) -> None:
    got = settings(tiny_cfg("SOLVER.LR_FACTORS", [["b1", 3.0], ["heads.weight", 5.0]], "SOLVER.BASE_LR", 1.0), Toy())
    assert (got["b1.bias"]["lr"], got["b1_head.bias"]["lr"]) == (3.0, 1.0)
    assert (got["heads.weight"]["lr"], got["heads.bias"]["lr"]) == (5.0, 1.0)
    with pytest.raises(ValueError, match="'neck'"):
        settings(tiny_cfg("SOLVER.LR_FACTORS", [["neck", 3.0]]), Toy())


def test_bias_settings_spare_batch_norm_and_follow_weight_decay(tiny_cfg: Callable) -> None:
    cfg = tiny_cfg("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY", 0.3, "SOLVER.WEIGHT_DECAY_NORM", 0.0)
    got = settings(cfg, Toy())
    assert got["backbone.1.bias"]["lr"] == cfg.SOLVER.BASE_LR
    assert got["backbone.1.bias"]["weight_decay"] == 0.0
    assert got["b1.bias"]["lr"] == 2 * cfg.SOLVER.BASE_LR
    assert got["b1.bias"]["weight_decay"] == 0.3
    assert settings(tiny_cfg("SOLVER.WEIGHT_DECAY_BIAS", 0.0), Toy())["b1.bias"]["weight_decay"] == 0.0


def test_parameters_with_the_same_settings_share_a_group(tiny_cfg: Callable) -> None:
    optimizer, _ = build_optimizer(tiny_cfg(), Toy())
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("contiguous", [False, True])
def test_every_weight_moves(tiny_cfg: Callable, contiguous: bool) -> None:
    model = Toy()
    optimizer, _ = build_optimizer(tiny_cfg(), model, contiguous=contiguous)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        one_step(model, optimizer)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_contiguous_and_plain_parameters_end_alike(tiny_cfg: Callable) -> None:
    results = []
    for contiguous in (False, True):
        torch.manual_seed(0)
        model = Toy()
        optimizer, _ = build_optimizer(tiny_cfg("SOLVER.CLIP_GRADIENTS.ENABLED", True), model, contiguous)
        for _ in range(3):
            one_step(model, optimizer)
        results.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.allclose(*results, atol=1e-7)


def test_contiguous_parameters_refuse_another_memory_layout(tiny_cfg: Callable) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="channels_last"):
        build_optimizer(tiny_cfg(), model, contiguous=True)
    build_optimizer(tiny_cfg(), model)


def test_clipping_is_by_parameter(tiny_cfg: Callable) -> None:
    model = Toy()
    cfg = tiny_cfg("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01)
    optimizer, _ = build_optimizer(cfg, model)
    one_step(model, optimizer)
    norms = [float(p.grad.norm()) for p in model.parameters()]
    assert max(norms) <= 0.01 + 1e-6 and sum(n > 0.0099 for n in norms) > 3


class TestFreezing:
    def test_prefix_does_not_match_a_longer_name(self, tiny_cfg: Callable) -> None:
        got = settings(tiny_cfg("MODEL.FREEZE_LAYERS", ["b1", "backbone"], "SOLVER.FREEZE_ITERS", 2), Toy())
        frozen = {n for n, s in got.items() if s["freeze_status"] == "freeze"}
        assert {n.split(".")[0] for n in frozen} == {"b1", "backbone"}

    def test_unknown_name_is_an_error(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="'b2'.*backbone"):
            build_optimizer(tiny_cfg("MODEL.FREEZE_LAYERS", ["b2"], "SOLVER.FREEZE_ITERS", 2), Toy())

    @pytest.mark.parametrize("contiguous", [False, True])
    def test_frozen_weights_wait_without_decay_or_momentum(self, tiny_cfg: Callable, contiguous: bool) -> None:
        cfg = tiny_cfg("MODEL.FREEZE_LAYERS", ["b1"], "SOLVER.FREEZE_ITERS", 2, "SOLVER.WEIGHT_DECAY", 0.1)
        model = Toy()
        optimizer, _ = build_optimizer(cfg, model, contiguous)
        start = model.b1.weight.detach().clone()
        for _ in range(2):
            one_step(model, optimizer)
            assert torch.equal(model.b1.weight, start)
        one_step(model, optimizer)
        assert not torch.equal(model.b1.weight, start)

    def test_the_count_goes_on_after_a_resume(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("MODEL.FREEZE_LAYERS", ["b1"], "SOLVER.FREEZE_ITERS", 3)
        model = Toy()
        optimizer, _ = build_optimizer(cfg, model)
        one_step(model, optimizer)
        resumed, _ = build_optimizer(cfg, model)
        resumed.load_state_dict(optimizer.state_dict())
        start = model.b1.weight.detach().clone()
        for expected in (True, True, False):
            one_step(model, resumed)
            assert torch.equal(model.b1.weight, start) is expected

    def test_steps_can_be_set(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("MODEL.FREEZE_LAYERS", ["b1"], "SOLVER.FREEZE_ITERS", 3)
        optimizer, _ = build_optimizer(cfg, Toy())
        set_frozen_steps(optimizer, -4)
        assert all(g.get("frozen_steps", 0) == 0 for g in optimizer.param_groups)


class TestOptimizers:
    def test_amsgrad(self, tiny_cfg: Callable) -> None:
        optimizer, _ = build_optimizer(tiny_cfg("SOLVER.AMSGRAD", True), Toy())
        assert optimizer.defaults["amsgrad"] is True
        with pytest.raises(ValueError, match="AMSGRAD"):
            build_optimizer(tiny_cfg("SOLVER.AMSGRAD", True, "SOLVER.OPT", "SGD"), Toy())

    @pytest.mark.parametrize("name", ["SGD", "AdamW", "RAdam", "Lamb"])
    def test_others(self, tiny_cfg: Callable, name: str) -> None:
        model = Toy()
        optimizer, _ = build_optimizer(tiny_cfg("SOLVER.OPT", name), model)
        before = model.heads.weight.detach().clone()
        one_step(model, optimizer)
        one_step(model, optimizer)
        assert not torch.equal(model.heads.weight, before)

    def test_unknown_name(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="Adamm.*SGD"):
            build_optimizer(tiny_cfg("SOLVER.OPT", "Adamm"), Toy())

    def test_each_that_is_offered_makes_a_step(self, tiny_cfg: Callable) -> None:
        for name in next(key for key in SolverSettings.declared_keys() if key.attribute == "opt").known:
            model = Toy()
            one_step(model, build_optimizer(tiny_cfg("SOLVER.OPT", name), model)[0])


def test_a_name_of_frozen_layers_that_is_no_regular_expression(tiny_cfg: Callable) -> None:
    with pytest.raises(ValueError, match=r"MODEL.FREEZE_LAYERS names 'b1\(', which is no regular expression"):
        settings(tiny_cfg("MODEL.FREEZE_LAYERS", ["b1("], "SOLVER.FREEZE_ITERS", 1), Toy())


class TestSchedulers:
    def build(self, cfg: CfgNode, iters: int = 3) -> Any:
        return build_lr_scheduler(cfg, torch.optim.SGD(Toy().parameters(), lr=0.1), iters)

    def test_batch_larger_than_the_dataset(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="IMS_PER_BATCH 12"):
            self.build(tiny_cfg(), iters=0)

    def test_cosine_schedule_covered_by_warm_up(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="WARMUP_ITERS"):
            self.build(tiny_cfg("SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.WARMUP_ITERS", 6))
        assert set(self.build(tiny_cfg("SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.WARMUP_ITERS", 3))) == {
            "lr_sched",
            "warmup_sched",
        }

    @pytest.mark.parametrize("trainer_class", [PartsTrainer, DefaultTrainer])
    @pytest.mark.parametrize("from_start", [True, False])
    def test_warm_up_and_decays_in_epochs(self, tiny_cfg: Callable, trainer_class: type, from_start: bool) -> None:
        """Three iterations an epoch: up for two epochs, down after the third and the fifth or an epoch later."""
        cfg = tiny_cfg(
            "SOLVER.WARMUP_EPOCHS", 2, "SOLVER.WARMUP_ITERS", 1, "SOLVER.WARMUP_FACTOR", 0.1, "SOLVER.BASE_LR", 1.0,
            "SOLVER.STEPS", [3, 5], "SOLVER.STEPS_FROM_START", from_start, "SOLVER.MAX_EPOCH", 8,
            "SOLVER.CHECKPOINT_PERIOD", 0, "SOLVER.OPT", "SGD",
        )  # fmt: skip
        trainer = trainer_class(cfg)
        trainer.max_epoch = 8
        assert trainer.iters_per_epoch == 3
        for hook in trainer._hooks:
            if isinstance(hook, hooks.LRScheduler):
                rates = run_schedule(trainer, hook)
        assert rates[:7] == pytest.approx([0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0])
        later = 0 if from_start else 1  # the epoch at whose end warm-up ends is the first that counts
        expected = [1.0 if epoch < 3 + later else 0.1 if epoch < 5 + later else 0.01 for epoch in range(2, 8)]
        assert rates[6::3] == pytest.approx(expected)

    def test_warm_up_in_iterations_as_the_host_counts_it(self, tiny_cfg: Callable) -> None:
        sched = self.build(tiny_cfg("SOLVER.WARMUP_ITERS", 7, "SOLVER.STEPS", [4]))
        assert sched["warmup_sched"].warmup_iters == 7 and list(sched["lr_sched"].milestones) == [4]
        sched = self.build(tiny_cfg("SOLVER.WARMUP_ITERS", 7, "SOLVER.STEPS", [4], "SOLVER.STEPS_FROM_START", True))
        assert list(sched["lr_sched"].milestones) == [2]  # after two epochs of three the warm-up still runs
        sched = self.build(tiny_cfg("SOLVER.DELAY_EPOCHS", 3, "SOLVER.STEPS", [4], "SOLVER.STEPS_FROM_START", True))
        assert "warmup_sched" not in sched and list(sched["lr_sched"].milestones) == [1]

    def test_a_decay_within_the_warm_up(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("SOLVER.WARMUP_EPOCHS", 4, "SOLVER.STEPS", [4, 9], "SOLVER.STEPS_FROM_START", True)
        with pytest.raises(ValueError, match=r"SOLVER.STEPS \[4, 9\] start in the 4 epochs"):
            self.build(cfg)
        with pytest.raises(ValueError, match="WARMUP_EPOCHS is -1"):
            self.build(tiny_cfg("SOLVER.WARMUP_EPOCHS", -1))

    @pytest.mark.parametrize("trainer_class", [PartsTrainer, DefaultTrainer])
    @pytest.mark.parametrize(
        "length", [("SOLVER.WARMUP_EPOCHS", 3), ("SOLVER.WARMUP_ITERS", 7)], ids=["epochs", "iterations"]
    )
    def test_exponential_warm_up_in_a_run(self, tiny_cfg: Callable, trainer_class: type, length: tuple) -> None:
        """RMGL, Sec. IV.A: from 1e-5 to 0.01 by an equal factor each iteration, decays after 4 and 6 epochs here."""
        cfg = tiny_cfg(
            *length, "SOLVER.WARMUP_METHOD", "exponential", "SOLVER.WARMUP_FACTOR", 0.001, "SOLVER.BASE_LR", 0.01,
            "SOLVER.STEPS", [4, 6], "SOLVER.STEPS_FROM_START", True, "SOLVER.MAX_EPOCH", 8,
            "SOLVER.CHECKPOINT_PERIOD", 0, "SOLVER.OPT", "SGD",
        )  # fmt: skip
        trainer = trainer_class(cfg)
        trainer.max_epoch = 8
        warmup = 9 if "EPOCHS" in length[0] else 7
        (hook,) = (hook for hook in trainer._hooks if isinstance(hook, hooks.LRScheduler))
        rates = run_schedule(trainer, hook)
        rate, expected = 1e-5, []
        for iteration in range(3 * 8):
            if iteration >= warmup:
                rate = 0.01 if iteration < 3 * 4 else 0.001 if iteration < 3 * 6 else 0.0001
            expected.append(rate)
            rate *= 1000 ** (1 / warmup)
        assert rates == pytest.approx(expected, rel=1e-6)

    EXPONENTIAL = (
        "SOLVER.WARMUP_METHOD", "exponential", "SOLVER.WARMUP_FACTOR", 0.001, "SOLVER.WARMUP_EPOCHS", 2,
        "SOLVER.BASE_LR", 0.01, "SOLVER.OPT", "SGD",
    )  # fmt: skip

    def warm_up(self, optimizer: torch.optim.Optimizer, scheduler: Any, iterations: int) -> list[list[float]]:
        """The rates of all groups in each of so many iterations."""
        rates = []
        for _ in range(iterations):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        return rates

    def test_every_group_keeps_its_share_of_the_rate(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg(*self.EXPONENTIAL, "SOLVER.LR_FACTORS", [["b1", 10.0], ["b1_head", 3.0]])
        optimizer, _ = build_optimizer(cfg, Toy())
        base = [group["lr"] for group in optimizer.param_groups]
        assert sorted(base) == pytest.approx([0.01, 0.03, 0.1])
        rates = self.warm_up(optimizer, build_lr_scheduler(cfg, optimizer, 4)["warmup_sched"], 9)
        for iteration, now in enumerate(rates):
            factor = 0.001
            for _ in range(iteration):
                factor *= 1000 ** (1 / 8)
            assert now == pytest.approx([factor * rate for rate in base], rel=1e-6)
        assert rates[-1] == base  # exactly: nothing of the warm-up is left in the rates that decay later

    @pytest.mark.parametrize("at", [1, 5, 8])
    def test_exponential_warm_up_goes_on_after_a_resume(self, tiny_cfg: Callable, at: int) -> None:
        cfg = tiny_cfg(*self.EXPONENTIAL, "SOLVER.LR_FACTORS", [["b1", 10.0]])

        def start() -> tuple[torch.optim.Optimizer, Any]:
            optimizer, _ = build_optimizer(cfg, Toy())
            return optimizer, build_lr_scheduler(cfg, optimizer, 4)["warmup_sched"]

        unbroken = self.warm_up(*start(), 9)
        optimizer, scheduler = start()
        before = self.warm_up(optimizer, scheduler, at)
        saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
        optimizer, scheduler = start()
        optimizer.load_state_dict(saved[0])
        scheduler.load_state_dict(saved[1])
        assert before + self.warm_up(optimizer, scheduler, 9 - at) == unbroken

    def test_the_other_warm_ups_stay_the_hosts(self, tiny_cfg: Callable) -> None:
        for method, third in (("constant", 0.1), ("linear", 0.55), ("exp", 0.1**0.5), ("exponential", 0.1**0.5)):
            cfg = tiny_cfg(
                "SOLVER.WARMUP_METHOD", method, "SOLVER.WARMUP_ITERS", 4, "SOLVER.BASE_LR", 1.0, "SOLVER.OPT", "SGD",
            )  # fmt: skip
            optimizer, _ = build_optimizer(cfg, Toy())
            rates = self.warm_up(optimizer, build_lr_scheduler(cfg, optimizer, 3)["warmup_sched"], 5)
            assert [rates[i][0] for i in (0, 2, 4)] == pytest.approx([0.1, third, 1.0])
            assert method == cfg.SOLVER.WARMUP_METHOD  # the caller's config, which goes into checkpoints

    def test_warm_ups_that_make_no_sense(self, tiny_cfg: Callable) -> None:
        unknown = ("SOLVER.WARMUP_METHOD", "cubic")
        with pytest.raises(ValueError, match="SOLVER.WARMUP_METHOD is 'cubic'; it is constant, linear or exponential"):
            self.build(tiny_cfg(*unknown, "SOLVER.WARMUP_EPOCHS", 1))
        self.build(tiny_cfg(*unknown))  # there is no warm-up
        with pytest.raises(ValueError, match="SOLVER.WARMUP_FACTOR is 0.*above 0"):
            self.build(tiny_cfg(*self.EXPONENTIAL, "SOLVER.WARMUP_FACTOR", 0.0))
        with pytest.raises(ValueError, match="SOLVER.WARMUP_FACTOR is -0.1"):
            self.build(tiny_cfg("SOLVER.WARMUP_ITERS", 2, "SOLVER.WARMUP_FACTOR", -0.1))
        self.build(tiny_cfg("SOLVER.WARMUP_ITERS", 2, "SOLVER.WARMUP_FACTOR", 0.0))  # a linear one can start there

    def test_unknown_schedule(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match="Poly"):
            self.build(tiny_cfg("SOLVER.SCHED", "Poly"))


def test_stock_mgn_freezes_its_branches_and_trains_their_heads(tiny_cfg: Callable) -> None:
    """Base-MGN's FREEZE_LAYERS [backbone, b1, b2, b3] froze every parameter of the host's MGN."""
    cfg = tiny_cfg(
        "MODEL.META_ARCHITECTURE", "MGN", "MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", 2048,
        "MODEL.HEADS.NUM_CLASSES", 3, "MODEL.FREEZE_LAYERS", ["backbone", "b1", "b2", "b3"], "SOLVER.FREEZE_ITERS", 5,
    )  # fmt: skip
    got = settings(cfg, build_model(cfg))
    trained = {n.split(".")[0] for n, s in got.items() if s["freeze_status"] == "normal"}
    assert trained == {"b1_head", "b2_head", "b21_head", "b22_head", "b3_head", "b31_head", "b32_head", "b33_head"}
