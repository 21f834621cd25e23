"""The cost benchmark: what it prints for a model beside another, in inference and in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .run import problem, run

COARSE = ["--batch", "4", "--rounds", "2", "--classes", "6"]


def _rows(capsys: Any, *words: object) -> list[list[str]]:
    table = [line for line in run(capsys, "cost", *words).out.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]


def test_cmbn_is_deployed_with_its_baselines_parameters(cmbn_cfg: Callable, tmp_path: Any, capsys: Any) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(cmbn_cfg("MODEL.CMBN.INFERENCE_ONLY", True).dump())
    versus = ["MODEL.CMBN.REVERSAL_BRANCH", "False", "MODEL.CMBN.MASK_GENERATOR", "False"]
    rows = _rows(capsys, "inference", "--config-file", config, *COARSE, "--versus-opts", *versus)
    assert [row[0] for row in rows] == ["versus", "model"]
    assert rows[0][1] == rows[1][1] != "0"


def test_a_training_step_of_cge_beside_its_baseline(tiny_cfg: Callable, tmp_path: Any, capsys: Any) -> None:
    config = tmp_path / "config.yaml"
    # The device is a wish: where there is no GPU, the model is on the CPU
    cfg = tiny_cfg("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.HEADS.NAME", "CGEHead", "MODEL.DEVICE", "cuda")
    config.write_text(cfg.dump())
    plain = ["--versus-opts", "MODEL.HEADS.NAME", "GlobalHead"]
    versus, model = _rows(capsys, "training", "--config-file", config, *COARSE, *plain)
    assert versus[1] == model[1]  # no parameters of its own
    assert float(versus[3]) == 1.0 and float(model[3]) > 0 and float(model[2]) > 0


@pytest.mark.smallest
def test_peak_memory_of_each_model_alone(tiny_cfg: Callable, tmp_path: Any, capsys: Any) -> None:
    config = tmp_path / "config.yaml"
    cfg = tiny_cfg(
        "MODEL.META_ARCHITECTURE", "RMGL", "MODEL.HEADS.NAME", "RMGLHead", "MODEL.HEADS.POOL_LAYER", "GlobalMaxPool",
        "MODEL.HEADS.EMBEDDING_DIM", 8, "MODEL.BACKBONE.LAST_STRIDE", 1, "INPUT.SIZE_TRAIN", [192, 64],
        "MODEL.LOSSES.NAME", ("CrossEntropyLoss",),
    )  # fmt: skip
    config.write_text(cfg.dump())
    arguments = ["training", "--config-file", str(config), "--batch", "16", "--rounds", "1", "--classes", "6"]
    versus, model = _rows(capsys, *arguments, "--memory", "--opts", "SPEED.CHECKPOINT", "True")
    peaks = [float(row[4].replace(",", "")) for row in (versus, model)]
    weights = int(versus[1].replace(",", "")) * 4 / 2**20
    assert min(peaks) > 3 * weights  # weights, gradients and the optimizer's state
    assert float(versus[5]) == 1.0 and float(model[5]) == pytest.approx(peaks[1] / peaks[0], abs=0.01)
    assert float(model[5]) < 0.9  # checkpointed


def test_impossible_rounds(capsys: Any) -> None:
    assert "at least 1" in problem(capsys, "cost", "inference", "--config-file", "Market/cmbn.yml", "--rounds", "0")


def test_memory_of_steps_that_are_not_computed(tiny_cfg: Callable, tmp_path: Any, capsys: Any) -> None:
    config = tmp_path / "config.yaml"
    cfg = tiny_cfg("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.HEADS.NAME", "CGEHead")
    config.write_text(cfg.dump())
    keys = ["--opts", "SPEED.CHECKPOINT", "True"]
    for mode, gradients in (("training", True), ("inference", False)):
        versus, model = _rows(capsys, mode, "--dry", "--config-file", config, "--batch", "64", "--classes", "6", *keys)
        numbers = [[float(cell.replace(",", "")) for cell in row[1:]] for row in (versus, model)]
        assert numbers[0][:4] == numbers[1][:4] and (numbers[0][2] > 0) == gradients
        assert (numbers[1][4] < numbers[0][4]) == gradients, "checkpoints are training's"
        assert [row[6] for row in numbers] == pytest.approx([1, numbers[1][5] / numbers[0][5]], abs=0.01)
        assert numbers[0][5] > sum(numbers[0][1:4])
    config.write_text(tiny_cfg().dump())  # fast-reid's own, which reads its targets
    assert "measure it with --memory" in problem(capsys, "cost", "training", "--dry", "--config-file", config)
