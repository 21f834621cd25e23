from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fastreid_parts.visualization import draw_single_features
from fastreid_parts.visualization.single_features import grouped_features
from fastreid_parts.visualization.style import SERIES


def lengths(path: Path, colour: str) -> list[int]:
    """Lengths in pixels of the bars of a colour, from the top to the bottom, the left panel alone."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    pixels = cv2.imread(str(path))[..., ::-1]
    drawn = (pixels[:, : pixels.shape[1] // 2] == rgb).all(axis=2).sum(axis=1)
    edges = np.flatnonzero(np.diff((drawn > 25).astype(int)))  # a legend's patch is shorter
    return [int(np.median(drawn[first + 1 : last + 1])) for first, last in zip(edges[::2], edges[1::2])]


def measures(value: float) -> dict[str, float]:
    return {"mAP": value, "Rank-1": value, "mINP": 0.0}


def test_scales_stand_together_from_top_to_bottom() -> None:
    names = ["global_of_2", "global_of_3", "part_1_of_2", "part_2_of_2", "part_1_of_3", "whole"]
    assert grouped_features(names) == [
        ["global_of_2", "part_1_of_2", "part_2_of_2"],
        ["global_of_3", "part_1_of_3"],
        ["whole"],
    ]


def test_a_bar_is_as_long_as_its_number(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bars.png"
    draw_single_features({"M": {"part_1_of_2": measures(80), "part_2_of_2": measures(20)}}, path, title="Title")
    first, second = lengths(path, SERIES[0])
    assert second / first == pytest.approx(0.25, abs=0.02)


def test_models_side_by_side_and_a_feature_that_one_lacks(tmp_path: Path) -> None:
    path = tmp_path / "bars.png"
    without = {"global_of_3": measures(60), "part_1_of_2": measures(30)}
    draw_single_features({"without $x$": without, "with": {"global_of_3": measures(90)}}, path)
    (one, two), (other,) = lengths(path, SERIES[0]), lengths(path, SERIES[1])
    assert two / one == pytest.approx(0.5, abs=0.02) and other / one == pytest.approx(1.5, abs=0.03)


def test_refuses_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a model with features"):
        draw_single_features({"M": {}}, tmp_path / "bars.png")
