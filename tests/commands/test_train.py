"""train: its config, into which folder, and what is refused before anything is written."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastreid_parts.commands import train

from .run import problem, run


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args(["--config-file", "Market/cmbn.yml", *words])


def test_the_config_is_the_files_with_the_keys_at_the_end() -> None:
    args = parsed("--eval-only", "MODEL.WEIGHTS", "weights.pth", "SEED", "7")
    cfg = train.make_config(args)
    assert (cfg.SEED, cfg.MODEL.WEIGHTS, cfg.MODEL.META_ARCHITECTURE) == (7, "weights.pth", "CMBN")
    assert cfg.is_frozen()
    assert Path(args.config_file).is_file()  # which the host writes into the log


def test_nothing_starts_without_weights_to_evaluate(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "launch", lambda *args, **more: pytest.fail("started"))
    assert "--eval-only needs weights" in problem(capsys, "train", "--config-file", "Market/cmbn.yml", "--eval-only")


def test_only_a_training_that_begins_looks_for_the_weights_that_it_begins_with(
    tiny_cfg: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A run's own config and weights are evaluated, and gone on with, where its pre-trained weights are not."""
    (tmp_path / "bot.yml").write_text(tiny_cfg("SOLVER.MAX_EPOCH", 1).dump())
    command = ("train", "--config-file", tmp_path / "bot.yml")
    run(capsys, *command)
    final = tmp_path / "run" / "weights_final.pth"
    gone = ("MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", "gone.pth")
    assert "gone.pth" in problem(capsys, *command, "--overwrite", *gone)
    run(capsys, *command, "--eval-only", "MODEL.WEIGHTS", final, "OUTPUT_DIR", tmp_path / "evaluated", *gone)
    # As the run would have been written down that began with them
    last = tmp_path / "run" / "model_final.pth"
    checkpoint = torch.load(last, weights_only=True)
    cfg = tiny_cfg("SOLVER.MAX_EPOCH", 1, "MODEL.HEADS.NUM_CLASSES", 6, *gone)
    torch.save({**checkpoint, "config": cfg.dump()}, last)
    run(capsys, *command, "--resume", "SOLVER.MAX_EPOCH", 2, *gone)
    assert torch.load(last, weights_only=True)["epoch"] == 1


@pytest.fixture
def words(tiny_cfg: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The words of a training of an epoch, in a working directory of its own."""
    (tmp_path / "bot.yml").write_text(tiny_cfg("SOLVER.MAX_EPOCH", 1).dump())
    monkeypatch.chdir(tmp_path)
    return ["train", "--config-file", "bot.yml"]


def files(folder: str) -> dict[str, bytes]:
    """What is there, without the log, into which fast-reid writes of every training of this process."""
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.suffix not in ("", ".txt")}


def test_folders_by_a_pattern(words: list[object], capsys: pytest.CaptureFixture) -> None:
    """LibreYOLO/libreyolo#833: the same training twice leaves the files of the second alone."""
    pattern = ("OUTPUT_DIR", "logs/{config}-{n}")
    run(capsys, *words, *pattern)
    first = files("logs/bot-1")
    assert {"logs/bot-1/run.json", "logs/bot-1/config.yaml", "logs/bot-1/weights_final.pth"} <= set(first)
    run(capsys, *words, *pattern)
    assert sorted(os.listdir("logs")) == ["bot-1", "bot-2"] and files("logs/bot-1") == first

    # What is refused leaves everything as it is
    second = files("logs/bot-2")
    error = problem(capsys, *words, "OUTPUT_DIR", "logs/{config}-2")
    assert (
        "'logs/bot-2' holds a finished run of this config" in error and "counts them with 'logs/{config}-{n}'" in error
    )
    error = problem(capsys, *words, "OUTPUT_DIR", "logs/bot-2", "SEED", 8)
    assert "'logs/bot-2' holds another run: SEED 3 (now 8)." in error
    assert "--resume goes on with what --overwrite puts aside" in problem(capsys, *words, "--resume", "--overwrite")
    assert files("logs/bot-2") == second

    # --resume finds the last one; an evaluation into it leaves its config
    assert "all 1 epochs are done already" in run(capsys, *words, "--resume", *pattern).out
    weights = ("MODEL.WEIGHTS", "logs/bot-1/weights_final.pth")
    run(capsys, *words, "--eval-only", *pattern, *weights)
    assert sorted(os.listdir("logs")) == ["bot-1", "bot-2"]
    assert Path("logs/bot-2/config.yaml").read_bytes() == second["logs/bot-2/config.yaml"]
    log = Path("logs/bot-2/log.txt").read_text()
    assert "fastreid_parts 0" in log and "fast-reid " in log and "Skip loading" not in log

    run(capsys, *words, "--overwrite", "OUTPUT_DIR", "logs/bot-2", "SEED", 8)
    aside = files("logs/bot-2/retired-1")
    assert aside["logs/bot-2/retired-1/model_final.pth"] == second["logs/bot-2/model_final.pth"]
