from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fastreid_parts.evaluation import LocalDecisions
from fastreid_parts.visualization import draw_hardness
from fastreid_parts.visualization.hardness import level_names


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
