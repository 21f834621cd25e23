from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode

from fastreid_parts.analysis import hardness
from fastreid_parts.analysis.hardness import draw_hardness, level_names
from fastreid_parts.analysis.local_classifiers import LocalDecisions
from tests.analysis.models import numbers_of, refused
from tests.conftest import write_market

CGE = ("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.HEADS.NAME", "CGEHead")


@pytest.fixture
def save(save: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def remember(state: dict[str, torch.Tensor]) -> None:
        key = "heads.revise.local_classifiers.memory"
        if key in state:
            state[key] = torch.nn.functional.normalize(torch.randn_like(state[key]), dim=-1)

    def with_memories(name: str, *overrides: Any, memories: bool = True, **more: Any) -> list[str]:
        return save(name, *overrides, **({"change": remember} if memories else {}), **more)

    return with_memories


def test_a_table_of_models_with_and_without_memories(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "new" / "hardness.png"
    numbers, printed = numbers_of(capsys, "hardness", output, *save("BOT"), *save("CGE", *CGE))
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
    numbers, printed = numbers_of(capsys, "hardness", tmp_path / "h.png", *models, "--rebuild", "--stripes", "2")
    # The same seed gave both the same weights
    assert numbers["BOT"]["precision"] == numbers["CGE"]["precision"] and len(numbers["CGE"]["precision"]) == 2
    assert "for every model" not in printed


def test_keys_of_one_model_and_of_all(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = save("CGE", *CGE)
    plain = ["--model", "plain", *words[2:], "MODEL.HEADS.NAME", "GlobalHead", "MODEL.CGE.NUM_STRIPES", "2"]
    numbers, _ = numbers_of(capsys, "hardness", tmp_path / "h.png", *plain, "--opts", "TEST.IMS_PER_BATCH", "5")
    assert numbers["plain"]["stripes"] == 2
    assert numbers["plain"]["memories"] == hardness.BUILT


def test_different_training_images_are_noted(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words, other = save("BOT"), tmp_path / "other"
    call = [capsys, "hardness", tmp_path / "h.png", *words]
    assert "The training images differ" not in numbers_of(*call, "--model", "again", *words[2:])[1]
    write_market(other)
    more = ["--model", "other", *words[2:], "DATASETS.FOLDER.ROOT", str(other)]
    assert "The training images differ" in numbers_of(*call, *more)[1]


def test_bad_input_is_named(
    save: Callable, tmp_path: Path, cmbn_cfg: Callable[..., CfgNode], capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "h.png"

    def problem(*words: str) -> str:
        return refused(capsys, "hardness", output, *words)

    bot, cge = save("BOT"), save("CGE", *CGE)
    assert "trained on 7 identities (heads.weight)" in problem(*save("seven", identities=7))
    assert "BOT's training set, DATASETS.NAMES FolderReID, has 6" in problem(*bot[:3], str(tmp_path / "seven.pth"))
    # Where the identities are a weight that evaluation needs as well
    assert "trained on 7 identities (heads.class_maps" in problem(
        *save("maps", *CGE[:2], "MODEL.HEADS.NAME", "ClassMapHead", "MODEL.HEADS.WITH_BNNECK", False, identities=7)
    )
    assert "no memories of 3 stripes" in problem(*save("empty", *CGE, memories=False))
    assert "no memories of 3 stripes" in problem(*cge[:3], bot[3])
    assert "no memories of 2 stripes" in problem(*cge, "MODEL.CGE.NUM_STRIPES", "2")
    assert "--stripes 2 needs --rebuild" in problem(*cge, "--stripes", "2")
    assert "the same number of local classifiers, got BOT 2, CGE 3" in problem(*bot, "MODEL.CGE.NUM_STRIPES", "2", *cge)
    assert "3 rows cannot be cut into 5 stripes" in problem(*bot, "--stripes", "5")
    assert "missing.pth" in problem(*bot[:3], "missing.pth")
    assert "nowhere.yml" in problem("--model", "A", "nowhere.yml", bot[3])
    assert "both models are named 'BOT'" in problem(*bot, *bot)
    assert "NO_SUCH_KEY" in problem(*bot, "MODEL.NO_SUCH_KEY", "1")
    cmbn = tmp_path / "cmbn.yml"
    cmbn.write_text(cmbn_cfg().dump())
    assert "another model" in problem("--model", "A", str(cmbn), bot[3])
    assert "--stripes: must be at least 1" in problem(*bot, "--stripes", "-1")
    assert "--model" in problem()


# ---- the figure


def decisions(precision: float, stripes: int = 3) -> LocalDecisions:
    return LocalDecisions(np.random.default_rng(0).random((200, stripes)) < precision)


def test_names_of_levels() -> None:
    assert level_names(3) == [
        "easiest: 3 of 3 right",
        "mid-easy: 2 of 3 right",
        "mid-hard: 1 of 3 right",
        "hardest: 0 of 3 right",
    ]
    assert level_names(1) == ["easiest: 1 of 1 right", "hardest: 0 of 1 right"]
    assert level_names(4)[1:4] == ["3 of 4 right", "2 of 4 right", "1 of 4 right"]


@pytest.mark.parametrize("stripes", [1, 3, 12])
def test_draws(tmp_path: Path, stripes: int) -> None:
    path = tmp_path / "new" / "hardness.png"
    draw_hardness({"BOT": decisions(0.5, stripes), "CGE wo. $G$": decisions(0.9, stripes)}, path, title="Title")
    assert cv2.imread(str(path)) is not None


def test_a_bar_is_as_long_as_its_share(tmp_path: Path) -> None:
    correct = np.zeros((10, 3), bool)
    correct[:7] = True  # seven easiest images, three hardest
    draw_hardness({"M": LocalDecisions(correct)}, tmp_path / "h.png")
    picture = cv2.imread(str(tmp_path / "h.png")).astype(int)
    lengths = []
    for b, g, r in ((0x9F, 0xEC, 0xFF), (0x21, 0x05, 0xC2)):  # light yellow and dark red, about
        close = (np.abs(picture - (b, g, r)).max(axis=2) < 14).sum(axis=1)
        lengths.append(close.max())
    assert lengths[0] / sum(lengths) == pytest.approx(0.7, abs=0.02)


def test_refuses_what_does_not_share_a_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same number of local classifiers"):
        draw_hardness({"a": decisions(0.5, 3), "b": decisions(0.5, 2)}, tmp_path / "h.png")
    with pytest.raises(ValueError, match="same number of local classifiers"):
        draw_hardness({}, tmp_path / "h.png")
