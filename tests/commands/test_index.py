"""index: galleries from features and images, changed, calibrated, and what is refused."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastreid.config import CfgNode

from fastreid_parts.evaluation import Features
from fastreid_parts.retrieval import FeatureSet, GalleryIndex, load_feature_set, save_feature_set

from . import run as command_line
from .test_extract import write_model


@pytest.fixture
def model(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> list[str]:
    return write_model(tiny_cfg(), tmp_path, "ide")


@pytest.fixture
def run(capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """A function that runs the command and gives what it logs and prints."""

    def run(*words: object) -> str:
        caplog.clear()
        return command_line.run(capsys, "index", *words).out + caplog.text

    return run


@pytest.fixture
def problem(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A function that runs the command and gives its error."""
    return lambda *words: command_line.problem(capsys, "index", *words)


@pytest.fixture
def features(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> Path:
    """Stored features of the test set: 4 queries, 20 images of the gallery."""
    command_line.run(capsys, "extract", *model, "--output", tmp_path / "features")
    return tmp_path / "features"


def test_an_index_over_stored_features(run: Callable, features: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "index"
    printed = run("build", "--index", place, "--features", features)
    for line in ("images      20", "identities  4", "cameras     3", "metric      cosine", "kind        flat"):
        assert line in printed
    there, stored = GalleryIndex.load(place), load_feature_set(features)
    gallery = stored.split()[1]
    assert there.images.paths == gallery.paths and there.fingerprint == stored.fingerprint
    np.testing.assert_array_equal(there.search(gallery.features, 1)[1][:, 0], np.arange(20))
    assert run("info", "--index", place).strip() in printed
    printed = run("build", "--index", place, "--features", features, "--kind", "hnsw", "--metric", "euclidean",
                  "--overwrite", "--parameters", "M", "4", "efSearch", "16")  # fmt: skip
    assert "parameters  M 4, efConstruction 80, efSearch 16" in printed and "euclidean" in printed
    assert GalleryIndex.load(place).kind == "hnsw"


def test_the_gallery_of_a_dataset(run: Callable, model: list[str], features: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    run("build", "--index", place, *model)
    there, gallery = GalleryIndex.load(place), load_feature_set(features).split()[1]
    assert sorted(there.images.paths) == sorted(gallery.paths)
    np.testing.assert_allclose(there.search(gallery.features, 1)[0], 0, atol=1e-5)
    assert str(tmp_path / "ide.pth") == there.to_cfg().MODEL.WEIGHTS
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("index")) == ["index"]


def test_images_are_added_and_removed(
    run: Callable, model: list[str], market_folder: Path, tmp_path: Path, problem: Callable
) -> None:
    place = tmp_path / "index"
    run("build", "--index", place, *model, "--images", market_folder / "bounding_box_test")
    assert "24 in the index" in run("add", "--index", place, "--images", market_folder / "query")
    there = GalleryIndex.load(place)
    assert "by an earlier call, 24 in the index" in run("add", "--index", place, "--images", market_folder / "query")
    assert GalleryIndex.load(place).states == there.states and not (tmp_path / "index.features").exists()
    query = there.images.paths[23]
    assert Path(query).parent.name == "query" and (there.images.pids == -1).all()
    assert "1 of 1 images are in the index already" in problem("add", "--index", place, "--images", query)
    assert "2 images removed, 22" in run("remove", "--index", place, "--paths", query, "--rows", 0)
    there = GalleryIndex.load(place)
    assert len(there) == 22 and not there.images.present[[0, 23]].any()
    assert "no image of row '0'" in problem("remove", "--index", place, "--rows", 0)
    assert len(GalleryIndex.load(place)) == 22


def test_an_hnsw_graph_is_rebuilt(run: Callable, features: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    run("build", "--index", place, "--features", features, "--kind", "hnsw")
    printed = run("remove", "--index", place, "--identities", 101)
    assert "5 of 20 images in the graph are hidden; `index compact` takes them out" in printed
    assert "hidden images  5" in run("info", "--index", place)
    assert "0 images removed, 15 in the index" in run("remove", "--index", place, "--rebuild")
    assert "hidden" not in run("info", "--index", place)


def test_calibration(run: Callable, features: Path, model: list[str], tmp_path: Path) -> None:
    place = tmp_path / "index"
    run("build", "--index", place, "--features", features)
    printed = run("calibrate", "--index", place, "--features", features, "--fpr", "0.1")
    chosen = GalleryIndex.load(place).calibration
    # Of 80 pairs 20 show the same person, of which the camera of the query took one each
    assert chosen is not None and (chosen.positives, chosen.negatives) == (16, 60) and 0 < chosen.fpr <= 0.1
    assert f"below {chosen.threshold:.6g}, by 60 pairs of different people and 16 of the same of FolderReID" in printed
    assert printed.strip() in run("info", "--index", place)
    run("calibrate", "--index", place, "--weights", model[-1], "--dataset", "FolderReID", "--criterion", "eer")
    assert GalleryIndex.load(place).calibration.criterion == "eer"
    assert not list(tmp_path.glob("*.features"))


def test_calibration_by_pairs(
    run: Callable, features: Path, model: list[str], tmp_path: Path, problem: Callable
) -> None:
    place = tmp_path / "index"
    run("build", "--index", place, "--features", features)
    stored = load_feature_set(features).features
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_a", "image_b", "same"])
        for a in range(4):
            for b in range(4, 24):
                writer.writerow([stored.paths[a], stored.paths[b], int(stored.pids[a] == stored.pids[b])])
    words = ("calibrate", "--index", place, "--pairs", tmp_path / "pairs.csv", "--criterion", "balanced")
    assert "pairs.csv" in run(*words)  # the index knows the checkpoint, as its features do
    assert "pairs.csv" in run(*words, "--weights", model[-1])
    chosen = GalleryIndex.load(place).calibration
    assert (chosen.positives, chosen.negatives) == (20, 60)


def test_what_is_refused(
    run: Callable, features: Path, model: list[str], tiny_cfg: Callable[..., CfgNode], tmp_path: Path, problem: Callable
) -> None:
    place = tmp_path / "index"
    build = ("build", "--index", place)
    assert "name the model: --config-file and --weights" in problem(*build)
    assert "name the checkpoint" in problem(*build, *model[:2])
    assert "holds something else than an index" in problem("build", "--index", features, "--features", features)
    assert "at least 9984 images, and there are 20" in problem(*build, "--features", features, "--kind", "ivfpq")
    assert "nlist is a whole number, got 'many'" in problem(
        *build, "--features", features, "--parameters", "nlist", "many"
    )
    assert not place.exists()
    printed = run(*build, "--features", features, "--kind", "ivfpq", "--fall-back")
    assert "building a flat index" in printed and "kind        flat" in printed
    other = write_model(tiny_cfg(), tmp_path, "other", seed=1)
    assert "another model than the index's" in problem("calibrate", "--index", place, *other)
    save_feature_set(
        tmp_path / "narrow", FeatureSet(Features(np.eye(3), *[np.arange(3)] * 2, ["a"] * 3), 0, "x", "", "")
    )
    assert "another model" in problem("add", "--index", place, "--features", tmp_path / "narrow")
    for word in ("add", "remove"):
        assert f"name what to {word}" in problem(word, "--index", place)
    (next(place.glob("vectors.*"))).unlink()
    assert "is missing: build the index again" in problem("info", "--index", place)


def test_a_build_goes_on_where_it_was_stopped(
    run: Callable,
    model: list[str],
    market_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: Callable,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = tmp_path / "index"
    words = ("build", "--index", place, *model, "--images", market_folder / "bounding_box_test")

    def stop(*args: object) -> None:
        raise OSError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(GalleryIndex, "save", stop)
        assert problem(*words) == "stopped"
    folder = tmp_path / "index.features"
    assert f"Features are kept in {folder}" in caplog.text and folder.is_dir()
    assert "holds these features already" in run(*words)
    assert len(GalleryIndex.load(place)) == 20 and not folder.exists()
    shutil.rmtree(place)


def test_a_build_that_is_asked_for_again_is_not_taken_for_one_that_was_killed(
    run: Callable, model: list[str], features: Path, market_folder: Path, tmp_path: Path, problem: Callable
) -> None:
    """An index of what was there before would pass for one of what is there now."""
    images, one, other = tmp_path / "images", tmp_path / "one", tmp_path / "other"
    shutil.copytree(market_folder / "query", images)
    of_images = ("build", "--index", one, *model, "--images", images)
    of_features = ("build", "--index", other, "--features", features)
    run(*of_images)
    run(*of_features)
    assert "by an earlier call" in run(*of_features)  # it says so of the very same features
    shutil.copyfile(next(images.iterdir()), images / "more.jpg")
    there = load_feature_set(features)
    save_feature_set(features, replace(there, features=there.features.take(slice(0, 10))))
    for words in (of_images, of_features):
        assert "holds an index: add to it, replace it (--overwrite)" in problem(*words)
    (features / "manifest.json").write_text("{")
    error = problem(*of_features)
    assert f"'{features / 'manifest.json'}' cannot be read" in error and "holds an index" not in error


@pytest.fixture(params=["build", "add"])
def interrupted(
    request: pytest.FixtureRequest,
    run: Callable,
    model: list[str],
    features: Path,
    market_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: Callable,
) -> tuple[Any, ...]:
    """A command that was stopped when all features were there, of images that may change now."""
    images = tmp_path / "images"
    shutil.copytree(market_folder / "query", images)
    if request.param == "add":
        run("build", "--index", tmp_path / "index", "--features", features)
    own = model if request.param == "build" else ()
    words = (request.param, "--index", tmp_path / "index", *own, "--images", images)

    def stop(*args: object, **kwargs: object) -> None:
        raise OSError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(GalleryIndex, "save", stop)
        assert problem(*words) == "stopped"
    return words


def test_an_interrupted_command_goes_on_when_the_folder_grew(
    run: Callable, interrupted: tuple[Any, ...], tmp_path: Path
) -> None:
    more = tmp_path / "images" / "more.jpg"
    shutil.copyfile(next(more.parent.iterdir()), more)
    assert re.search("What was kept there is computed again: .*holds features of other images", run(*interrupted))
    assert str(more) in list(GalleryIndex.load(tmp_path / "index").features().paths)
    assert not (tmp_path / "index.features").exists()


def test_what_a_command_kept_of_images_that_changed_is_computed_again(
    run: Callable, interrupted: tuple[Any, ...], tmp_path: Path
) -> None:
    one, *_, other = sorted((tmp_path / "images").iterdir())
    shutil.copyfile(other, one)
    assert re.search("What was kept there is computed again: .*before their files changed", run(*interrupted))
    there = GalleryIndex.load(tmp_path / "index").features()
    rows = [list(there.paths).index(str(path)) for path in (one, other)]
    np.testing.assert_allclose(*there.features[rows], rtol=1e-5)
    assert not (tmp_path / "index.features").exists()


def test_a_build_over_an_index_says_what_becomes_of_its_threshold(
    run: Callable, problem: Callable, features: Path, tmp_path: Path
) -> None:
    place = tmp_path / "index"
    build = ("build", "--index", place, "--features", features)
    run(*build)
    run("calibrate", "--index", place, "--features", features, "--fpr", 0.1)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert f"'{place}' holds an index: add to it, replace it (--overwrite), or name another" in problem(*build)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    threshold = GalleryIndex.load(place).calibration
    assert threshold is not None
    run(*build, "--kind", "hnsw", "--overwrite")  # the same model and metric
    assert GalleryIndex.load(place).calibration == threshold
    printed = run(*build, "--metric", "euclidean", "--overwrite")
    assert "The threshold of the index that was there goes with it" in printed
    assert GalleryIndex.load(place).calibration is None
    next(place.glob("images.*.csv")).unlink()
    assert "nothing is kept" in run(*build, "--overwrite")


@pytest.mark.parametrize("damage", ["cut", "gone", "edited", "format"])
def test_an_index_that_cannot_be_read_is_not_replaced_unasked(
    damage: str, run: Callable, problem: Callable, features: Path, tmp_path: Path
) -> None:
    place = tmp_path / "index"
    build = ("build", "--index", place, "--features", features)
    run(*build)
    manifest = place / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(
        {"cut": text[:-9], "edited": text.replace('"number": 1', '"number": 3')}.get(
            damage, text.replace('"format": 2', '"format": 3')
        )
    )
    if damage == "gone":
        manifest.unlink()
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    said = problem(*build, "--kind", "hnsw")
    assert "holds an index that cannot be read: replace it (--overwrite)" in said and str(manifest.name) in said
    with pytest.raises(ValueError, match="was changed by another process"):  # damaged after it was seen to be empty
        GalleryIndex.build(load_feature_set(features)).save(place, over="")
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert "nothing is kept" in run(*build, "--overwrite")
    assert len(GalleryIndex.load(place)) == 20
