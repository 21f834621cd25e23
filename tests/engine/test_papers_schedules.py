"""The learning rates of the five recipes, stepped over all their epochs: the papers', and RRID's and CAN's code's."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import hooks

from fastreid_parts.config import configs_root
from fastreid_parts.engine.solver import build_lr_scheduler
from fastreid_parts.paper_results import load_ledger

from .test_solver import Toy, run_schedule

FACTS = json.loads((Path(__file__).parents[1] / "methods/parity/facts.json").read_text())["schedule"]
ITERATIONS = 4  # of an epoch here


def recipe(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(configs_root() / name))
    return cfg


def rates(cfg: CfgNode) -> list[float]:
    """The backbone's rate in each iteration of a run with four iterations an epoch."""
    optimizer = torch.optim.SGD(Toy().parameters(), lr=cfg.SOLVER.BASE_LR)
    hook = hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer, ITERATIONS))
    hook.trainer = types.SimpleNamespace(
        optimizer=optimizer, grad_scaler=None, iters_per_epoch=ITERATIONS, max_epoch=cfg.SOLVER.MAX_EPOCH,
        delay_epochs=cfg.SOLVER.DELAY_EPOCHS,
    )  # fmt: skip
    return run_schedule(hook.trainer, hook)


def plateaus(found: list[float]) -> list[tuple[int, float]]:
    """The epoch in which each rate starts, and the rate."""
    starts = [i for i in range(len(found)) if i == 0 or found[i] != found[i - 1]]
    assert all(start % ITERATIONS == 0 for start in starts)
    return [(start // ITERATIONS, found[start]) for start in starts]


def check(found: list[float], expected: list[tuple[int, float]]) -> None:
    got = plateaus(found)
    assert [epoch for epoch, _ in got] == [epoch for epoch, _ in expected]
    assert [rate for _, rate in got] == pytest.approx([rate for _, rate in expected])


@pytest.mark.parametrize("name", ["rrid_f", "rrid_s"])
def test_rrid_is_its_code(name: str) -> None:
    cfg, facts = recipe(f"Market/{name}.yml"), FACTS["rrid"]
    solver, an_epoch = cfg.SOLVER, FACTS["images"] // cfg.SOLVER.IMS_PER_BATCH
    assert solver.MAX_EPOCH * an_epoch == pytest.approx(facts["iterations"], abs=an_epoch / 2)
    got = plateaus(rates(cfg))
    assert len(got) == len(facts["rates"])
    for (epoch, rate), theirs in zip(got, facts["rates"]):
        assert epoch * an_epoch == pytest.approx(theirs["iterations_before"], abs=an_epoch / 2)
        assert [rate, rate * solver.HEADS_LR_FACTOR] == pytest.approx(theirs["rates_backbone_new"])


@pytest.mark.parametrize(
    ("folder", "identities"),
    [
        ("Market", FACTS["identities"]), ("Duke", 702), ("CUHK03-labeled", 767), ("CUHK03-detected", 767),
        ("CUHK03-mixed", 767), ("MSMT17", 1041),
    ],
)  # fmt: skip
def test_can_is_its_paper_in_iterations_of_its_code(folder: str, identities: int) -> None:
    cfg, facts = recipe(f"{folder}/can.yml"), FACTS["can"]
    images = load_ledger().training_images(cfg.DATASETS.NAMES)
    assert images is not None and (folder != "Market" or images == FACTS["images"])
    assert cfg.DATALOADER.SAMPLER_TRAIN == "EqualIdentitySampler" and cfg.DATALOADER.NUM_INSTANCE == 4
    paper = facts["paper_in_iterations_of_their_sampler"]
    theirs = -(-identities * 4 // facts["batch"])  # iterations of their epoch
    if folder == "Market":
        assert theirs == facts["iterations_an_epoch"]
        assert paper["iterations_before_decays"] == [epoch * theirs for epoch in paper["decays_after_epochs"]]
    an_epoch = images // cfg.SOLVER.IMS_PER_BATCH
    got = plateaus(rates(cfg))
    assert [rate for _, rate in got] == pytest.approx([3e-4, 3e-5, 3e-6, 3e-7])
    ends = [epoch for epoch, _ in got[1:]] + [cfg.SOLVER.MAX_EPOCH]
    for ours, epochs in zip(ends, [*paper["decays_after_epochs"], paper["epochs"]]):
        assert ours * an_epoch == pytest.approx(epochs * theirs, abs=0.51 * an_epoch)


@pytest.mark.parametrize("name", ["Market/cge_bot.yml", "MSMT17/cge_agw.yml", "VeRi/cge_upt_agw.yml"])
def test_cge_is_sec_4_1_3(name: str) -> None:
    """3.5e-5 to 3.5e-4 in ten epochs, 3.5e-5 after 40 epochs and 3.5e-6 after 90 of 120."""
    got = rates(recipe(name))
    assert len(got) == 120 * ITERATIONS
    assert got[: 10 * ITERATIONS] == pytest.approx([3.5e-5 + 3.15e-4 * i / 40 for i in range(40)])
    check(got[10 * ITERATIONS :], [(0, 3.5e-4), (30, 3.5e-5), (80, 3.5e-6)])


def test_cmbn_is_sec_4_2() -> None:
    """3e-4, a tenth of it every ten epochs; the paper has no end, ours is one plateau after the third decay."""
    check(rates(recipe("Market/cmbn.yml")), [(0, 3e-4), (10, 3e-5), (20, 3e-6), (30, 3e-7)])


def test_rmgl_is_sec_iv_a() -> None:
    """1e-5 to 0.01 by equal factors in three epochs, a tenth after 30 and 50; the end, 70, is not the paper's."""
    got = rates(recipe("Market/rmgl.yml"))
    assert len(got) == 70 * ITERATIONS
    warm = 3 * ITERATIONS
    assert got[:warm] == pytest.approx([1e-5 * 1000 ** (i / warm) for i in range(warm)])
    check(got[warm:], [(0, 0.01), (27, 0.001), (47, 0.0001)])
