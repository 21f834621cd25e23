"""hub: a folder that the other commands take as their model, with the threshold of an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fastreid.config import CfgNode

from fastreid_parts.retrieval import GalleryIndex, load_feature_set

from .run import problem, run
from .test_extract import write_model


@pytest.fixture
def model(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> list[str]:
    return write_model(tiny_cfg(), tmp_path, "ide")


def test_a_folder_is_the_model_of_other_commands(
    model: list[str], tmp_path: Path, market_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    root = ["--opts", "DATASETS.FOLDER.ROOT", market_folder]
    run(capsys, "extract", *model, "--output", tmp_path / "expected")
    assert "Model " in run(capsys, "hub", "save", *model, "--output", tmp_path / "hub").out
    run(capsys, "extract", "--model", tmp_path / "hub", "--output", tmp_path / "features", *root)
    expected, there = load_feature_set(tmp_path / "expected"), load_feature_set(tmp_path / "features")
    assert there.fingerprint == expected.fingerprint and there.num_query == 4
    name = "features.npy"
    assert (tmp_path / "features" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    index = tmp_path / "index"
    run(capsys, "index", "build", "--index", index, "--features", tmp_path / "features")
    run(capsys, "index", "calibrate", "--index", index, "--features", tmp_path / "features", "--criterion", "balanced")
    query = next((market_folder / "query").iterdir())
    found = [run(capsys, "search", "--index", index, "--query", query, "--k", 2, *words).out
             for words in ([], ["--model", tmp_path / "hub"], model, ["--weights", model[-1]])]  # fmt: skip
    assert len(set(found)) == 1  # the index's own model is the folder's
    run(capsys, "index", "add", "--index", index, "--model", tmp_path / "hub", "--images", query)
    words = ["--model", tmp_path / "hub", "--output", tmp_path / "again", "--index", index]
    run(capsys, "hub", "save", *words)
    calibrated = GalleryIndex.load(index).calibration.threshold  # type: ignore[union-attr]
    assert json.loads((tmp_path / "again" / "model.json").read_text())["threshold"] == calibrated
    message = problem(capsys, "hub", "save", *words[:2], "--output", tmp_path / "new", "--index", index,
                      "--opts", "TEST.METRIC", "euclidean")  # fmt: skip
    assert "add --opts TEST.METRIC cosine" in message


def test_refuses(
    model: list[str], tmp_path: Path, tiny_cfg: Callable[..., CfgNode], capsys: pytest.CaptureFixture
) -> None:
    save = ["hub", "save", "--output", tmp_path / "hub"]
    run(capsys, *save, *model)
    assert "name the model: --config-file and --weights, or --model" in problem(capsys, *save)
    assert "name the model once" in problem(capsys, *save, "--model", tmp_path, *model)
    assert "name another folder, or overwrite them" in problem(capsys, *save, *model)
    assert "no weights file" in problem(capsys, *save, *model[:3], tmp_path / "none.pth")
    other = write_model(tiny_cfg(), tmp_path, "other", seed=1)
    run(capsys, "index", "build", *other, "--index", tmp_path / "index")
    new = [*save[:2], "--output", tmp_path / "new"]
    assert "another model than the index's" in problem(capsys, *new, *model, "--index", tmp_path / "index")
    assert "is not calibrated" in problem(capsys, *new, *other, "--index", tmp_path / "index")
    assert "holds its config" in problem(capsys, *new, *model[:2], "--weights", tmp_path / "hub" / "model.safetensors")
    assert not (tmp_path / "new").exists()
