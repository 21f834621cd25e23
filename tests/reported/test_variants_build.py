"""Every variant of a built method builds from its config and overrides, and takes a step at a tiny size."""

from __future__ import annotations

import pytest
import torch
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage

from fastreid_parts.reported import load_ledger
from fastreid_parts.reported.runner import make_config, plan_runs

BATCH, CLASSES = 4, 5


def distinct_models():
    """One run for each config and overrides that the ledger's built rows name, the generated dataset's included."""
    ledger = load_ledger()
    rows = ledger.select(built=True)
    runs = plan_runs(ledger, rows)
    runs += plan_runs(ledger, [row for row in rows if row.variant.train_on is None], dataset="SyntheticReID")
    models = {(run.config, str(sorted(run.overrides.items()))): run for run in runs}
    return list(models.values())


RUNS = distinct_models()


def shrink(cfg):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.DEPTH = "18x"
    cfg.MODEL.BACKBONE.FEAT_DIM = 512
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.HEADS.NUM_CLASSES = CLASSES
    cfg.INPUT.SIZE_TRAIN = [96, 48]
    cfg.INPUT.SIZE_TEST = [96, 48]
    return cfg


def random_batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.rand(BATCH, 3, 96, 48, generator=generator) * 255,
        "targets": torch.randint(CLASSES, (BATCH,), generator=generator),
        "camids": torch.zeros(BATCH, dtype=torch.long),
        "img_paths": [""] * BATCH,
    }


def test_all_of_them_are_here():
    cmbn = {run.variant.name for run in RUNS if run.variant.paper == "cmbn"}
    assert len(cmbn) == 5
    assert {run.config.split("/")[0] for run in RUNS} >= {"Market", "Duke", "CUHK03-labeled", "Synthetic"}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.config}-{run.variant.name}")
def test_it_builds_and_takes_a_step(run, tmp_path):
    torch.manual_seed(0)
    model = build_model(shrink(make_config(run, tmp_path))).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with EventStorage():
        losses = model(random_batch())
    assert losses and all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()

    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, p in trainable.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in trainable.values())
    assert [name for name, p in trainable.items() if torch.equal(p, before[name])] == []


def terms(run, tmp_path):
    model = build_model(shrink(make_config(run, tmp_path))).train()
    with EventStorage():
        return set(model(random_batch()))


def test_the_components_of_cmbn_add_their_losses(tmp_path):
    """Table 4: one identity loss; the reversal branch adds the chaos loss, the mask generator the second one."""
    counts = {run.variant.name: len(terms(run, tmp_path)) for run in RUNS if run.config == "Market/cmbn.yml"}
    assert counts == {
        "baseline": 1,
        "baseline_rb": 2,
        "baseline_mg": 2,
        "baseline_rb_mg": 3,
        "baseline_rb_mg_cds": 3,
    }
