"""Every variant of a built method, and every config file, builds and takes a step at a tiny size."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage

from fastreid_parts.config import configs_root
from fastreid_parts.engine.solver import parameter_settings
from fastreid_parts.paper_results import load_ledger
from fastreid_parts.paper_results.runner import make_config, plan_runs

from ..conftest import SMALLEST

CLASSES = 5
TARGETS = (0, 0, 1, 1)  # pairs, so that a triplet loss has positives


def distinct_models():
    """One run for each paper, config and overrides of the built rows, the generated dataset included."""
    ledger = load_ledger()
    rows = ledger.select(built=True)
    runs = plan_runs(ledger, rows)
    runs += plan_runs(ledger, [row for row in rows if row.variant.train_on is None], dataset="SyntheticReID")
    models = {(run.variant.paper, run.config, str(sorted(run.overrides.items()))): run for run in runs}
    return list(models.values())


RUNS = distinct_models()


def distinct_trainings():
    """Of these, those that train a model, once for all datasets of the papers: their configs differ in the dataset."""
    models = {}
    for run in RUNS:
        if run.trained is None:
            folder, name = run.config.split("/")
            models.setdefault((folder == "Synthetic", name, str(sorted(run.overrides.items()))), run)
    return list(models.values())


TRAININGS = distinct_trainings()


def rows_of_the_map(cfg):
    """As many rows as the parts need, and six at least."""
    if cfg.MODEL.META_ARCHITECTURE == "RRID":
        return math.lcm(*cfg.MODEL.RRID.PARTS)
    if cfg.MODEL.META_ARCHITECTURE == "RMGL":
        return max(6, math.lcm(*cfg.MODEL.RMGL.BRANCHES))
    return max(6, cfg.MODEL.CGE.NUM_STRIPES, *(cfg.MODEL.CAN.PARTS if cfg.MODEL.META_ARCHITECTURE == "CAN" else ()))


def shrink(cfg):
    """Give the config the smallest network that has what it asks of its backbone, small images and few identities."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    backbone = cfg.MODEL.BACKBONE
    if backbone.TIMM.startswith("vit_"):
        backbone.TIMM, backbone.FEAT_DIM = "test_vit", 64
    elif backbone.NAME == "build_resnet_backbone" and (backbone.WITH_NL or backbone.WITH_IBN or backbone.WITH_SE):
        backbone.DEPTH, backbone.FEAT_DIM = "18x", 512
    else:
        cfg.merge_from_list(list(SMALLEST))
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.HEADS.NUM_CLASSES = CLASSES
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [16 * rows_of_the_map(cfg), 48]
    return cfg


def random_batch(cfg):
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.rand(len(TARGETS), 3, *cfg.INPUT.SIZE_TRAIN, generator=generator) * 255,
        "targets": torch.tensor(TARGETS),
    }


def test_all_of_them_are_here():
    cmbn = {run.variant.name for run in RUNS if run.variant.paper == "cmbn"}
    assert len(cmbn) == 8
    cge = {run.variant.name: run for run in RUNS if run.variant.paper == "cge"}
    # And six that are other names of these; eight are evaluations
    assert [len(cge), len([run for run in cge.values() if run.trained])] == [37, 8]
    rrid = [run for run in RUNS if run.variant.paper == "rrid" and run.config.startswith("Market/")]
    assert [len(rrid), len([run for run in rrid if run.trained])] == [30, 16]
    can = {run.variant.name for run in RUNS if run.variant.paper == "can"}
    assert len(can) == 15  # and two that are other names of these
    rmgl = {run.variant.name: run for run in RUNS if run.variant.paper == "rmgl" and run.config.startswith("Market/")}
    # Three transfers are trained elsewhere; one name stands for the targets of the fourth
    assert [len(rmgl), len([run for run in rmgl.values() if run.trained])] == [35, 7]
    folders = {
        "Market", "Duke", "CUHK03-labeled", "CUHK03-detected", "CUHK03-mixed", "MSMT17", "VeRi", "Synthetic",
    }  # fmt: skip
    assert {run.config.split("/")[0] for run in RUNS} >= folders


class Step(NamedTuple):
    """What a model showed in its step."""

    losses: frozenset[str]
    width: int  # of its features
    tensors: frozenset[str]  # by name


_steps: dict[str, Step] = {}


def take_a_step(cfg):
    """Take a step of the model that a config builds, once for all that build the same."""
    cfg = shrink(cfg)
    section = cfg.MODEL.dump()
    if section not in _steps:
        _steps[section] = _take_a_step(cfg)
    return _steps[section]


def _take_a_step(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with EventStorage():
        losses = model(random_batch(cfg))
    assert losses and all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()

    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trainable.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in trainable.values())
    # A bias before a batch norm has a gradient of rounding alone
    still = [name for name, p in trainable.items() if torch.equal(p, before[name])]
    assert all(trainable[name].grad.abs().max() < 1e-5 and name.endswith(".conv.bias") for name in still), still
    return Step(frozenset(losses), width_of(model, cfg), frozenset(model.state_dict()))


def width_of(model, cfg):
    return model.eval()(random_batch(cfg)).shape[1]


@pytest.mark.proves("cmbn", "cge", "rrid", "can", "rmgl", level=0)
@pytest.mark.parametrize("run", TRAININGS, ids=lambda run: f"{run.config}-{run.variant.name}")
def test_it_builds_and_takes_a_step(run, tmp_path):
    take_a_step(make_config(run, tmp_path))


CONFIGS = sorted(path.relative_to(configs_root()).as_posix() for path in configs_root().glob("**/*.yml"))


def read_config(name):
    cfg = get_cfg()
    cfg.merge_from_file(str(configs_root() / name))
    return cfg


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_loads(name):
    cfg = read_config(name)
    assert max(cfg.SOLVER.STEPS) < cfg.SOLVER.MAX_EPOCH
    assert name.startswith("Base-") or "logs/" + name[: -len(".yml")] == cfg.OUTPUT_DIR


def test_each_kind_of_config_file_takes_a_step():
    """Once for every model section: most configs of one method differ in their dataset only, those of speed in that."""
    others = [name for name in CONFIGS if not name.endswith("_fast.yml")]
    assert {f"Synthetic/{name}.yml" for name in ("can", "mgn", "rmgl", "rrid_f")} <= set(others)
    for name in others:
        take_a_step(read_config(name))


def terms(run, tmp_path):
    return take_a_step(make_config(run, tmp_path)).losses


def test_the_components_of_cmbn_add_their_losses(tmp_path):
    """Table 4: one identity loss; the reversal branch adds the chaos loss, the mask generator the second one."""
    counts = {run.variant.name: len(terms(run, tmp_path)) for run in RUNS if run.config == "Market/cmbn.yml"}
    assert counts == {
        "baseline": 1,
        "baseline_rb": 2,
        "baseline_mg": 2,
        "baseline_rb_mg": 3,
        "baseline_rb_mg_cds": 3,
        "baseline_rb_mg_cds_no_decay": 3,
        "baseline_rb_mg_cds_pooled": 3,
        "baseline_rb_mg_cds_detached": 3,
    }


def test_the_losses_of_cge_are_those_of_its_tables(tmp_path):
    """Table 5 and Sec. 4.2.1: the term beside the one over logits."""
    runs = [run for run in RUNS if run.config.startswith("Synthetic/cge")]  # every variant once
    added = {run.variant.name: terms(run.trained or run, tmp_path) - {"loss_cls"} for run in runs}
    trained = {run.variant.name: run.variant.evaluates or run.variant.name for run in runs}
    assert len(added) == 37
    expected = {
        "ce": set(), "sphere": {"loss_sphere"}, "lifted": {"loss_lifted"}, "instance": {"loss_instance"},
        "contrast": {"loss_contrastive"}, "circle": {"loss_circle"}, "agw": {"loss_wrt"},
    }  # fmt: skip
    for name, losses in added.items():
        assert losses == expected.get(trained[name].rsplit("_")[-1], {"loss_triplet"}), name


def test_a_baseline_of_cge_is_its_model_without_memories(tmp_path):
    for run in RUNS:
        if run.config.startswith("Synthetic/cge"):
            revised = any(name.endswith("memory") for name in take_a_step(make_config(run, tmp_path)).tensors)
            assert revised is run.variant.name.startswith("cge_"), run.name


def test_features_of_rrid_have_the_width_of_its_tables(tmp_path):
    """Table 2's F-dim; Tables 3 and 4 take 256 columns of the model that they evaluate, and its weights."""
    for run in (run for run in RUNS if run.variant.paper == "rrid" and run.config.startswith("Market/")):
        if run.trained is None:
            width = take_a_step(make_config(run, tmp_path)).width
        else:
            model, cfg = build(run, tmp_path)
            features = model(random_batch(cfg))
            width = features.shape[1]
            trained, _ = build(run.trained, tmp_path)
            trained.load_state_dict(model.state_dict())
            names = ["global_of_6", *(f"part_{i + 1}_of_6" for i in range(6))]
            first = 256 * names.index(*run.overrides["TEST.FEATURES"])
            torch.testing.assert_close(features, trained(random_batch(cfg))[:, first : first + 256])
        assert width == (run.variant.feature_dim or 1792), run.name


def build(run, tmp_path):
    """Build the model of a run for evaluation, and give its config."""
    cfg = shrink(make_config(run, tmp_path))
    return build_model(cfg).eval(), cfg


def test_the_losses_of_can_are_those_of_its_tables(tmp_path):
    """Table 4, row by row; Tables 2 and 3 have those of its second row."""
    ce = {"loss_cls_global", "loss_cls_part"}
    triplet, center = {"loss_triplet_global"}, {"loss_center_global"}
    locals_ = {"loss_triplet_parts", "loss_center_parts"}
    expected = {
        "can_ce": ce,
        "can_ce_trip_center": ce | triplet | center,
        "can_ce_trip_center_global_local": ce | triplet | center | locals_,
        "can_to_the_letter": ce | triplet | center | locals_,
        "can_decay": ce | triplet | center | locals_,
    }
    runs = [run for run in TRAININGS if run.config == "Market/can.yml"]
    assert len(runs) == 15
    for run in runs:
        assert terms(run, tmp_path) == expected.get(run.variant.name, ce | triplet), run.name


def test_features_and_losses_of_rmgl_are_those_of_its_tables(tmp_path):
    """Table V: one global feature and n local ones for each path of a branch; an evaluation takes another's weights."""
    for run in (run for run in RUNS if run.variant.paper == "rmgl" and run.config.startswith("Market/")):
        stripes, *parts = run.variant.name.split("_from_")[0].split("_")
        paths = 2 if "rp" in parts and "only" not in parts else 1
        counts = [int(n) for n in stripes.split("s") if n]
        features = sum((1 + n) * paths if n > 1 else 1 for n in counts)
        if run.trained is None:
            cfg = make_config(run, tmp_path)
            step = take_a_step(cfg)
            width = step.width
            losses = {f"loss_cls_{path}" for path in ("original", "receptive") if path in cfg.MODEL.RMGL.PATHS}
            assert step.losses == {"loss_triplet_all"} | losses, run.name
        else:
            model, cfg = build(run, tmp_path)
            width = width_of(model, cfg)
            build(run.trained, tmp_path)[0].load_state_dict(model.state_dict())
        assert width == 256 * features, run.name


def test_balanced_stripes_are_another_evaluation_of_the_same_training(tmp_path):
    [run] = [run for run in RUNS if run.config == "Market/rmgl.yml" and run.variant.name == "2s3s_abp"]
    models = [build_model(shrink(make_config(one, tmp_path))) for one in (run, run.trained)]
    models[1].load_state_dict(models[0].state_dict())
    cfg = shrink(make_config(run, tmp_path))
    batch = random_batch(cfg)
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN)[:, None, None]
    batch["images"][:, :, 32:] = mean  # all that there is to see is at the top
    features = [model.eval()(batch) for model in models]
    assert not torch.allclose(*features)
    with EventStorage():
        losses = [model.train()(batch) for model in models]
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name], rtol=0, atol=0)


def test_rates_of_rmgl(tmp_path):
    """Sec. IV.A: ten times the rate for reductions and classifiers, and for nothing else; one weight decay for all."""
    cfg = shrink(read_config("Market/rmgl.yml"))
    model = build_model(cfg)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[s["params"][0]]: (s["lr"], s["weight_decay"]) for s in parameter_settings(cfg, model)}
    assert set(rates) == set(names.values())
    for name, rate in rates.items():
        fast = name.startswith(("heads.reduction.", "heads.classifiers."))
        assert rate == (pytest.approx(0.1 if fast else 0.01), 0.001), name
    fast = {name for name, (rate, _) in rates.items() if rate > 0.05}
    assert len(fast) == len(list(model.heads.reduction.parameters())) + len(list(model.heads.classifiers.parameters()))
    for name in ("Market/rmgl_strong.yml", "Synthetic/rmgl.yml"):  # Adam adapts the rate of each parameter
        cfg = shrink(read_config(name))
        assert len({s["lr"] for s in parameter_settings(cfg, build_model(cfg))}) == 1


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("Synthetic/")])
def test_a_warm_up_on_generated_images_leaves_room_for_training(name):
    """fast-reid's default, 1000 iterations, is longer than these trainings: no config takes it by accident."""
    cfg = read_config(name)
    iters = 1600 // cfg.SOLVER.IMS_PER_BATCH  # images of the demo scale's training set
    warm_up = cfg.SOLVER.WARMUP_EPOCHS * iters or cfg.SOLVER.WARMUP_ITERS
    assert warm_up <= 0.2 * cfg.SOLVER.MAX_EPOCH * iters
