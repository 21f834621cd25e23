from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fastreid_parts.visualization import draw_loss_distribution
from fastreid_parts.visualization.style import Sheet


def test_the_curve_is_the_cumulative_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = []
    monkeypatch.setattr(Sheet, "save", lambda sheet, path: sheets.append((sheet, path)))
    draw_loss_distribution({"BOT": np.array([3.0, 0.0, 1.0, 4.0])}, tmp_path / "losses.png")
    ((sheet, path),) = sheets
    assert path == tmp_path / "losses.png"
    diagonal, curve = sheet.figure.axes[1].get_lines()
    assert curve.get_label() == "BOT"
    assert curve.get_xdata() == pytest.approx([0, 25, 50, 75, 100])
    assert curve.get_ydata() == pytest.approx([0, 0, 12.5, 50, 100])
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 100]


def test_several_models(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "new" / "losses.png"
    draw_loss_distribution({"BOT": random.random(30), "$CGE$": random.random(40) ** 4}, path, title="Title")
    assert cv2.imread(str(path)) is not None
    with pytest.raises(ValueError, match="at least one model"):
        draw_loss_distribution({}, path)
    with pytest.raises(ValueError, match="not finite"):
        draw_loss_distribution({"BOT": np.array([np.inf, 1])}, path)
