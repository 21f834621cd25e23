"""Runs: one folder each, skipped when done, resumed when interrupted, refused when the folder holds another."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict

import pytest
import torch

from fastreid_parts.engine import PartsTrainer
from fastreid_parts.paper_results import ResultError, load_ledger, load_measured
from fastreid_parts.paper_results.runner import evaluate_weights, make_config, plan_runs, run_variant

from ..conftest import SMALLEST

HOST_RESULTS = OrderedDict(
    [("Rank-1", 60.5), ("Rank-5", 80.0), ("Rank-10", 90.0), ("mAP", 50.25), ("mINP", 20.0), ("metric", 55.375)]
)


class FakeTrainer:
    """Stands in for the trainer where only the runner is tested; remembers the configs that it was given."""

    configs = []
    results = HOST_RESULTS
    model = torch.nn.Identity()

    def __init__(self, cfg):
        self.configs.append(cfg)
        self.resume = None

    def resume_or_load(self, resume=True):
        self.resume = resume

    def train(self):
        assert self.resume is True
        return self.results


@pytest.fixture(autouse=True)
def fresh():
    FakeTrainer.configs = []
    FakeTrainer.results = HOST_RESULTS


def plan(variant="baseline", dataset="SyntheticReID", seeds=(0,), extra=(), paper="cmbn", source="Table 4"):
    ledger = load_ledger()
    rows = ledger.select(paper=paper, source=source, variant=variant)
    return plan_runs(ledger, rows, seeds, dataset, extra)


def one(*extra, **kwargs):
    [run] = plan(extra=extra, **kwargs)
    return run


# ---- planning ---------------------------------------------------------------------------------------------------


def test_a_model_is_trained_once_a_dataset_and_seed():
    ledger = load_ledger()
    assert (
        len(plan_runs(ledger, ledger.select(paper="cmbn"))) == 4 * 5 + 3
    )  # 5 variants, 4 datasets; 4 tables name them; 3 other readings
    assert len(plan(variant=None, seeds=(0, 1, 2))) == 15  # a stand-in dataset: 5 variants, 3 seeds
    assert {run.config for run in plan(variant=None)} == {"Synthetic/cmbn.yml"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["SOLVER.MAX_EPOCH"], "'SOLVER.MAX_EPOCH' has no value"),
        (["SEED", "3"], "SEED is set by the runner; use --seed"),
        (["OUTPUT_DIR", "x"], "OUTPUT_DIR is set by the runner; use --output"),
    ],
)
def test_bad_overrides_are_named(extra, message):
    with pytest.raises(ValueError, match=message):
        plan(extra=extra)


def test_the_users_overrides_come_after_the_variants(tmp_path):
    cfg = make_config(one("MODEL.CMBN.MASK_GENERATOR", "True", seeds=(7,)), tmp_path / "x")
    assert cfg.MODEL.CMBN.MASK_GENERATOR is True and cfg.MODEL.CMBN.REVERSAL_BRANCH is False
    assert cfg.SEED == 7 and str(tmp_path / "x") == cfg.OUTPUT_DIR
    with pytest.raises(KeyError, match="MODEL.CMBN.MASK_GENERATR"):
        make_config(one("MODEL.CMBN.MASK_GENERATR", "True"), tmp_path)


# ---- running, with a trainer that does nothing ----------------------------------------------------------------------


def test_a_result_says_what_it_is_of(tmp_path):
    run = one("MODEL.DEVICE", "cpu", seeds=(2,))
    result, was_there = run_variant(run, tmp_path, FakeTrainer)
    assert not was_there
    folder = tmp_path / "cmbn" / "SyntheticReID" / "baseline" / "seed2"
    assert str(folder) == FakeTrainer.configs[0].OUTPUT_DIR and FakeTrainer.configs[0].SEED == 2
    content = json.loads((folder / "result.json").read_text())
    assert content["metrics"] == {"mAP": 50.25, "rank1": 60.5, "rank5": 80.0, "rank10": 90.0, "mINP": 20.0}
    assert content["overrides"]["MODEL.CMBN.MASK_GENERATOR"] is False
    assert content["extra_overrides"] == {"MODEL.DEVICE": "cpu"}
    assert content["resolved_config"]["MODEL"]["CMBN"]["MASK_GENERATOR"] is False
    assert set(content["versions"]) == {"python", "torch", "numpy", "fastreid", "fastreid_parts"}
    assert content["device"].startswith("cpu") and content["wall_seconds"] >= 0 and not content["resumed"]
    assert load_measured(tmp_path, "cmbn", "SyntheticReID", "baseline") == [result]


def test_what_is_done_is_skipped(tmp_path):
    first, _ = run_variant(one(), tmp_path, FakeTrainer)
    again, was_there = run_variant(one(), tmp_path, FakeTrainer)
    assert was_there and again == first and len(FakeTrainer.configs) == 1
    run_variant(one(seeds=(1,)), tmp_path, FakeTrainer)
    assert len(FakeTrainer.configs) == 2


def test_another_device_is_the_same_experiment(tmp_path):
    run_variant(one(), tmp_path, FakeTrainer)
    _, was_there = run_variant(one("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"), tmp_path, FakeTrainer)
    assert was_there


def test_a_folder_of_another_experiment_is_refused(tmp_path):
    run_variant(one(), tmp_path, FakeTrainer)
    with pytest.raises(ResultError, match=r"SOLVER.MAX_EPOCH 10 \(now 1\); use another --output"):
        run_variant(one("SOLVER.MAX_EPOCH", "1"), tmp_path, FakeTrainer)


def test_an_interrupted_run_is_not_mixed_with_another(tmp_path):
    class Stopped(FakeTrainer):
        def train(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_variant(one(), tmp_path, Stopped)
    assert not list(tmp_path.glob("**/result.json"))
    with pytest.raises(ResultError, match="SOLVER.MAX_EPOCH"):
        run_variant(one("SOLVER.MAX_EPOCH", "1"), tmp_path, FakeTrainer)
    _, was_there = run_variant(one(), tmp_path, FakeTrainer)
    assert not was_there


def test_checkpoints_of_unknown_origin_are_refused(tmp_path):
    folder = one().folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(ResultError, match="holds another run: last_checkpoint of a run that left no run.json"):
        run_variant(one(), tmp_path, FakeTrainer)


@pytest.mark.parametrize("results", [None, {}, {"mAP": 1.0}, {**HOST_RESULTS, "mAP": float("nan")}])
def test_a_run_without_usable_metrics_leaves_no_result(tmp_path, results):
    FakeTrainer.results = results
    with pytest.raises(ResultError, match="cmbn/SyntheticReID/baseline, seed 0: the evaluation gave"):
        run_variant(one(), tmp_path, FakeTrainer)
    assert not list(tmp_path.glob("**/result.json"))


def test_each_run_has_a_log_of_its_own(tmp_path):
    class Talks(FakeTrainer):
        def train(self):
            logging.getLogger("fastreid.test").info("this is %s", self.configs[-1].OUTPUT_DIR)
            return self.results

    before = list(logging.getLogger("fastreid").handlers)
    runs = [one(seeds=(seed,)) for seed in (0, 1)]
    for run in runs:
        run_variant(run, tmp_path, Talks)
    for run, other in zip(runs, reversed(runs)):
        log = (run.folder(tmp_path) / "log.txt").read_text()
        assert f"this is {run.folder(tmp_path)}" in log
        assert f"this is {other.folder(tmp_path)}" not in log
    assert logging.getLogger("fastreid").handlers == before


# ---- running, for real ----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(market_folder):
    """Overrides that make configs/Synthetic train in seconds on the tests' own images."""
    return (
        *map(str, SMALLEST),
        "MODEL.DEVICE", "cpu",
        "INPUT.SIZE_TRAIN", "[48, 24]",
        "INPUT.SIZE_TEST", "[48, 24]",
        "DATASETS.NAMES", "('FolderReID',)",
        "DATASETS.TESTS", "('FolderReID',)",
        "DATASETS.FOLDER.ROOT", str(market_folder),
        "DATALOADER.NUM_WORKERS", "0",
        "SOLVER.IMS_PER_BATCH", "12",
        "SOLVER.MAX_EPOCH", "2",
        "SOLVER.STEPS", "[1]",
        "SOLVER.CHECKPOINT_PERIOD", "1",
        "TEST.EVAL_PERIOD", "2",
    )  # fmt: skip


def test_a_killed_run_is_resumed_and_its_weights_give_the_same_metrics(tmp_path, tiny):
    class Killed(PartsTrainer):
        def before_epoch(self):
            if self.epoch == 1:
                raise KeyboardInterrupt
            super().before_epoch()

    class Remembers(PartsTrainer):
        def train(self):
            started_at.append(self.start_epoch)
            return super().train()

    started_at = []
    run = one(*tiny, variant="baseline_rb_mg_cds")
    with pytest.raises(KeyboardInterrupt):
        run_variant(run, tmp_path, Killed)
    result, was_there = run_variant(run, tmp_path, Remembers)
    assert not was_there and result.resumed and started_at == [1]

    straight, _ = run_variant(run, tmp_path / "straight", Remembers)
    assert started_at == [1, 0] and not straight.resumed
    assert straight.metrics == result.metrics
    assert set(result.mechanisms) == {"mask", "reversal_mask"} and result.mechanisms == straight.mechanisms
    assert result.mechanisms["reversal_mask"]["training_only"] and result.mechanisms["mask"]["figures"]["std"] > 0
    assert load_measured(tmp_path, "cmbn", "SyntheticReID", "baseline_rb_mg_cds") == [result]

    weights = run.folder(tmp_path) / "model_final.pth"
    assert evaluate_weights(run, weights, tmp_path / "evaluation") == pytest.approx(dict(result.metrics))
    with pytest.raises(FileNotFoundError, match="no weights at"):
        evaluate_weights(run, tmp_path / "none.pth", tmp_path)


def test_single_features_are_those_of_one_training(tmp_path, tiny):
    """Tables 3 and 4 of RRID: one model is trained, and evaluated with one feature after the other."""

    class Counted(PartsTrainer):
        def train(self):
            trained.append(self.cfg.OUTPUT_DIR)
            return super().train()

    trained = []
    extra = (*tiny, "INPUT.SIZE_TRAIN", "[96, 24]", "INPUT.SIZE_TEST", "[96, 24]", "MODEL.HEADS.EMBEDDING_DIM", "8")
    local, other = (one(*extra, paper="rrid", source="Table 3", variant=f"single_local_{i}_rm") for i in (1, 6))
    whole = one(*extra, paper="rrid", source="Table 1", variant="gcp_rm_p6")
    first, was_there = run_variant(local, tmp_path, Counted)
    assert not was_there and trained == [str(whole.folder(tmp_path))]
    second, _ = run_variant(other, tmp_path, Counted)
    result, was_there = run_variant(whole, tmp_path, Counted)
    assert was_there and len(trained) == 1
    assert run_variant(local, tmp_path, Counted) == (first, True)

    assert (first.variant, second.variant) == ("single_local_1_rm", "single_local_6_rm")
    assert second.overrides == {"TEST.FEATURES": ["part_6_of_6"]} and result.overrides == {}
    assert len({str(measured.metrics) for measured in (first, second, result)}) > 1
    weights = [whole.folder(tmp_path) / f"{name}_final.pth" for name in ("weights", "model")]
    for path in weights:
        assert evaluate_weights(other, path, tmp_path / "evaluation") == pytest.approx(dict(second.metrics))
        path.unlink()
    with pytest.raises(ResultError, match="gcp_rm_p6, seed 0 is done, but its .*weights_final.pth is gone"):
        run_variant(one(*extra, paper="rrid", source="Table 3", variant="single_local_2_rm"), tmp_path, Counted)


def test_balanced_stripes_and_re_ranking_evaluate_the_model_without_them(tmp_path, tiny):
    """RMGL, Tables I and V: what is added at test only needs no training of its own."""

    class Counted(PartsTrainer):
        def train(self):
            trained.append(self.cfg.OUTPUT_DIR)
            return super().train()

    trained = []
    extra = (*tiny, "INPUT.SIZE_TRAIN", "[96, 24]", "INPUT.SIZE_TEST", "[96, 24]", "MODEL.HEADS.EMBEDDING_DIM", "8")
    extra += ("SOLVER.MAX_EPOCH", "1", "SOLVER.STEPS", "[]")
    for variant, model, source in (
        ("2s_abp", "2s_bl", "Table V"),
        ("2s3s_rp_abp_rsa_rk", "2s3s_rp_abp_rsa", "Table I"),
    ):
        run = one(*extra, paper="rmgl", source=source, variant=variant)
        result, was_there = run_variant(run, tmp_path, Counted)
        assert not was_there and trained[-1] == str(run.trained.folder(tmp_path)) and f"/{model}/" in trained[-1]
        there = one(*extra, paper="rmgl", source="Table V", variant=model)
        assert run_variant(there, tmp_path, Counted)[1] and len(trained) == len(set(trained))
        assert result.overrides == run.overrides
        assert "balanced_stripes" in result.mechanisms  # of what is evaluated, not of what was trained
    assert len(trained) == 2
