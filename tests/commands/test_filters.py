"""index label, search --where and --group-by: from a user's table to what is printed and written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastreid.config import CfgNode

from fastreid_parts.retrieval import GalleryIndex

from . import run as command_line
from .test_extract import write_model


@pytest.fixture
def shop(tiny_cfg: Callable[..., CfgNode], tmp_path: Path, market_folder: Path, capsys: pytest.CaptureFixture) -> Path:
    """An index over the gallery's images, whose table of labels has a site and a time too."""
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "identity", "camera", "site", "time"])
        for number, image in enumerate(sorted((market_folder / "bounding_box_test").iterdir())):
            site = "till" if number % 2 else "door"
            writer.writerow(
                [image, f"person {number % 4}", "", site, f"2026-05-{number + 1:02d}T14:00" if number else ""]
            )
    command_line.run(
        capsys, "index", "build", *write_model(tiny_cfg(), tmp_path, "ide"), "--index", tmp_path / "index",
        "--images", market_folder / "bounding_box_test", "--labels", tmp_path / "labels.csv",
    )  # fmt: skip
    return tmp_path / "index"


def test_a_question_of_columns(shop: Path, market_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    query = ("--query", next((market_folder / "query").iterdir()))
    where = "site == 'till' and time >= 2026-05-04 and time < 2026-05-11"
    search = ("search", "--index", shop, *query, "--where", where)
    printed = command_line.run(capsys, *search, "--output", tmp_path / "found.json").out
    assert "site" in printed.splitlines()[1] and "2026-05-04T14:00" in printed and "door" not in printed
    (entries,) = json.loads((tmp_path / "found.json").read_text())["found"]
    assert sorted(entry["time"][:10] for entry in entries) == [f"2026-05-{day:02d}" for day in (4, 6, 8, 10)]
    command_line.run(capsys, *search, "--group-by", "identity", "--output", tmp_path / "found.csv")
    with open(tmp_path / "found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["identity"] for row in rows) == ["person 1", "person 3"] and {row["site"] for row in rows} == {
        "till"
    }
    assert (
        "No image of the index" in command_line.run(capsys, "search", "--index", shop, *query, "--where", "row < 0").out
    )


def test_label(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = GalleryIndex.load(shop).images.paths[2]
    (tmp_path / "more.csv").write_text(f"path,site,height\n{path},roof,1.8\n")
    printed = command_line.run(capsys, "index", "label", "--index", shop, "--table", tmp_path / "more.csv").out
    assert "1 image of 20" in printed and "site text, time time, height number" in printed
    index = GalleryIndex.load(shop)
    assert (
        index.images.where("height > 1.5").nonzero()[0].tolist()
        == [2]
        == index.images.where("site == 'roof'").nonzero()[0]
    )


def test_columns_of_an_earlier_version_that_are_called_as_those_of_a_result(
    shop: Path,
    market_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    index = GalleryIndex.load(shop)
    for name in ("distance", "rank", "same_person"):
        index.images.columns[name] = np.full(len(index.images.present), 100.0)
    index.save(shop)
    query = ("--query", next((market_folder / "query").iterdir()))
    for ending in ("csv", "json"):
        words = ("search", "--index", shop, *query, "--k", 2, "--output", tmp_path / f"found.{ending}")
        assert "100" not in command_line.run(capsys, *words).out
        assert "index's column distance is left out" in caplog.text
    with open(tmp_path / "found.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert len(header) == len(set(header)) and [row[header.index("rank")] for row in rows] == ["1", "2"]
    (entries,) = json.loads((tmp_path / "found.json").read_text())["found"]
    assert [entry["rank"] for entry in entries] == [1, 2] and all(entry["distance"] < 3 for entry in entries)


def test_bad_input(shop: Path, market_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    search = ("search", "--index", shop, "--query", market_folder / "query")
    assert "no column 'color'" in command_line.problem(capsys, *search, "--where", "color == 'red'")
    assert "not understood at ';" in command_line.problem(capsys, *search, "--where", "site == 'a'; rm")
    assert "no column 'color'" in command_line.problem(capsys, *search, "--group-by", "color")
    before = (shop / "manifest.json").read_bytes()
    (tmp_path / "more.csv").write_text("path,site\nnone.jpg,roof\n")
    label = ("index", "label", "--index", shop, "--table")
    assert "none of the 1 images" in command_line.problem(capsys, *label, tmp_path / "more.csv")
    assert "missing.csv" in command_line.problem(capsys, *label, tmp_path / "missing.csv")
    assert (shop / "manifest.json").read_bytes() == before
