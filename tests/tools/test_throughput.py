"""tools/throughput.py: a ratio for each key and method, an empty cell where a key is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from fastreid_parts.engine.memory import dry_memory

from .load import load_tool


def test_a_table_of_ratios(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "keys.json"
    small = ["--batch", "4", "--size", "64", "32", "--rounds", "1", "--classes", "8"]
    opts = ["--opts", "MODEL.BACKBONE.DEPTH", "18x", "MODEL.FREEZE_LAYERS", "[]"]
    ways = ["--ways", "fused", "micro-batches"]
    words = ["step", "--models", "cge_bot", "cmbn", *ways, *small, *opts]
    output.write_text('{"other": 1}')
    load_tool("throughput").main([*words[:1], "--output", str(output), *words[1:]])
    entry = json.loads(output.read_text())["throughput-step"]
    assert shlex.split(entry["command"])[2:] == words and json.loads(output.read_text())["other"] == 1
    assert entry["columns"] == ["", "fused", "micro-batches"]
    (cge, fused, refused), (cmbn, *ratios) = entry["rows"]
    assert (cge, cmbn) == ("cge_bot", "cmbn") and refused == ""  # triplets, and memories
    assert fused > 0 and all(ratio > 0 for ratio in ratios)
    assert "micro-batches" in capsys.readouterr().out


def test_every_model_takes_images_of_the_default_size() -> None:
    tool = load_tool("throughput")
    args = tool.parse(["step", "--opts", "MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", "512"])
    for model in tool.MODELS:
        cfg = tool.config(model, "plain", args)
        assert dry_memory(cfg, "inference", {"images": torch.zeros(2, 3, *cfg.INPUT.SIZE_TEST)}).peak > 0
