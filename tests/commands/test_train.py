"""train: its config, before any process starts; tests/engine/test_trainer.py runs the command."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from fastreid_parts.commands import train

from .run import problem


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
