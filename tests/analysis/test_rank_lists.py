"""rank-lists: what the lists of trained models say, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import nn
from torch.utils.data import DataLoader

from fastreid_parts.analysis import rank_lists, searched
from fastreid_parts.evaluation import Features, extract
from fastreid_parts.methods.rrid import RRIDHead
from tests.analysis.models import RRID, numbers_of, refused
from tests.commands.run import problem, run

COSINE = ("TEST.METRIC", "cosine")


@pytest.fixture
def save(save: Callable[..., list[str]]) -> Callable[..., list[str]]:
    return lambda name, *overrides: save(name, *COSINE, *overrides)


def test_rank_lists_of_two_models(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extract_noise(model: nn.Module, loader: DataLoader, flip: bool) -> Features:
        features = extract(model, loader, flip=flip)
        if isinstance(model.heads, RRIDHead):
            return features
        return replace(features, features=np.random.default_rng(0).normal(size=features.features.shape))

    monkeypatch.setattr(searched, "extract", extract_noise)  # all models find everything among so few images
    models = (*save("IDE"), *save("RRID", *RRID))
    numbers, printed = numbers_of(capsys, "rank-lists", tmp_path / "new" / "l.png", *models, "--k", "3")
    assert [query["chosen"] for query in numbers["queries"]] == ["greatest gain", "median gain", "greatest loss"]
    gains = []
    for query in numbers["queries"]:
        own, first = query["models"]["RRID"], query["models"]["IDE"]
        gains.append(own["average_precision"] - first["average_precision"])
        assert len(own["found"]) == 3 and own["found"] != first["found"]
        for answer in own["found"]:
            assert answer["correct"] == (Path(answer["image"]).name[:4] == Path(query["image"]).name[:4])
        assert f"AP {own['average_precision']:.0%}" in printed and Path(query["image"]).name in printed
    assert gains == sorted(gains, reverse=True) and gains[0] > gains[-1]


def test_one_model_and_named_queries(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    call = [capsys, "rank-lists", tmp_path / "l.png", *save("IDE"), "--opts", "TEST.METRIC", "euclidean"]
    numbers, _ = numbers_of(*call)
    assert [query["chosen"] for query in numbers["queries"]] == ["best AP", "median AP", "worst AP"]
    assert numbers["models"]["IDE"]["metric"] == "euclidean"
    path = numbers["queries"][2]["image"]
    named, _ = numbers_of(*call, "--queries", path)
    assert [query["chosen"] for query in named["queries"]] == ["named"]
    assert named["queries"][0]["models"] == numbers["queries"][2]["models"]
    assert numbers_of(*call, "--queries", Path(path).name)[0] == named


def test_other_files_stay_and_what_was_measured_is_told(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["rank-lists", *save("IDE"), "--output"]
    (tmp_path / "ide.json").write_text('{"evaluated": []}')
    assert "ide.json' is there and no file of rank-lists's" in problem(capsys, *words, tmp_path / "ide.png")
    assert (tmp_path / "ide.json").read_text() == '{"evaluated": []}'
    for name in ("lr_0.001", "fig.pdf", "ide.json"):
        assert f"writes .png, not '{tmp_path / name}'" in problem(capsys, *words, tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    assert "folder.png' is a folder: name the file" in problem(capsys, *words, tmp_path / "folder.png")
    assert "ide.json' is no folder" in problem(capsys, *words, tmp_path / "ide.json" / "new" / "l.png")

    def fails(*args: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(rank_lists, "draw_rank_lists", fails)
    answer = run(capsys, *words, tmp_path / "l.png", code=2)
    assert "no room" in answer.err and "| best AP" in answer.out and (tmp_path / "l.json").exists()


def test_rank_lists_with_junk(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each query has one image of its own camera in the gallery, which is among its nearest here."""
    call = [capsys, "rank-lists", tmp_path / "l.png", *save("IDE"), "--k", "18"]
    plain, table = numbers_of(*call)
    whole, same_table = numbers_of(*call, "--junk")
    for query, without in zip(whole["queries"], plain["queries"]):
        found = query["models"]["IDE"]["found"]
        (junk,) = [answer for answer in found if answer["rank"] is None]
        assert Path(junk["image"]).name[:7] == Path(query["image"]).name[:7]
        assert [answer for answer in found if answer is not junk] == without["models"]["IDE"]["found"]
        assert [answer["rank"] for answer in found if answer is not junk] == list(range(1, 19))
    # Of the images that do not count, none is a match
    assert table.splitlines()[1:7] == same_table.splitlines()[1:7]


def test_rank_lists_refuses(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, ide = tmp_path / "l.png", save("IDE")
    assert "'x.jpg' names no query images" in refused(capsys, "rank-lists", output, *ide, "--queries", "x.jpg")
    other = tmp_path / "other"
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (other / folder).mkdir(parents=True)
        for camera in (1, 2):
            name = f"{1 if 'train' in folder else 101:04d}_c{camera}s1_000000_00.jpg"
            cv2.imwrite(str(other / folder / name), np.zeros((48, 24, 3), np.uint8))
    second = ["--model", "B", *ide[2:], "DATASETS.FOLDER.ROOT", str(other)]
    assert "IDE and B have different test images" in refused(capsys, "rank-lists", output, *ide, *second)
    for wrong in (["--k", "0"], ["--each", "0"], ["--by", "gain"]):
        assert wrong[0] in refused(capsys, "rank-lists", output, *ide, *wrong)
