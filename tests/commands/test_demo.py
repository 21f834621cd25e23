from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode

from fastreid_parts.commands import demo
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.evaluation import Features, evaluate_features

from .run import problem, run

PICTURES = ("training_curve.png", "rank_lists.png", "occlusion_maps.png", "overview.png")


@pytest.fixture
def config_file(cmbn_cfg: Callable[..., CfgNode], tmp_path: Path) -> str:
    path = tmp_path / "tiny.yml"
    path.write_text(cmbn_cfg("TEST.METRIC", "euclidean").dump())
    return str(path)


def test_whole_demo_and_again(config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out"
    arguments = ["demo", "--config-file", config_file, "--output", output, "--seed"]
    printed = run(capsys, *arguments, 5).out
    results = json.loads((output / "results.json").read_text())
    assert list(results["results"]) == [demo.HISTOGRAM, demo.UNTRAINED, demo.TRAINED]
    assert results["seed"] == 5 and results["architecture"] == "CMBN"
    report = (output / "results.md").read_text()
    for name, values in results["results"].items():
        assert values["mAP"] > 0
        (row,) = [line for line in printed.splitlines() if line.startswith(name)]
        assert f"{values['mAP']:.1f}" in row
        assert f"{values['mAP']:.1f}" in report
    assert results["rank1_by_exact_search"] == pytest.approx(results["results"][demo.TRAINED]["Rank-1"])
    for name in PICTURES:
        assert cv2.imread(str(output / name)).std() > 5, name
    assert "epoch   2/2" in printed
    assert printed.splitlines()[-1].endswith(str(output))

    # The same again: what is trained stays, the numbers too
    printed = run(capsys, *arguments, 5).out
    assert "epoch   1/2" not in printed
    again = json.loads((output / "results.json").read_text())
    assert again["results"] == results["results"]

    assert "other settings" in problem(capsys, *arguments, 6)


def test_bad_settings_are_named(config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["demo", "--output", tmp_path / "out", "--config-file"]
    assert "nowhere.yml" in problem(capsys, *words, "nowhere.yml")
    assert "NO_SUCH_KEY" in problem(capsys, *words, config_file, "SOLVER.NO_SUCH_KEY", "1")
    assert "seed" in problem(capsys, *words, config_file, "--seed", "-1")
    assert "TEST.METRIC" in problem(capsys, *words, config_file, "TEST.METRIC", "manhattan")
    assert not (tmp_path / "out").exists()


def test_config_evaluates_on_the_way_unless_told_otherwise(config_file: str, tmp_path: Path) -> None:
    cfg = demo.demo_config(config_file, 0, str(tmp_path), ["SOLVER.MAX_EPOCH", "20"])
    assert cfg.TEST.EVAL_PERIOD == 4 and cfg.SEED == 0
    assert str(tmp_path / "training") == cfg.OUTPUT_DIR
    cfg = demo.demo_config(config_file, 0, str(tmp_path), ["TEST.EVAL_PERIOD", "7"])
    assert cfg.TEST.EVAL_PERIOD == 7


def test_untrained_network_is_where_training_starts(cmbn_cfg: Callable[..., CfgNode]) -> None:
    cfg = cmbn_cfg()
    trainer = PartsTrainer(cfg)
    model = demo.initial_model(cfg, num_classes=6)
    expected = trainer.model.state_dict()
    assert set(model.state_dict()) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_search_agrees_with_the_evaluator(tiny_cfg: Callable[..., CfgNode], metric: str) -> None:
    rng = np.random.default_rng(0)
    features = Features(
        rng.normal(size=(60, 4)).astype(np.float32),
        rng.integers(0, 8, 60),
        rng.integers(0, 3, 60),
        [f"{i}.jpg" for i in range(60)],
    )
    expected = evaluate_features(features, 20, tiny_cfg("TEST.METRIC", metric))["Rank-1"]
    assert 0 < expected < 100
    assert demo.search_rank1(*features.split(20), metric) == pytest.approx(expected, abs=1e-4)


def test_logging_is_quiet_and_put_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    logger = logging.getLogger("fastreid_parts")
    before = list(logger.handlers), logger.level, logger.propagate
    with demo.quiet_logging(str(tmp_path / "log.txt")):
        logger.getChild("data").info("a detail")
        logger.getChild("engine.hooks").info("epoch 1 of 2")
        logger.getChild("data").warning("look here")
    assert (list(logger.handlers), logger.level, logger.propagate) == before
    printed = capsys.readouterr().out
    assert "a detail" not in printed and "epoch 1 of 2" in printed and "look here" in printed
    assert "a detail" in (tmp_path / "log.txt").read_text()
