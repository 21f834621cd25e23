"""The names that a user gives identities and cameras come out of every command as they went in."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastreid.config import CfgNode

from fastreid_parts.data.names import names_of
from fastreid_parts.retrieval import GalleryIndex, load_feature_set
from fastreid_parts.visualization.style import Sheet

from . import run as command_line
from .test_extract import write_model

#: Whom the four test identities of `market_folder` and its cameras are called here; the first would be a formula
PEOPLE = {"0101": "=gus", "0102": "hana", "0103": "Zoë", "0104": "-4x"}
PLACES = {"1": "door", "2": "till", "3": "3"}


def name_of(path: str) -> dict[str, str]:
    """Identity and camera that the table gives an image."""
    return {"identity": PEOPLE[Path(path).name[:4]], "camera": PLACES[Path(path).name[6]]}


def table_of(path: str) -> list[dict[str, str]]:
    """The rows of a table that a command wrote, without the marks that keep a spreadsheet from running cells."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert not any(cell[:1] in ("=", "-", "+", "@") for row in rows for cell in row.values())
    return [{name: cell.removeprefix("'") for name, cell in row.items()} for row in rows]


@pytest.fixture
def own(tiny_cfg: Callable[..., CfgNode], market_folder: Path, tmp_path: Path) -> list[str]:
    """A model whose test set is a table with names; the words that name it."""
    with open(tmp_path / "own.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "identity", "camera", "split"])
        for folder, split in (("query", "query"), ("bounding_box_test", "gallery")):
            for image in sorted((market_folder / folder).iterdir()):
                writer.writerow([image, *name_of(str(image)).values(), split])
    cfg = tiny_cfg("DATASETS.FOLDER.ROOT", "", "DATASETS.FOLDER.CSV", str(tmp_path / "own.csv"))
    return write_model(cfg, tmp_path, "ide")


def test_names_in_every_output(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label that is drawn and stands in no list: a question in JDAI-CV/fast-reid#128."""
    drawn: list[str] = []
    text = Sheet.text
    monkeypatch.setattr(Sheet, "text", lambda self, *args, **kw: drawn.append(str(args[2])) or text(self, *args, **kw))

    def run(*words: object) -> str:
        return command_line.run(capsys, *words).out

    features, index = tmp_path / "features", tmp_path / "index"
    run("extract", *own, "--output", features)
    assert all(name_of(row["path"]).items() <= row.items() for row in table_of(features / "images.csv"))
    run("index", "build", "--index", index, "--features", features)

    out = tmp_path / "out"
    printed = run("search", "--index", index, "--features", features, "--k", 20, "--output", out / "found.csv",
                  "--picture", out / "found.png")  # fmt: skip
    assert " Zoë " in printed and " till " in printed
    assert all(name_of(row["path"]).items() <= row.items() for row in table_of(out / "found.csv"))
    assert "id =gus · cam till" in drawn
    run("search", "--index", index, "--features", features, "--output", out / "found.json")
    found = json.loads((out / "found.json").read_text())["found"]
    assert all(name_of(one["path"]).items() <= one.items() for entries in found for one in entries)

    run("evaluate", "--features", features, "--output", out / "e.json", "--per-query", out / "e.csv")
    assert all(name_of(row["image"]).items() <= row.items() for row in table_of(out / "e.csv"))
    queries = json.loads((out / "e.json").read_text())["evaluated"][0]["queries"]
    assert all(name_of(one["image"]).items() <= one.items() for one in queries) and len(queries) == 4

    run("rerank", "--features", features, "--k1", 4, "--k2", 2, "--lists", out / "r.csv")
    assert all(name_of(row["image"]).items() <= row.items() for row in table_of(out / "r.csv"))
    run("rerank", "--features", features, "--k1", 4, "--k2", 2, "--lists", out / "r.json")
    assert all(
        name_of(one["image"]).items() <= one.items()
        for query in json.loads((out / "r.json").read_text())["queries"] for one in (query, *query["found"])
    )  # fmt: skip

    config, weights = own[1], own[3]
    run("report", "--model", "IDE", config, weights, "--no-maps", "--output", out / "report.html")
    page = (out / "report.html").read_text()
    assert "identity =gus, camera till" in page and "id hana" in page and "All queries that count" in page
    run("rank-lists", "--model", "IDE", config, weights, "--each", 2, "--output", out / "lists.png")
    lists = json.loads((out / "lists.json").read_text())["queries"]
    assert [one["chosen"] for one in lists] == [f"{n} of 4" for n in (1, 2, 3, 4)]
    assert all(
        name_of(one["image"]).items() <= one.items()
        for query in lists for one in (query, *query["models"]["IDE"]["found"])
    )  # fmt: skip


def test_labels_of_images_in_an_index(
    own: list[str], market_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    index, gallery = tmp_path / "index", market_folder / "bounding_box_test"
    labels = tmp_path / "labels.csv"
    images = sorted(map(str, gallery.iterdir()))
    rows = [f"{path},{name_of(path)['identity']},{name_of(path)['camera']}" for path in images[:-1]]
    labels.write_text("\n".join(["path,identity,camera", *rows, "gone.jpg,eva,"]) + "\n", encoding="utf-8")
    run = lambda *words: command_line.run(capsys, "index", *words).out  # noqa: E731
    run("build", "--index", index, *own, "--images", gallery, "--labels", labels)
    (tmp_path / "two.csv").write_text(
        "path,identity\n" + "".join(f"{q},hana\n" for q in (market_folder / "query").iterdir())
    )
    run("add", "--index", index, "--images", market_folder / "query", "--labels", tmp_path / "two.csv")
    there = GalleryIndex.load(index).images
    called = [there.names.identity(pid) for pid in there.pids.tolist()]
    assert called[:20] == [*(name_of(path)["identity"] for path in images[:-1]), None] and called[20:] == ["hana"] * 4
    assert [there.names.camera(camid) for camid in there.camids[19:]] == [None] * 5
    gone = sum(name == "hana" for name in called)
    assert f"{gone} images removed" in run("remove", "--index", index, "--identities", "hana")
    assert "=gus" in {GalleryIndex.load(index).images.names.identity(pid) for pid in there.pids.tolist()}
    (tmp_path / "none.csv").write_text("path,identity\nx.jpg,a\n")
    words = ("index", "build", "--index", tmp_path / "other", *own, "--labels")
    assert "names none of the 4 images" in command_line.problem(
        capsys, *words, tmp_path / "none.csv", "--images", market_folder / "query"
    )
    assert "--labels says whom --images or --features show" in command_line.problem(capsys, *words, labels)


def test_labels_of_stored_features_and_what_another_table_says(
    own: list[str], market_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    index, query, labels = tmp_path / "index", market_folder / "query", tmp_path / "labels.csv"
    images = sorted(map(str, query.iterdir()))
    features, gallery = tmp_path / "features", tmp_path / "gallery"
    command_line.run(capsys, "extract", *own, "--output", features, "--images", *images)
    command_line.run(capsys, "extract", *own, "--output", gallery, "--images", market_folder / "bounding_box_test")
    run = lambda *words: command_line.run(capsys, "index", *words).out  # noqa: E731
    labels.write_text("path,identity,camera,site\n" + "".join(f"{path},hana,till,door\n" for path in images[1:]))
    build = ("build", "--index", index, "--features", features, "--labels", labels)
    run(*build)
    there = GalleryIndex.load(index).images
    assert names_of(there.pids, there.camids, there.names) == (["", *["hana"] * 3], ["", *["till"] * 3])
    assert "by an earlier call" in run(*build)
    before = labels.read_text()
    labels.write_text(before.replace("hana", "eva"))  # it is not done yet
    assert "holds an index" in command_line.problem(capsys, "index", *build)

    labels.write_text("path,site\n" + "".join(f"{path},roof\n" for path in gallery_of(market_folder)))
    add = ("add", "--index", index, "--features", gallery, "--labels", labels)
    assert "20 images added" in run(*add) and "by an earlier call" in run(*add)
    labels.write_text(labels.read_text().replace("roof", "cellar"))
    assert "`index label` changes what columns say" in command_line.problem(capsys, "index", *add)
    run("label", "--index", index, "--table", labels)
    assert GalleryIndex.load(index).images.columns["site"].tolist() == ["", *["door"] * 3, *["cellar"] * 20]

    # Of features that know whom they show, it may say the same
    labels.write_text(before)
    known = tmp_path / "known"
    command_line.run(capsys, "extract", *own, "--output", known, "--images", *images, "--labels", labels)
    again = ("index", "build", "--index", tmp_path / "x", "--features", known, "--labels", labels)
    command_line.run(capsys, *again)
    assert GalleryIndex.load(tmp_path / "x").images.columns["site"].tolist() == ["", *["door"] * 3]
    labels.write_text(before.replace("hana", "eva"))
    problem = command_line.problem(capsys, *again, "--overwrite")
    assert "shows 'hana' under 'till', and" in problem and "leave identity and camera out of it" in problem


def gallery_of(market_folder: Path) -> list[Path]:
    return sorted((market_folder / "bounding_box_test").iterdir())


def test_a_gallery_without_a_match_is_extracted_and_not_evaluated(
    own: list[str], market_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(market_folder / "bounding_box_test", tmp_path / "one" / "gallery")
    folder = ("--opts", "DATASETS.FOLDER.CSV", "", "DATASETS.FOLDER.ROOT", tmp_path / "one")
    command_line.run(capsys, "extract", *own, "--output", tmp_path / "features", *folder)
    assert len(load_feature_set(tmp_path / "features").features) == 20
    assert "no query images" in command_line.problem(capsys, "evaluate", *own, *folder)


def test_a_file_name_that_is_no_utf8(
    own: list[str], market_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The result is there and then printing its name fails: freedomofpress/dangerzone#768."""
    odd = tmp_path / "images" / os.fsdecode(b"caf\xe9.jpg")
    odd.parent.mkdir()
    shutil.copy(next((market_folder / "query").iterdir()), odd)
    command_line.run(capsys, "index", "build", "--index", tmp_path / "index", *own, "--images", odd.parent)
    words = ("search", "--index", tmp_path / "index", "--query", odd, "--output", tmp_path / "found.csv")
    assert "caf\\udce9.jpg" in command_line.run(capsys, *words).out
    assert os.fsencode(odd) in (tmp_path / "found.csv").read_bytes()
    index = GalleryIndex.load(tmp_path / "index")
    assert index.images.paths == [str(odd)] and np.isfinite(index.search(np.ones((1, 512), np.float32))[0]).all()
