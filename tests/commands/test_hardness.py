from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.commands import hardness

from ..conftest import write_market

K = 6  # identities of the dataset
CGE = ("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.HEADS.NAME", "CGEHead")


@pytest.fixture
def save(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Callable[..., list[str]]:
    """A function that writes a model as config file and weights, and gives the words of --model."""

    def save(name: str, *overrides: Any, identities: int = K, memories: bool = True) -> list[str]:
        torch.manual_seed(0)
        cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", identities, *overrides)
        state = build_model(cfg).state_dict()
        key = "heads.revise.local_classifiers.memory"
        if key in state and memories:
            state[key] = torch.nn.functional.normalize(torch.randn_like(state[key]), dim=-1)
        torch.save({"model": state}, tmp_path / f"{name}.pth")
        cfg.MODEL.HEADS.NUM_CLASSES = 0  # as in a config that takes the number from its dataset
        (tmp_path / f"{name}.yml").write_text(cfg.dump())
        return ["--model", name, str(tmp_path / f"{name}.yml"), str(tmp_path / f"{name}.pth")]

    return save


def run(output: Path, *words: str) -> tuple[int, dict]:
    code = hardness.main([*words, "--output", str(output)])
    numbers = output.with_suffix(".json")
    return code, json.loads(numbers.read_text()) if numbers.exists() else {}


def test_a_table_of_models_with_and_without_memories(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "new" / "hardness.png"
    code, numbers = run(output, *save("BOT"), *save("CGE", *CGE))
    assert code == 0 and cv2.imread(str(output)) is not None
    printed = capsys.readouterr().out
    assert "BOT: 36 images of 6 identities; memories: built from the training images" in printed
    assert "CGE: 36 images of 6 identities; memories: its own" in printed
    assert "--rebuild builds them for every model" in printed
    for model in numbers.values():
        levels, precision = list(model["levels"].values()), model["precision"]
        assert sum(levels) == pytest.approx(1)
        # Each image counts once for every classifier that gets it right
        assert sum(share * right for share, right in zip(levels, (3, 2, 1, 0))) == pytest.approx(sum(precision))
        for share in [*levels, *precision]:
            assert f" {100 * share:.1f} |" in printed
    # Means of its own images know an identity better than a random memory does
    assert sum(numbers["BOT"]["precision"]) > sum(numbers["CGE"]["precision"])


def test_rebuilt_memories_do_not_depend_on_the_own_ones(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    models = (*save("BOT", *CGE[:2], "MODEL.HEADS.NAME", "GlobalHead"), *save("CGE", *CGE))
    code, numbers = run(tmp_path / "h.png", *models, "--rebuild", "--stripes", "2")
    assert code == 0
    # The same seed gave both the same weights
    assert numbers["BOT"]["precision"] == numbers["CGE"]["precision"] and len(numbers["CGE"]["precision"]) == 2
    assert "for every model" not in capsys.readouterr().out


def test_keys_of_one_model_and_of_all(save: Callable, tmp_path: Path) -> None:
    words = save("CGE", *CGE)
    plain = ["--model", "plain", *words[2:], "MODEL.HEADS.NAME", "GlobalHead", "MODEL.CGE.NUM_STRIPES", "2"]
    code, numbers = run(tmp_path / "h.png", *plain, "--opts", "TEST.IMS_PER_BATCH", "5")
    assert code == 0 and numbers["plain"]["stripes"] == 2
    assert numbers["plain"]["memories"] == hardness.BUILT


def test_different_training_images_are_noted(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words, other = save("BOT"), tmp_path / "other"
    assert run(tmp_path / "h.png", *words, "--model", "again", *words[2:])[0] == 0
    assert "The training images differ" not in capsys.readouterr().out
    write_market(other)
    more = ["--model", "other", *words[2:], "DATASETS.FOLDER.ROOT", str(other)]
    assert run(tmp_path / "h.png", *words, *more)[0] == 0
    assert "The training images differ" in capsys.readouterr().out


def test_bad_input_is_named(
    save: Callable, tmp_path: Path, cmbn_cfg: Callable[..., CfgNode], capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "h.png"

    def problem(*words: str) -> str:
        assert run(output, *words) == (1, {})
        assert not output.exists()
        return capsys.readouterr().out

    bot, cge = save("BOT"), save("CGE", *CGE)
    assert "trained on 7 identities (heads.weight)" in problem(*save("seven", identities=7))
    assert "BOT's training set, DATASETS.NAMES FolderReID, has 6" in problem(*bot[:3], str(tmp_path / "seven.pth"))
    # Where the identities are a weight that evaluation needs as well
    assert "trained on 7 identities (heads.class_maps" in problem(
        *save("maps", *CGE[:2], "MODEL.HEADS.NAME", "ClassMapHead", identities=7)
    )
    assert "no memories of 3 stripes" in problem(*save("empty", *CGE, memories=False))
    assert "no memories of 3 stripes" in problem(*cge[:3], bot[3])
    assert "no memories of 2 stripes" in problem(*cge, "MODEL.CGE.NUM_STRIPES", "2")
    assert "--stripes 2 needs --rebuild" in problem(*cge, "--stripes", "2")
    assert "do not share a table: BOT 2, CGE 3" in problem(*bot, "MODEL.CGE.NUM_STRIPES", "2", *cge)
    assert "3 rows cannot be cut into 5 stripes" in problem(*bot, "--stripes", "5")
    assert "missing.pth" in problem(*bot[:3], "missing.pth")
    assert "nowhere.yml" in problem("--model", "A", "nowhere.yml", bot[3])
    assert "both models are named 'BOT'" in problem(*bot, *bot)
    assert "NO_SUCH_KEY" in problem(*bot, "MODEL.NO_SUCH_KEY", "1")
    cmbn = tmp_path / "cmbn.yml"
    cmbn.write_text(cmbn_cfg().dump())
    assert "another model" in problem("--model", "A", str(cmbn), bot[3])
    with pytest.raises(SystemExit):
        hardness.main([*bot, "--output", str(output), "--stripes", "-1"])
    with pytest.raises(SystemExit):
        hardness.main(["--output", str(output)])
