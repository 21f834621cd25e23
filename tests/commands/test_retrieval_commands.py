"""single-features, rank-lists and relation-maps: what they measure of trained models, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn
from torch.utils.data import DataLoader

from fastreid_parts.commands import rank_lists, relation_maps, single_features
from fastreid_parts.data.build import build_reid_test_loader
from fastreid_parts.evaluation import Features, evaluate_features, extract
from fastreid_parts.methods.rrid import RRIDHead

PARTS = ("MODEL.HEADS.EMBEDDING_DIM", 8, "MODEL.HEADS.WITH_BNNECK", False, "MODEL.BACKBONE.LAST_STRIDE", 1)
# 48 rows of an image are three of the map
RRID = (*PARTS, "MODEL.META_ARCHITECTURE", "RRID", "MODEL.HEADS.NAME", "RRIDHead", "MODEL.RRID.PARTS", [3])
CAN = (*PARTS, "MODEL.META_ARCHITECTURE", "CAN", "MODEL.HEADS.NAME", "CANHead", "MODEL.CAN.PARTS", [1, 2])
COSINE = ("TEST.METRIC", "cosine")


@pytest.fixture
def save(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Callable[..., list[str]]:
    """A function that writes a model as config file and weights, and gives the words of --model."""

    def save(name: str, *overrides: Any) -> list[str]:
        torch.manual_seed(0)
        cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 6, *COSINE, *overrides)
        torch.save({"model": build_model(cfg).state_dict()}, tmp_path / f"{name}.pth")
        cfg.MODEL.HEADS.NUM_CLASSES = 0  # as in a config that takes the number from its dataset
        (tmp_path / f"{name}.yml").write_text(cfg.dump())
        return ["--model", name, str(tmp_path / f"{name}.yml"), str(tmp_path / f"{name}.pth")]

    return save


def run(command: ModuleType, output: Path, *words: str) -> dict:
    assert command.main([*words, "--output", str(output)]) == 0
    assert cv2.imread(str(output)) is not None
    return json.loads(output.with_suffix(".json").read_text())


def problem(capsys: pytest.CaptureFixture, command: ModuleType, output: Path, *words: str) -> str:
    assert command.main([*words, "--output", str(output)]) == 1
    assert not output.exists() and not output.with_suffix(".json").exists()
    return capsys.readouterr().out


# ---- single-features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_each_feature_is_measured_as_a_model_of_that_feature_alone(
    save: Callable, tmp_path: Path, tiny_cfg: Callable[..., CfgNode], capsys: pytest.CaptureFixture, flip: bool
) -> None:
    """TEST.FEATURES is the other way to the same number, with a pass over the test set for each of them."""
    words = save("RRID", *RRID)
    numbers = run(single_features, tmp_path / "new" / "s.png", *words, "--opts", "TEST.FLIP.ENABLED", str(flip))["RRID"]
    assert numbers["metric"] == "cosine" and numbers["flip"] == flip and numbers["query"] == 4
    printed = capsys.readouterr().out
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


def test_models_side_by_side_and_with_other_features(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    models = (*save("without", *RRID, "MODEL.RRID.RELATION", "none"), *save("CAN", *CAN))
    numbers = run(single_features, tmp_path / "s.png", *models)
    assert list(numbers["CAN"]["results"]) == ["global_of_1", "global_of_2", "part_1_of_2", "all features"]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| part_1_of_2"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:2] == ["-", "-"] and float(cells[2]) == pytest.approx(
        numbers["CAN"]["results"]["part_1_of_2"]["mAP"], abs=0.06
    )


def test_test_features_narrows_them(save: Callable, tmp_path: Path) -> None:
    words = save("RRID", *RRID)
    every = run(single_features, tmp_path / "s.png", *words)["RRID"]["results"]
    some = run(single_features, tmp_path / "s.png", *words, "TEST.FEATURES", "['part_3_of_3','global_of_3']")["RRID"]
    assert list(some["results"]) == ["part_3_of_3", "global_of_3", "all features"]
    assert some["results"]["part_3_of_3"] == every["part_3_of_3"]


def test_single_features_refuses(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, rrid = tmp_path / "s.png", save("RRID", *RRID)
    assert "the head of IDE, EmbeddingHead, has one feature" in problem(capsys, single_features, output, *save("IDE"))
    assert "TEST.FEATURES has global_of_9" in problem(
        capsys, single_features, output, *rrid, "TEST.FEATURES", "['global_of_9']"
    )
    assert "names no test set: set DATASETS.TESTS" in problem(
        capsys, single_features, output, *rrid, "DATASETS.TESTS", "()"
    )
    assert "another model" in problem(capsys, single_features, output, *rrid[:3], save("CAN", *CAN)[3])
    assert "both models are named 'RRID'" in problem(capsys, single_features, output, *rrid, *rrid)
    with pytest.raises(SystemExit):
        single_features.main(["--output", str(output)])


# ---- rank-lists ---------------------------------------------------------------------------------------------------


def test_rank_lists_of_two_models(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extract_noise(model: nn.Module, loader: DataLoader, flip: bool) -> Features:
        features = extract(model, loader, flip=flip)
        if isinstance(model.heads, RRIDHead):
            return features
        return replace(features, features=np.random.default_rng(0).normal(size=features.features.shape))

    monkeypatch.setattr(rank_lists, "extract", extract_noise)  # all models find everything among so few images
    models = (*save("IDE"), *save("RRID", *RRID))
    numbers = run(rank_lists, tmp_path / "new" / "l.png", *models, "--k", "3")
    assert [query["chosen"] for query in numbers["queries"]] == ["greatest gain", "median gain", "greatest loss"]
    gains = []
    printed = capsys.readouterr().out
    for query in numbers["queries"]:
        own, first = query["models"]["RRID"], query["models"]["IDE"]
        gains.append(own["average_precision"] - first["average_precision"])
        assert len(own["found"]) == 3 and own["found"] != first["found"]
        for answer in own["found"]:
            assert answer["correct"] == (Path(answer["image"]).name[:4] == Path(query["image"]).name[:4])
        assert f"AP {own['average_precision']:.0%}" in printed and Path(query["image"]).name in printed
    assert gains == sorted(gains, reverse=True) and gains[0] > gains[-1]


def test_one_model_and_named_queries(save: Callable, tmp_path: Path) -> None:
    words = save("IDE")
    numbers = run(rank_lists, tmp_path / "l.png", *words, "--opts", "TEST.METRIC", "euclidean")
    assert [query["chosen"] for query in numbers["queries"]] == ["best AP", "median AP", "worst AP"]
    assert numbers["models"]["IDE"]["metric"] == "euclidean"
    path = numbers["queries"][2]["image"]
    named = run(rank_lists, tmp_path / "l.png", *words, "--opts", "TEST.METRIC", "euclidean", "--queries", path)
    assert [query["chosen"] for query in named["queries"]] == ["named"]
    assert named["queries"][0]["models"] == numbers["queries"][2]["models"]
    again = run(rank_lists, tmp_path / "l.png", *words, "--opts", "TEST.METRIC", "euclidean",
                "--queries", Path(path).name)  # fmt: skip
    assert again == named


def test_rank_lists_with_junk(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each query has one image of its own camera in the gallery, which is among its nearest here."""
    words = [*save("IDE"), "--k", "18"]
    plain = run(rank_lists, tmp_path / "l.png", *words)["queries"]
    table = capsys.readouterr().out
    for query, without in zip(run(rank_lists, tmp_path / "l.png", *words, "--junk")["queries"], plain):
        found = query["models"]["IDE"]["found"]
        (junk,) = [answer for answer in found if answer["rank"] is None]
        assert Path(junk["image"]).name[:7] == Path(query["image"]).name[:7]
        assert [answer for answer in found if answer is not junk] == without["models"]["IDE"]["found"]
        assert [answer["rank"] for answer in found if answer is not junk] == list(range(1, 19))
    # Of the images that do not count, none is a right one
    assert table.splitlines()[1:6] == capsys.readouterr().out.splitlines()[1:6]


def test_rank_lists_refuses(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, ide = tmp_path / "l.png", save("IDE")
    assert "'x.jpg' names no query images" in problem(capsys, rank_lists, output, *ide, "--queries", "x.jpg")
    other = tmp_path / "other"
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (other / folder).mkdir(parents=True)
        for camera in (1, 2):
            name = f"{1 if 'train' in folder else 101:04d}_c{camera}s1_000000_00.jpg"
            cv2.imwrite(str(other / folder / name), np.zeros((48, 24, 3), np.uint8))
    second = ["--model", "B", *ide[2:], "DATASETS.FOLDER.ROOT", str(other)]
    assert "IDE and B have different test images" in problem(capsys, rank_lists, output, *ide, *second)
    for wrong in (["--k", "0"], ["--each", "0"], ["--by", "gain"]):
        with pytest.raises(SystemExit):
            rank_lists.main([*ide, "--output", str(output), *wrong])


# ---- relation-maps ------------------------------------------------------------------------------------------------


def test_relation_maps_of_both_kinds(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    models = (*save("rest", *RRID, "MODEL.RRID.RELATION", "rest"), *save("both", *RRID))
    numbers = run(relation_maps, tmp_path / "new" / "r.png", *models, "--part", "part_2_of_3")
    assert numbers["models"]["rest"]["map"] == "R_p(r)" and numbers["models"]["both"]["map"] == "R_p(T(p, r))"
    rest, both = (numbers["models"][name]["share_of_parts"] for name in ("rest", "both"))
    assert rest[1] == 0 < both[1] and sum(rest) == pytest.approx(1) and sum(both) == pytest.approx(1)
    assert all(len(model["found"]) == 3 for query in numbers["queries"] for model in query["models"].values())
    printed = capsys.readouterr().out
    assert "part 2 *" in printed and f" {100 * both[0]:.1f} |" in printed and "4 query images" in printed


def test_relation_maps_draws_the_maps_of_the_chosen_queries(
    save: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(relation_maps, "draw_rank_lists", lambda examples, path, title: drawn.append(examples))
    words = save("RRID", *RRID)
    assert relation_maps.main([*words, "--part", "part_3_of_3", "--output", str(tmp_path / "r.png")]) == 0
    three = drawn[0]
    assert three.pictures.regions == 3 and three.pictures.marked == 2
    pictures = three.pictures.pictures["RRID"]
    assert len(pictures) == 3 and all(picture.shape == (48, 24, 3) for picture in pictures)
    monkeypatch.setattr(relation_maps, "_CHUNK", 1)  # the images in other batches
    path = three.query.paths[three.rows[1]]
    more = ["--part", "part_3_of_3", "--queries", path]
    assert relation_maps.main([*words, *more, "--output", str(tmp_path / "r.png")]) == 0
    (own,) = drawn[1].pictures.pictures["RRID"]
    assert np.abs(own.astype(int) - pictures[1]).max() <= 2
    assert np.abs(own.astype(int) - pictures[0]).max() > 10


def test_relation_maps_refuses(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, rrid = tmp_path / "r.png", save("RRID", *RRID)
    assert "RRID: there is no local feature 'part_3_of_6'" in problem(capsys, relation_maps, output, *rrid)
    part = ["--part", "part_1_of_3"]
    assert "none: MODEL.RRID.RELATION is 'none'" in problem(
        capsys, relation_maps, output, *save("none", *RRID, "MODEL.RRID.RELATION", "none"), *part
    ).replace("this model has no relation module: ", "")
    assert "CAN: relation maps are of RRIDHead" in problem(capsys, relation_maps, output, *save("CAN", *CAN), *part)
