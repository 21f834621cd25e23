from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from fastreid_parts.evaluation import MatchRanks
from fastreid_parts.visualization import CURVES, draw_retrieval_curves, retrieval_curve
from fastreid_parts.visualization.style import Sheet


def ranks_of(*queries: list[int], candidates: int = 30) -> MatchRanks:
    """From the ranks of each query's matches."""
    offsets = np.cumsum([0, *map(len, queries)])
    return MatchRanks(
        np.array([rank for query in queries for rank in query]), offsets, np.full(len(queries), candidates)
    )


MODELS = {"BOT": ranks_of([1, 4], [3], [], [8]), "CGE": ranks_of([1, 2], [1], [], [2])}


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the sheet that is saved next."""
    seen: list[Axes] = []
    monkeypatch.setattr(Sheet, "save", lambda sheet, path: seen.extend(sheet.figure.axes[1:]))
    return seen


def test_cmc_in_percent(panels: list[Axes]) -> None:
    draw_retrieval_curves(MODELS, "unused.png", max_rank=8)
    axes = panels[0]
    bot, cge = axes.get_lines()
    assert list(bot.get_xdata()) == list(range(1, 9))
    # The third of the four queries has no match
    assert bot.get_ydata() == pytest.approx(100 / 3 * np.array([1, 1, 2, 2, 2, 2, 2, 3]))
    assert cge.get_ydata() == pytest.approx(100 / 3 * np.array([2, 3, 3, 3, 3, 3, 3, 3]))
    assert "[%]" in axes.get_ylabel() and axes.get_xlabel() == "rank"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["BOT: Rank-1 33.3", "CGE: Rank-1 66.7"]
    assert axes.get_ylim()[0] <= 100 / 3 and 1 in axes.get_xticks()


def test_precision_over_recall(panels: list[Axes]) -> None:
    draw_retrieval_curves({"BOT": ranks_of([1, 4])}, "unused.png")
    recall, precision = panels[1].get_lines()[0].get_data()
    assert (recall[0], recall[-1]) == (0, 100)
    # The first of two matches is recall up to one half; behind it, the second stands at place 4
    assert precision[recall <= 50] == pytest.approx(100) and precision[recall > 50] == pytest.approx(50)
    assert panels[1].get_legend().get_texts()[0].get_text() == "BOT: mAP 75.0"
    assert "[%]" in panels[1].get_xlabel() and "[%]" in panels[1].get_ylabel()


def test_the_histogram_is_of_the_queries_that_count(panels: list[Axes]) -> None:
    draw_retrieval_curves(MODELS, "unused.png")
    bars = panels[2].patches
    heights = np.array([bar.get_height() for bar in bars]).reshape(2, 10)
    assert heights.sum(axis=1) == pytest.approx([100, 100])
    # BOT's average precisions: (1 + 2/4) / 2, 1/3, 1/8
    assert np.flatnonzero(heights[0]).tolist() == [1, 3, 7]
    assert np.flatnonzero(heights[1]).tolist() == [5, 9]
    assert heights[1, 9] == pytest.approx(200 / 3)
    lefts = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)
    assert all(right <= left + 1e-9 for (_, right), (left, _) in zip(lefts, lefts[1:]))  # none hides another


def test_a_cmc_ends_with_the_gallery(panels: list[Axes]) -> None:
    draw_retrieval_curves({"": ranks_of([1], [2], candidates=2)}, "unused.png", max_rank=50)
    (line,) = panels[0].get_lines()
    assert list(line.get_ydata()) == [50, 100]
    assert panels[0].get_legend().get_texts()[0].get_text() == "Rank-1 50.0"


def test_any_name_is_in_the_legend(panels: list[Axes]) -> None:
    names = ["$x_1$", "_hidden", "n" * 80, *map(str, range(6))]  # and more models than colors
    draw_retrieval_curves(dict.fromkeys(names, ranks_of([1])), "unused.png")
    texts = [text.get_text() for text in panels[0].get_legend().get_texts()]
    assert len(texts) == len(names)
    assert r"\$x_1\$" in texts[0] and "_hidden" in texts[1] and len(texts[2]) < 60
    looks = {(line.get_color(), line.get_linestyle()) for line in panels[0].get_lines()}
    assert len(looks) == len(names)


def test_pictures(tmp_path: Path) -> None:
    path = tmp_path / "new" / "curves.png"
    draw_retrieval_curves(MODELS, path, title="Title")
    whole = cv2.imread(str(path))
    for kind in CURVES:
        one = cv2.imdecode(np.frombuffer(retrieval_curve(kind, MODELS), np.uint8), cv2.IMREAD_COLOR)
        assert one.shape[1] < whole.shape[1] / 2 and one.std() > 10


def test_refuses() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        draw_retrieval_curves({}, "unused.png")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        draw_retrieval_curves(MODELS, "unused.png", max_rank=0)
    with pytest.raises(ValueError, match="no query of 'CGE' has a match"):
        retrieval_curve("cmc", {**MODELS, "CGE": ranks_of([], [])})
    with pytest.raises(ValueError, match="unknown plot 'roc', choose one of: cmc, precision_recall"):
        retrieval_curve("roc", MODELS)
