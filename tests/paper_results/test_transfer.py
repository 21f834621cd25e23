"""Direct transfer (RMGL, Table IV): one training, evaluated on datasets that it has not seen."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastreid.data.datasets import DATASET_REGISTRY

from fastreid_parts.commands import reproduce, train
from fastreid_parts.data.datasets.folder import FolderReID
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.paper_results import Ledger, load_measured
from fastreid_parts.paper_results.runner import plan_runs, run_variant

from ..commands.run import run
from ..conftest import write_market


@pytest.fixture
def datasets(tmp_path, market_folder, monkeypatch):
    """Three registered datasets of two folders: Near has the images of Source, in Far nobody can be recognized."""
    far = write_market(tmp_path / "far", test_ids=7)
    rng = np.random.default_rng(0)
    for path in far.glob("*/*.jpg"):
        cv2.imwrite(str(path), rng.integers(0, 255, (48, 24, 3), np.uint8))
    for name, folder in (("Source", market_folder), ("Near", market_folder), ("Far", far)):

        def from_config(cls, cfg, root, folder=folder, **kwargs):
            return cls(root=str(folder), **kwargs)

        dataset = type(name, (FolderReID,), {"from_config": classmethod(from_config)})
        monkeypatch.setitem(DATASET_REGISTRY._obj_map, name, dataset)


@pytest.fixture
def ledger(tmp_path, tiny_cfg, datasets):
    """A ledger of one model: trained on Source, evaluated on Near and on one that Far is read for."""
    overrides = ("DATASETS.NAMES", ("Source",), "DATASETS.TESTS", ("Source",))
    (tmp_path / "source.yml").write_text(tiny_cfg(*overrides, "SOLVER.MAX_EPOCH", 1).dump())
    document = {
        "paper": "one", "recipe": "open", "recipe_reason": "", "config": str(tmp_path / "{folder}.yml"),
        "variants": {
            "model": {"description": "", "overrides": {}},
            "from_Source": {"description": "", "train_on": "Source", "evaluates": "model"},
        },
        "tables": [
            {
                "source": "Table IV",
                "columns": {"Near": ["mAP", "rank1"], "Far_unspecified": ["mAP", "rank1"]},
                "rows": [{"row": "model", "variant": "from_Source", "values": [1.0, 2.0, 3.0, 4.0]}],
            }
        ],
    }  # fmt: skip
    rules = {
        "datasets": {
            "Source": {"folder": "source", "queries": 4},
            "Near": {"queries": 4},
            "Far": {"queries": 7},
            "Far_unspecified": {"measured_on": "Far", "queries": 7},
        },
        "tolerance": {"openness": {"open": {"share": 0.1}}, "spread": {"errors": 2}},
    }
    return Ledger.from_documents(rules, [document])


def test_one_command_trains_the_source_once_and_evaluates_it_on_each_target(ledger, tmp_path, monkeypatch, capsys):
    class Counted(PartsTrainer):
        def train(self):
            trained.append(self.cfg.OUTPUT_DIR)
            return super().train()

    trained = []
    monkeypatch.setattr(reproduce, "load_ledger", lambda: ledger)
    monkeypatch.setattr(reproduce, "run_variant", lambda run, root: run_variant(run, root, Counted))
    words = ["run", "--paper", "one", "--table", "Table IV", "--output", str(tmp_path / "results")]
    run(capsys, "reproduce", *words)
    assert trained == [str(tmp_path / "results" / "one" / "Source" / "model" / "seed0")]
    assert run(capsys, "reproduce", *words).out.count("(done already)") == 2 and len(trained) == 1

    [model] = load_measured(tmp_path / "results", "one", "Source", "model")
    [near] = load_measured(tmp_path / "results", "one", "Near", "from_Source")
    [far] = load_measured(tmp_path / "results", "one", "Far_unspecified", "from_Source")
    assert near.metrics == pytest.approx(model.metrics)  # the same images by another name
    assert far.metrics["mAP"] < 80 < near.metrics["mAP"]
    assert near.resolved_config["DATASETS"]["TESTS"] == ["Near"]
    assert far.resolved_config["DATASETS"]["TESTS"] == ["Far"]
    assert near.resolved_config["DATASETS"]["NAMES"] == far.resolved_config["DATASETS"]["NAMES"] == ["Source"]
    checked = run(capsys, "reproduce", "check", "--paper", "one", "--output", tmp_path / "results", code=None)
    assert checked.code in (0, 1) and "Far_unspecified mAP: " in checked.out


def test_train_net_evaluates_a_checkpoint_on_several_datasets_at_once(ledger, tmp_path, capsys):
    """What `--eval-only` with several DATASETS.TESTS gives is what each of them gives by itself."""
    runs = plan_runs(ledger, ledger.rows)
    results = {run.dataset: run_variant(run, tmp_path / "results")[0].metrics for run in runs}
    weights = Path(runs[0].trained.folder(tmp_path / "results")) / "model_final.pth"
    words = ["--config-file", str(tmp_path / "source.yml"), "--eval-only", "MODEL.WEIGHTS", str(weights)]
    words += ["DATASETS.TESTS", "('Near', 'Far')", "OUTPUT_DIR", str(tmp_path / "both")]
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    there = train.work(parser.parse_args(words))
    assert list(there) == ["Near", "Far"]
    for name, dataset in (("Near", "Near"), ("Far", "Far_unspecified")):
        assert there[name]["mAP"] == pytest.approx(results[dataset]["mAP"])
        assert there[name]["Rank-1"] == pytest.approx(results[dataset]["rank1"])
