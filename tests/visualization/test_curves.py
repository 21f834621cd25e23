from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastreid.utils.events import EventStorage, JSONWriter

from fastreid_parts.visualization import draw_training_curves, read_metrics


def write(path: Path, lines: list) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_reads_what_the_host_writes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    writer = JSONWriter(str(path), window_size=1)
    with EventStorage(0) as storage:
        for iteration in range(4):
            storage.iter = iteration
            storage.put_scalar("total_loss", 4.0 - iteration)
            if iteration == 3:
                storage.put_scalar("mAP", 50.0, smoothing_hint=False)
            writer.write()
            storage.step()
    writer.close()
    metrics = read_metrics(path)
    assert metrics["total_loss"][0].tolist() == [0, 1, 2, 3]
    assert metrics["total_loss"][1].tolist() == [4, 3, 2, 1]
    assert metrics["mAP"][0].tolist() == [3] and metrics["mAP"][1].tolist() == [50]


def test_a_resumed_run_replaces_what_it_repeats(tmp_path: Path) -> None:
    lines = [{"iteration": i, "total_loss": 1.0} for i in (0, 10, 20, 30)]
    lines += ['{"iteration": 40, "total_lo', "\n"]
    lines += [{"iteration": i, "total_loss": 2.0} for i in (15, 25, 35)]
    at, values = read_metrics(write(tmp_path / "metrics.json", lines))["total_loss"]
    assert at.tolist() == [0, 10, 15, 25, 35]
    assert values.tolist() == [1, 1, 2, 2, 2]


def test_scalars_of_one_iteration_may_be_on_two_lines(tmp_path: Path) -> None:
    lines = [{"iteration": 5, "total_loss": 1.0}, {"iteration": 5, "mAP": 40}]
    metrics = read_metrics(write(tmp_path / "metrics.json", lines))
    assert metrics["total_loss"][1].tolist() == [1] and metrics["mAP"][1].tolist() == [40]


def test_refuses_what_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no training log"):
        read_metrics(tmp_path / "metrics.json")
    with pytest.raises(ValueError, match="holds no scalars"):
        read_metrics(write(tmp_path / "empty.json", ["\n", "[1, 2]\n"]))


@pytest.mark.parametrize("names", [("total_loss", "loss_cls", "cls_accuracy", "mAP", "Rank-1"), ("total_loss",)])
def test_draws(tmp_path: Path, names: tuple) -> None:
    metrics = {name: (np.arange(10) * 5, np.linspace(0.1, 0.9, 10)) for name in names}
    path = tmp_path / "new" / "curve.png"
    draw_training_curves(metrics, path, iters_per_epoch=10, references={"untrained": 12.0}, title="Title")
    height, width, _ = cv2.imread(str(path)).shape
    assert width > 2 * height
