"""Single features: what they measure, the bars, and the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.analysis.single_features import (
    WHOLE,
    draw_single_features,
    grouped_features,
    single_feature_results,
)
from fastreid_parts.data.build import build_reid_test_loader
from fastreid_parts.evaluation import Features, evaluate_features, extract
from fastreid_parts.visualization.style import SERIES
from tests.analysis.models import CAN, RRID, numbers_of, refused

COSINE = ("TEST.METRIC", "cosine")
COLUMNS = {"top": slice(0, 2), "bottom": slice(2, 4)}


@pytest.fixture
def save(save: Callable[..., list[str]]) -> Callable[..., list[str]]:
    return lambda name, *overrides: save(name, *COSINE, *overrides)


@pytest.fixture
def features() -> Features:
    """Two queries and their gallery images: the first feature tells the people apart, the second is all wrong."""
    right = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1]], np.float32)
    wrong = np.array([[1, 0], [0, 1], [0.1, 1], [1, 0.1]], np.float32)
    both = np.concatenate([3 * right, wrong], axis=1)
    return Features(both, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), list("abcd"))


def test_each_feature_alone_and_all_together(tiny_cfg: Callable[..., CfgNode], features: Features) -> None:
    cfg = tiny_cfg("TEST.METRIC", "cosine")
    results = single_feature_results(features, 2, cfg, COLUMNS)
    assert list(results) == ["top", "bottom", WHOLE]
    assert results["top"]["mAP"] == results["top"]["Rank-1"] == 100
    assert results["bottom"]["mAP"] == 50 and results["bottom"]["Rank-1"] == 0
    whole = evaluate_features(features, 2, cfg)
    assert all(results[WHOLE][measure] == pytest.approx(float(whole[measure])) for measure in results[WHOLE])


def test_the_metric_is_the_configs(tiny_cfg: Callable[..., CfgNode]) -> None:
    """The right image is nearer in direction, the wrong one in distance."""
    vectors = np.array([[1, 0], [0, 5], [9, 0], [1, 1]], np.float32)
    features = Features(vectors, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), list("abcd"))
    first = {
        metric: single_feature_results(features, 2, tiny_cfg("TEST.METRIC", metric), {"f": slice(0, 2)})["f"]["Rank-1"]
        for metric in ("cosine", "euclidean")
    }
    assert first == {"cosine": 100, "euclidean": 50}


def test_named_features_alone(tiny_cfg: Callable[..., CfgNode], features: Features) -> None:
    results = single_feature_results(features, 2, tiny_cfg(), COLUMNS, ["bottom"])
    assert list(results) == ["bottom", WHOLE] and results["bottom"] == results[WHOLE]
    with pytest.raises(ValueError, match=r"has the features top, bottom, got \['middle'\]"):
        single_feature_results(features, 2, tiny_cfg(), COLUMNS, ["middle"])
    with pytest.raises(ValueError, match="features \\(none\\)"):
        single_feature_results(features, 2, tiny_cfg(), {})


# ---- the figure


def lengths(path: Path, color: str) -> list[int]:
    """Lengths in pixels of the bars of a color, from the top to the bottom, the left panel alone."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
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


# ---- the command


@pytest.mark.parametrize("flip", [False, True])
def test_each_feature_is_measured_as_a_model_of_that_feature_alone(
    save: Callable, tmp_path: Path, tiny_cfg: Callable[..., CfgNode], capsys: pytest.CaptureFixture, flip: bool
) -> None:
    """TEST.FEATURES is the other way to the same number, with a pass over the test set for each of them."""
    words = save("RRID", *RRID)
    output = tmp_path / "new" / "s.png"
    every, printed = numbers_of(capsys, "single-features", output, *words, "--opts", "TEST.FLIP.ENABLED", flip)
    numbers = every["RRID"]
    assert numbers["metric"] == "cosine" and numbers["flip"] == flip and numbers["query"] == 4
    names = ["global_of_3", "part_1_of_3", "part_2_of_3", "part_3_of_3"]
    assert list(numbers["results"]) == [*names, "all features"]
    for name, measured in numbers["results"].items():
        cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 6, *COSINE, *RRID, "TEST.FEATURES", [name] if name in names else [])
        model = build_model(cfg)
        model.load_state_dict(torch.load(words[-1])["model"])
        loader, num_query = build_reid_test_loader(cfg, dataset_name="FolderReID")
        expected = evaluate_features(extract(model, loader, flip=flip), num_query, cfg)
        assert measured["mAP"] == pytest.approx(float(expected["mAP"]), abs=1e-3)
        assert measured["Rank-1"] == pytest.approx(float(expected["Rank-1"]))
        assert f"{measured['mAP']:.1f} |" in printed and name in printed


def test_models_beside_each_other_and_with_other_features(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    models = (*save("without", *RRID, "MODEL.RRID.RELATION", "none"), *save("CAN", *CAN))
    numbers, printed = numbers_of(capsys, "single-features", tmp_path / "s.png", *models)
    assert list(numbers["CAN"]["results"]) == ["global_of_1", "global_of_2", "part_1_of_2", "all features"]
    row = next(line for line in printed.splitlines() if line.startswith("| part_1_of_2"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:2] == ["-", "-"] and float(cells[2]) == pytest.approx(
        numbers["CAN"]["results"]["part_1_of_2"]["mAP"], abs=0.06
    )


def test_test_features_narrows_them(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = save("RRID", *RRID)
    call = [capsys, "single-features", tmp_path / "s.png", *words]
    every = numbers_of(*call)[0]["RRID"]["results"]
    some = numbers_of(*call, "TEST.FEATURES", "['part_3_of_3','global_of_3']")[0]["RRID"]["results"]
    assert list(some) == ["part_3_of_3", "global_of_3", "all features"]
    assert some["part_3_of_3"] == every["part_3_of_3"]


def test_single_features_refuses(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, rrid = tmp_path / "s.png", save("RRID", *RRID)
    assert "the head of IDE, EmbeddingHead, has one feature" in refused(capsys, "single-features", output, *save("IDE"))
    assert "TEST.FEATURES has global_of_9" in refused(
        capsys, "single-features", output, *rrid, "TEST.FEATURES", "['global_of_9']"
    )
    assert "names no test set: set DATASETS.TESTS" in refused(
        capsys, "single-features", output, *rrid, "DATASETS.TESTS", "()"
    )
    assert "another model" in refused(capsys, "single-features", output, *rrid[:3], save("CAN", *CAN)[3])
    assert "both models are named 'RRID'" in refused(capsys, "single-features", output, *rrid, *rrid)
    assert "--model" in refused(capsys, "single-features", output)
