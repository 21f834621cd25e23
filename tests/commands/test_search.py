"""search: what it finds, prints, writes and draws, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastreid.config import CfgNode

from fastreid_parts.commands import search
from fastreid_parts.retrieval import GalleryIndex, load_feature_set
from fastreid_parts.visualization.style import MATCH, NON_MATCH, QUERY

from . import run as command_line
from .test_extract import write_model


@pytest.fixture
def model(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> list[str]:
    return write_model(tiny_cfg(), tmp_path, "ide")


@pytest.fixture
def gallery(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> Path:
    """An index over the 20 gallery images; the features of the test set lie beside it."""
    command_line.run(capsys, "extract", *model, "--output", tmp_path / "features")
    command_line.run(capsys, "index", "build", "--index", tmp_path / "index", "--features", tmp_path / "features")
    return tmp_path / "index"


@pytest.fixture
def run(gallery: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A function that searches the index and gives what it prints."""
    return lambda *words: command_line.run(capsys, "search", "--index", gallery, *words).out


@pytest.fixture
def problem(gallery: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A function that searches the index and gives the error."""
    return lambda *words: command_line.problem(capsys, "search", "--index", gallery, *words)


def colors_of(path: Path) -> set:
    pixels = cv2.imread(str(path))[..., ::-1].reshape(-1, 3)
    return {"#{:02x}{:02x}{:02x}".format(*pixel) for pixel in np.unique(pixels, axis=0).tolist()}


def test_images_and_their_features_find_the_same(
    run: Callable, model: list[str], market_folder: Path, gallery: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "found.json"
    printed = run("--query", market_folder / "query", "--weights", model[-1], "--k", 3, "--output", out)
    by_image = json.loads(out.read_text())
    run("--features", tmp_path / "features", "--k", 3, "--output", out)
    by_feature = json.loads(out.read_text())
    there, stored = GalleryIndex.load(gallery), load_feature_set(tmp_path / "features")
    distances, rows = there.search(stored, 3)
    for found in (by_image, by_feature):
        assert found["searched"]["images"] == 20 and found["searched"]["threshold"] is None
        lists = {entries[0]["query"]: entries for entries in found["found"]}
        assert len(lists) == 4
        for query, distance, row in zip(stored.split()[0].paths, distances, rows):
            entries = lists[query]
            assert [entry["rank"] for entry in entries] == [1, 2, 3]
            assert [entry["row"] for entry in entries] == row.tolist()
            np.testing.assert_allclose([entry["distance"] for entry in entries], distance, atol=1e-5)
            for entry in entries:
                assert entry["path"] == there.images.paths[entry["row"]]
                assert entry["identity"] == there.images.pids[entry["row"]]
                assert entry["camera"] == there.images.camids[entry["row"]] + 1 == int(Path(entry["path"]).name[6])
                assert "same_person" not in entry
    assert printed.count(str(market_folder / "query")) == 4 and "same person" not in printed
    assert f"{distances[0, 0]:#.4g}" in printed and there.images.paths[rows[0, 0]] in printed


def test_the_checkpoint_of_the_index_is_used(
    run: Callable,
    model: list[str],
    market_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    query = next((market_folder / "query").iterdir())
    assert run("--query", query, "--k", 1).startswith(str(query))  # one of saved features knows it, too
    words = ("build", "--overwrite", "--index", tmp_path / "index", *model, "--images", market_folder / "query")
    command_line.run(capsys, "index", *words)
    printed = run("--query", query, "--k", 1)
    lines = printed.splitlines()
    # Identity and camera are not known; the image finds itself
    assert lines[0] == str(query) and lines[3].split()[2:4] == ["-", "-"] and lines[3].endswith(str(query))


def test_verdicts_of_a_calibrated_index(
    run: Callable, gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(search, "MAX_QUERIES", 1)
    features = str(tmp_path / "features")
    words = ["calibrate", "--index", gallery, "--features", features, "--criterion", "balanced"]
    command_line.run(capsys, "index", *words)
    table, picture = tmp_path / "found.csv", tmp_path / "new" / "found.png"
    printed = run("--features", features, "--k", 20, "--output", table, "--picture", picture, "--print-queries", 1)
    threshold = GalleryIndex.load(gallery).calibration.threshold
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    for row in rows:
        assert int(row["same_person"]) == (float(row["distance"]) < threshold)
    first = [row for row in rows if row["query"] == rows[0]["query"]]
    yes = sum(int(row["same_person"]) for row in first)
    assert 0 < yes < 20 and printed.count(" yes ") == yes and printed.count(" no ") == 20 - yes
    assert "3 more queries are not printed: they are in the output" in printed
    assert "The same person: cosine distance below" in printed
    assert {QUERY, MATCH, NON_MATCH} <= colors_of(picture)


def test_without_a_threshold_nothing_is_called_right_or_wrong(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_QUERIES", 2)
    words = ("--features", tmp_path / "features", "--k", 5, "--picture")
    run(*words, tmp_path / "two.png")
    colors = colors_of(tmp_path / "two.png")
    assert QUERY in colors and MATCH not in colors and NON_MATCH not in colors
    monkeypatch.setattr(search, "MAX_QUERIES", 9)
    run(*words, tmp_path / "four.png")
    assert cv2.imread(str(tmp_path / "four.png")).shape[0] > 1.5 * cv2.imread(str(tmp_path / "two.png")).shape[0]


def test_what_is_refused(
    run: Callable,
    gallery: Path,
    tiny_cfg: Callable[..., CfgNode],
    market_folder: Path,
    tmp_path: Path,
    problem: Callable,
    capsys: pytest.CaptureFixture,
) -> None:
    query = market_folder / "query"
    other = write_model(tiny_cfg(), tmp_path, "other", seed=1)
    assert "another model than the index's" in problem("--query", query, *other)
    assert "neither an image nor a folder" in problem("--query", tmp_path / "nothing", "--weights", other[-1])
    assert "has no nprobe" in problem("--features", tmp_path / "features", "--tune", "nprobe", 3)
    assert "--k: must be at least 1" in problem("--query", query, "--k", "0")
    assert "--output: writes .csv or .json" in problem("--query", query, "--output", "found.txt")
    assert "pairs of a name and a value" in problem("--query", query, "--tune", "nprobe")
    assert "--query --features is required" in problem()
    there = GalleryIndex.load(gallery)
    there.images.paths[:] = ["gone.jpg"] * 20
    there.save(gallery)
    words = ("search", "--index", gallery, "--features", tmp_path / "features", "--picture")
    answer = command_line.run(capsys, *words, tmp_path / "a.png", code=2)
    assert "'gone.jpg' is not there any more" in answer.err and " gone.jpg" in answer.out
    assert "--picture: writes .png" in problem("--query", query, "--picture", "a.svg")
    assert "--print-queries: must be at least 0, got '-1'" in problem("--query", query, "--print-queries", -1)
    manifest = gallery / "manifest.json"
    manifest.write_text(manifest.read_text()[:50])
    assert "cannot be read" in problem("--features", tmp_path / "features")
