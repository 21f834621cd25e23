"""`identify`: from features and a table to folders that are looked at and corrected."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastreid.config import CfgNode
from PIL import Image

from fastreid_parts.commands import _tracklets, identify
from fastreid_parts.commands.identify import LAWFUL
from fastreid_parts.data.names import columns_of
from fastreid_parts.evaluation import Features
from fastreid_parts.identification.results import check_results
from fastreid_parts.retrieval import FeatureSet, GalleryIndex, calibrate, load_feature_set, save_feature_set

from ..identification.test_streaming import tracklets
from .run import problem, run
from .test_extract import write_model


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Features of three cameras in `features`, and `table.csv` with track, time and identity."""
    there = tracklets(noise=0.35, people=10)
    paths, lines = [], ["path,track,time,identity"]
    random = np.random.default_rng(0)
    for row, (image, of) in enumerate(zip(there.paths, there.of)):
        file = tmp_path / image
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 8, 3), np.uint8)).save(file)
        paths.append(str(file))
        share = (row - np.searchsorted(there.of, of)) / max(1, (there.of == of).sum() - 1)
        time = there.start[of] + share * (there.end[of] - there.start[of])
        lines.append(f"{image},{there.names[of].split('/')[1]},{time},{there.identities[of]}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    people = [there.identities[of] for of in there.of]
    pids, camids, names = columns_of(people, [there.cameras[of] for of in there.of])
    features = FeatureSet(Features(there.features, pids, camids, paths, names), 0, "abc", "", "")
    save_feature_set(tmp_path / "features", features)
    return tmp_path


def of_table(place: Path) -> list[object]:
    return ["identify", "--features", place / "features", "--table", place / "table.csv", "--metric", "cosine"]


def read(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["tracklet"]: row for row in csv.DictReader(file)}


def test_from_tracklets_to_corrections(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = [*of_table(place), "--output", place / "out"]
    answer = run(capsys, *words, "--threshold", 0.3)
    assert answer.out.startswith(LAWFUL) and "Lawful use" in LAWFUL
    assert "40 tracklets" in answer.out and "IDF1" in answer.out and "its error is not known" in answer.out
    assert "of the joins" in answer.out.lower() and "largest margins" in answer.out
    with (place / "out/rejection.csv").open(newline="", encoding="utf-8") as file:
        curve = list(csv.DictReader(file))
    assert float(curve[-1]["answered"]) == 1 and 0 < float(curve[-1]["right"]) <= float(curve[0]["right"]) <= 1
    first = read(place / "out/identities.csv")
    assert len(first) == 40 and check_results(place / "out")["scores"]["IDF1"] > 0.6
    with (place / "out/joins.csv").open(newline="", encoding="utf-8") as file:
        join = next(row for row in csv.DictReader(file) if row["joined"] == "1")
    assert "holds an identification" in problem(capsys, *words, "--threshold", 0.3)
    one, other = join["tracklet_a"], join["tracklet_b"]
    (place / "out/corrections.csv").write_text(f"tracklet_a,tracklet_b,same\n{one},{other},0\n")
    run(capsys, *words, "--threshold", 0.3, "--overwrite")
    again = read(place / "out/identities.csv")
    assert first[one]["identity"] == first[other]["identity"] and again[one]["identity"] != again[other]["identity"]
    assert (place / "out/corrections.csv").exists() and check_results(place / "out")["corrections"] == 1


def test_a_threshold_by_labeled_tracklets(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = of_table(place)
    said = run(capsys, *words, "--distance", "pairs", "--calibrate", place / "threshold.json", "--fpr", 0.02).out
    assert "pairs of different people" in said and "False positive rate" in said
    answer = run(capsys, *words, "--calibration", place / "threshold.json", "--output", place / "out")
    assert "Of pairs of tracklets that constraints leave open" in answer.out
    manifest = check_results(place / "out")
    assert manifest["compared"]["kind"] == "pairs"
    assert manifest["threshold"] == json.loads((place / "threshold.json").read_text())["calibration"]["threshold"]
    words = [*words, "--calibration", place / "threshold.json", "--output", place / "other"]
    assert "is of kind pairs: ask for the same" in problem(capsys, *words, "--distance", "mean")
    (place / "threshold.json").write_text("{}")
    assert "is no threshold of tracklets" in problem(capsys, *words)


def test_known_people_and_the_threshold_of_an_index(place: Path, capsys: pytest.CaptureFixture) -> None:
    there = tracklets(noise=0.35, people=10)
    rows = np.flatnonzero(np.isin(there.of, [there.identities.index("3"), there.identities.index("7")]))
    people = [{"3": "anna", "7": "bob"}[there.identities[of]] for of in there.of[rows]]
    pids, camids, names = columns_of(people, [""] * len(rows))
    gallery = Features(there.features[rows], pids, camids, [f"{row}.jpg" for row in rows], names)
    index = GalleryIndex.build(FeatureSet(gallery, 0, "abc", "", ""))
    index.calibration = replace(calibrate(FeatureSet(gallery, 0, "abc", "", ""), target=0.1), threshold=0.3)
    index.save(place / "index")
    words = [*of_table(place), "--index", place / "index", "--output", place / "out"]
    answer = run(capsys, *words, "--known", "--mode", "both")
    assert "That is of pairs of images" in answer.out and "Streaming beside batch" in answer.out
    found = read(place / "out/identities.csv")
    for who, name in (("3", "anna"), ("7", "bob")):
        row = found[there.names[there.identities.index(who)]]
        assert row["identity"] == name and row["new"] == "0"
    assert "2 of them known people" in answer.out and {row["new"] for row in found.values()} == {"0", "1"}
    # Streaming goes on, and finds nothing to do
    before = (place / "out/identities.csv").read_bytes()
    run(capsys, *words, "--known", "--mode", "streaming")
    assert (place / "out/identities.csv").read_bytes() == before
    assert "--known people are those of an --index" in problem(
        capsys, *of_table(place), "--threshold", 0.3, "--known", "--output", place / "x"
    )
    other = GalleryIndex.build(FeatureSet(gallery, 0, "xyz", "", ""))
    other.save(place / "other")
    words = [*of_table(place), "--index", place / "other", "--threshold", 0.3, "--output", place / "x"]
    assert "another model than the index's" in problem(capsys, *words)


def test_bad_input(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = [*of_table(place), "--output", place / "out"]
    assert "name a threshold" in problem(capsys, *words)
    assert "a distance above 0" in problem(capsys, *words, "--threshold", -1)
    words += ["--threshold", 0.3]
    assert "takes pairs of two cameras" in problem(capsys, *words, "--overlapping-views", "c0")
    (place / "travel.csv").write_text("camera_a,camera_b,least_seconds\nc0,c1,soon\n")
    assert "line 2: two cameras" in problem(capsys, *words, "--travel-times", place / "travel.csv")
    (place / "said.csv").write_text("tracklet_a,tracklet_b,same\nno,body,1\n")
    assert "there is no tracklet no, body, which corrections name: correct" in problem(
        capsys, *words, "--corrections", place / "said.csv"
    )
    assert (
        "no tracklet is of a camera C2, which overlapping views name; the cameras are c0, c1, c2: correct"
        in problem(capsys, *words, "--overlapping-views", "c0,C2")
    )
    assert "no column tiem" in problem(capsys, *words, "--time-column", "tiem")
    assert "say where the results go" in problem(capsys, *words[:-4], "--threshold", 0.3)
    assert "no column" in problem(capsys, *words, "--table", place / "travel.csv")
    (place / "table.csv").write_text("path,site\nno.jpg,x\n")
    assert "names none of the" in problem(capsys, *words)
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fps", 25], "--fps: --features have their times by --table"),
        (["--every", 7, "--starts", 3, 4, "--frames", "x"], "--frames, --starts, --every: this is of --mot"),
        (["--model", "x"], "--model: --features are there already"),
        (["--best-pairs", 5, "--pair-images", 4], "--best-pairs, --pair-images: this is of --distance pairs"),
        (["--mode", "streaming", "--linkage", "complete"], "--linkage: this is of batch"),
        (["--fpr", 0.1, "--criterion", "eer"], "--criterion, --fpr: this is of --calibrate"),
    ],
)
def test_options_without_effect_are_refused(
    place: Path, capsys: pytest.CaptureFixture, options: list, message: str
) -> None:
    words = [*of_table(place), "--output", place / "out", "--threshold", 0.3]
    assert problem(capsys, *words, *options) == f"{message}; leave it out"
    assert not (place / "out").exists()


def test_calibrate_takes_its_own_options_and_files(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = [*of_table(place), "--calibrate"]
    file = place / "threshold.json"
    mine = ["--threshold", 0.3, "--mode", "both", "--corrections", "x.csv"]
    assert "--threshold, --mode, --corrections: --calibrate chooses a thr" in problem(capsys, *words, file, *mine)
    assert "writes .json" in problem(capsys, *words, place / "table.csv")
    file.write_text('{"results": 1}')
    assert "is no threshold of tracklets" in problem(capsys, *words, file)
    assert file.read_text() == '{"results": 1}'
    for more in (["--overwrite"], []):  # then, one of its own
        run(capsys, *words, file, "--fpr", 0.02, *more)
        assert "calibration" in json.loads(file.read_text())


def test_contradictions_are_found_before_a_state_goes(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = [*of_table(place), "--output", place / "out", "--threshold", 0.3, "--mode", "streaming"]
    run(capsys, *words)
    one, other, third = list(read(place / "out/identities.csv"))[:3]
    lines = [f"{one},{other},1", f"{other},{third},1", f"{one},{third},0"]
    (place / "out/corrections.csv").write_text("\n".join(["tracklet_a,tracklet_b,same", *lines]) + "\n")
    before = (place / "out/state.npz").read_bytes()
    assert "corrections contradict what is known" in problem(capsys, *words, "--overwrite")
    assert (place / "out/state.npz").read_bytes() == before
    (place / "out/corrections.csv").write_text("tracklet_a,tracklet_b,same\nc9/1,c9/2,1\n")
    run(capsys, *words, "--overwrite")
    assert check_results(place / "out")["corrections"] == 0


def test_features_are_taken_anew_of_crops_that_were_cut_anew(
    place: Path, tiny_cfg: Callable[..., CfgNode], capsys: pytest.CaptureFixture
) -> None:
    model = write_model(tiny_cfg(), place, "ide")
    crops = place / "crops" / "c1"
    words = ["identify", "--tracks", crops, *model, "--threshold", 0.3, "--output", place / "out"]
    for color in ("red", "blue", "blue"):
        for track in "78":
            (crops / track).mkdir(parents=True, exist_ok=True)
            if color == "red" or len(list((place / "out/features").iterdir())) < 2:
                Image.new("RGB", (16, 32), color).save(crops / track / "1.bmp")
        run(capsys, *words, "--overwrite")
    folders = [load_feature_set(folder).features.features for folder in (place / "out/features").iterdir()]
    assert len(folders) == 2 and not np.allclose(*folders)


def test_crops_of_a_threshold_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "door.txt").write_text("1,7,0,0,8,16\n")
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "frames" / "1.png")
    words = ["--mot", tmp_path / "door.txt", "--frames", tmp_path / "frames", "--fps", 10]
    parser = argparse.ArgumentParser()
    identify.add_arguments(parser)
    args = parser.parse_args([str(word) for word in (*words, "--calibrate", tmp_path / "threshold.json")])
    (image,) = _tracklets._of_mot(args)
    assert image.path == str(tmp_path / "threshold.json.crops" / "door" / "7" / "00000001.jpg")
