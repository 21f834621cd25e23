from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.commands import loss_distribution
from fastreid_parts.evaluation import share_of_hardest

PARTS = ("MODEL.META_ARCHITECTURE", "PartsBaseline")
FOCAL = (*PARTS, "MODEL.LOSSES.NAME", ("FocalLoss", "TripletLoss"))


@pytest.fixture
def save(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Callable[..., list[str]]:
    """A function that writes a model as config file and weights, and gives the words of --model."""

    def save(name: str, *overrides: Any, without: str = "", identities: int = 6) -> list[str]:
        torch.manual_seed(0)
        cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", identities, "INPUT.REA.ENABLED", True, *overrides)
        state = {key: value for key, value in build_model(cfg).state_dict().items() if key != without}
        torch.save({"model": state}, tmp_path / f"{name}.pth")
        cfg.MODEL.HEADS.NUM_CLASSES = 0  # as in a config that takes the number from its dataset
        (tmp_path / f"{name}.yml").write_text(cfg.dump())
        return ["--model", name, str(tmp_path / f"{name}.yml"), str(tmp_path / f"{name}.pth")]

    return save


def test_table_picture_and_numbers(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "new" / "losses.png"
    words = [*save("BOT", *PARTS), *save("FL", *FOCAL), *save("stock"), "--output", str(output)]
    texts = []
    for _ in range(2):  # the same numbers again: no augmentation, nothing at random
        assert loss_distribution.main(words) == 0
        texts.append(output.with_suffix(".json").read_text())
    assert texts[0] == texts[1]
    assert cv2.imread(str(output)) is not None
    printed, numbers = capsys.readouterr().out, json.loads(texts[0])
    assert list(numbers) == ["BOT", "FL", "stock"]
    for model in numbers.values():
        losses = np.array([loss for _, loss in model["losses"]])
        assert len(losses) == model["images"] == 36 and (np.diff(losses) <= 0).all()
        assert len({path for path, _ in model["losses"]}) == 36
        assert model["mean_loss"] == pytest.approx(losses.mean(), rel=1e-4)
        for part, share in model["share_of_hardest"].items():
            assert share == pytest.approx(share_of_hardest(losses, float(part[:-1]) / 100), rel=1e-3)
            assert f" {100 * share:.1f} |" in printed
    assert numbers["BOT"]["mean_loss"] == pytest.approx(numbers["stock"]["mean_loss"], rel=1e-3)
    # Cross-entropy of six identities that the untrained model tells apart by chance, and alpha = 0.5 times less
    assert numbers["BOT"]["mean_loss"] == pytest.approx(np.log(6), rel=0.3)
    assert numbers["FL"]["mean_loss"] < 0.5 * numbers["BOT"]["mean_loss"]


def test_bad_input_is_named(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "losses.png"

    def problem(*words: str) -> str:
        assert loss_distribution.main([*words, "--output", str(output)]) == 1
        assert not output.exists() and not output.with_suffix(".json").exists()
        return capsys.readouterr().out

    bot = save("BOT", *PARTS)
    assert "lacks heads.weight, which the loss of exported needs" in problem(
        *save("exported", *PARTS, without="heads.weight")
    )
    assert "trained on 5 identities (heads.weight)" in problem(*save("five", identities=5))
    assert "not trained to classify" in problem(*save("metric", *PARTS, "MODEL.LOSSES.NAME", ("TripletLoss",)))
    assert "missing.pth" in problem(*bot[:3], "missing.pth")
    assert "both models are named 'BOT'" in problem(*bot, *bot)
    with pytest.raises(SystemExit):
        loss_distribution.main([*bot[:3], "--output", str(output)])
