from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastreid.config import get_cfg
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.utils import comm

from fastreid_parts.data.datasets import SyntheticReID
from fastreid_parts.pedestrians import (
    SCALES,
    Nuisances,
    Scale,
    Studio,
    View,
    contact_sheet,
    generate,
    is_complete,
    plan,
    sample_identities,
    sample_view,
)
from fastreid_parts.pedestrians.generate import MANIFEST, draw_shot
from fastreid_parts.pedestrians.identity import GROUP_SIZE, MIN_DIFFERENCES, Bag, _differences
from fastreid_parts.pedestrians.plan import FOLDERS, GALLERY, QUERY, TRAIN

from ..commands.run import problem, run

TINY = Scale(train_ids=4, train_images=14, test_ids=3, queries=7, gallery=12, distractors=3, junk=2, cameras=3)
SIZE = (64, 32)
GENERATOR = sys.modules[draw_shot.__module__]  # the package has a function of the same name


@pytest.fixture(autouse=True)
def tiny_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "demo", TINY)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder` by its relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def make(root: Path, **kwargs) -> Path:
    return generate(root, "demo", size=SIZE, progress=False, **kwargs)


def test_same_seed_gives_the_same_bytes_whatever_the_global_state(tmp_path):
    first = contents(make(tmp_path / "a"))
    np.random.seed(5)
    cv2.setRNGSeed(7)
    cv2.setNumThreads(2)
    assert contents(make(tmp_path / "b")) == first
    other = contents(make(tmp_path / "c", seed=1))
    assert not set(other.values()) & set(first.values())


def test_an_image_does_not_depend_on_those_drawn_before():
    shots = plan(TINY, 0)
    people = {0: sample_identities(0, 0, TINY.train_ids), 1: sample_identities(0, 1, TINY.test_ids)}

    def draw(studio, shot):
        return draw_shot(studio, shot, shot.person and people[shot.person[0]][shot.person[1]], 0)

    forward, backward = Studio(0, 3, size=SIZE), Studio(0, 3, size=SIZE)
    expected = [draw(forward, shot) for shot in shots]
    for shot, image in zip(reversed(shots), reversed(expected)):
        assert np.array_equal(draw(backward, shot), image)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    whole = contents(make(tmp_path / "whole"))
    write, replace_file, calls = GENERATOR._write_file, os.replace, Counter()

    def killed(source, target):  # between writing an image and giving it its name
        calls["images"] += str(target).endswith(".jpg")
        if calls["images"] == 9:
            raise KeyboardInterrupt
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut")
    monkeypatch.setattr(os, "replace", replace_file)
    folder = next((tmp_path / "cut").iterdir())
    assert len(list(folder.glob("*/*.jpg"))) == 8
    assert not is_complete(folder)
    (folder / QUERY / "0001_c1s1_000000_00.jpg.999999999.tmp").write_bytes(b"half")  # as kill -9 would leave it
    kept = {p: p.stat().st_mtime_ns for p in folder.glob("*/*.jpg")}

    def counted(path, content):
        calls["written"] += path.suffix == ".jpg"
        write(path, content)

    monkeypatch.setattr(GENERATOR, "_write_file", counted)
    make(tmp_path / "cut")
    assert contents(folder) == whole
    assert calls["written"] == len(plan(TINY, 0)) - 8
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())


def test_a_lost_image_is_drawn_again(tmp_path):
    folder = make(tmp_path)
    before = contents(folder)
    next((folder / QUERY).iterdir()).unlink()
    make(tmp_path)
    assert contents(folder) == before


def test_layout_on_disk(tmp_path):
    folder = make(tmp_path)
    assert {name: len(list((folder / name).glob("*.jpg"))) for name in FOLDERS} == {TRAIN: 14, QUERY: 7, GALLERY: 17}
    for path in folder.glob("*/*.jpg"):
        assert cv2.imread(str(path)).shape == (*SIZE, 3)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["complete"] and manifest["images"] == 38 and manifest["size"] == list(SIZE)


@pytest.mark.parametrize("scale", [TINY, SCALES["small"], SCALES["market"]], ids=["tiny", "small", "market"])
def test_plan_has_exact_counts_and_a_cross_camera_match_for_every_query(scale):
    shots = plan(scale, 3)
    assert len({(shot.folder, shot.name) for shot in shots}) == len(shots)
    assert plan(scale, 3) == shots and plan(scale, 4) != shots
    train = [shot for shot in shots if shot.folder == TRAIN]
    query = [shot for shot in shots if shot.folder == QUERY]
    gallery = [shot for shot in shots if shot.folder == GALLERY]
    kinds = Counter(min(shot.pid, 1) for shot in gallery)
    assert (len(train), len(query)) == (scale.train_images, scale.queries)
    assert (kinds[1], kinds[0], kinds[-1]) == (scale.gallery, scale.distractors, scale.junk)
    assert {shot.pid for shot in train} == set(range(1, scale.train_ids + 1))
    assert {shot.pid for shot in query} == set(range(scale.train_ids + 1, scale.train_ids + scale.test_ids + 1))
    assert {shot.camera for shot in shots} == set(range(1, scale.cameras + 1))
    assert len({(shot.pid, shot.camera) for shot in query}) == len(query)
    cameras: dict[int, set[int]] = {}
    for shot in gallery:
        cameras.setdefault(shot.pid, set()).add(shot.camera)
    assert all(cameras[shot.pid] - {shot.camera} for shot in query)
    assert all(len({s.camera for s in train if s.pid == pid}) > 1 for pid in range(1, 5))


def test_market_scale_is_as_large_as_market():
    assert SCALES["market"] == Scale(751, 12936, 750, 3368, 13115, 2798, 3819, 6)
    assert SCALES["market"].gallery + SCALES["market"].distractors == 15913


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": 1}, "at least 2 cameras"),
        ({"train_images": 7}, "too few for 4 training"),
        ({"queries": 5}, "6 to 9 queries"),
        ({"queries": 10}, "6 to 9 queries"),
        ({"gallery": 6}, "too few for 7 queries"),
    ],
)
def test_scales_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plan(TINY._replace(**change), 0)


def test_look_alikes_share_garments_and_differ_in_details():
    train, test = sample_identities(0, 0, 40), sample_identities(0, 1, 40)
    assert sample_identities(0, 0, 8) == train[:8]
    assert not set(train) & set(test)
    for people in (train, test):
        for start in range(0, 40, GROUP_SIZE):
            group = people[start : start + GROUP_SIZE]
            assert len({(p.top.kind, p.top.color, p.bottom.kind, p.bottom.color) for p in group}) == 1
            pairs = [(a, b) for i, a in enumerate(group) for b in group[:i]]
            assert all(_differences(a, b) >= MIN_DIFFERENCES for a, b in pairs)
    assert {p.top.color for p in test} & {p.top.color for p in train}  # one wardrobe


@cache
def studio_with(nuisances: Nuisances) -> Studio:
    return Studio(0, 2, nuisances, SIZE)


def render(nuisances: Nuisances, draw: int) -> np.ndarray:
    return studio_with(nuisances).render(PERSON, 1, View(), np.random.default_rng(draw))


PERSON = sample_identities(0, 0, 1)[0]
STRENGTHS = [field.name for field in fields(Nuisances)]


def test_with_every_nuisance_off_nothing_is_left_to_chance():
    assert np.array_equal(render(Nuisances.none(), 0), render(Nuisances.none(), 1))
    border = render(Nuisances.none(), 0)[:2]
    assert np.ptp(border) <= 2  # plain grey


@pytest.mark.parametrize("name", [name for name in STRENGTHS if name != "viewpoint"])
def test_each_nuisance_alone_changes_the_image(name):
    off, on = Nuisances.none(), replace(Nuisances.none(), **{name: 1.0})
    still = render(off, 0)
    images = [render(on, draw) for draw in range(24)]
    assert any(not np.array_equal(image, still) for image in images)
    assert len({image.tobytes() for image in images}) > 1
    weak = [render(replace(off, **{name: 0.25}), draw) for draw in range(24)]
    assert np.mean([cv2.absdiff(i, still).mean() for i in weak]) < np.mean(
        [cv2.absdiff(i, still).mean() for i in images]
    )


def test_one_nuisance_leaves_the_random_numbers_of_the_others_alone():
    scene = replace(Nuisances.none(), background=1.0)
    for draw in range(6):
        posed, upright = render(replace(scene, pose=1.0), draw), render(scene, draw)
        assert not np.array_equal(posed, upright)
        assert np.array_equal(posed[:, :2], upright[:, :2])  # scene and walkers beside the person


def test_viewpoint_decides_the_headings():
    headings = [sample_view(np.random.default_rng(k), 1.0).yaw for k in range(200)]
    assert np.mean(np.cos(headings) < -0.5) > 0.2 and np.mean(np.cos(headings) > 0.5) > 0.2
    assert np.mean(np.abs(np.sin(headings)) > 0.8) > 0.15
    frontal = [sample_view(np.random.default_rng(k), 0.0) for k in range(20)]
    assert {view.yaw for view in frontal} == {0.0}
    assert [view.across for view in frontal] == [sample_view(np.random.default_rng(k)).across for k in range(20)]


def count(image: np.ndarray, low: tuple[int, int, int], high: tuple[int, int, int]) -> int:
    return int(cv2.inRange(image, low, high).sum()) // 255


def test_a_backpack_is_seen_from_behind_and_its_straps_from_the_front():
    studio = Studio(0, 2, Nuisances.none())
    base = replace(sample_identities(0, 0, 1)[0], bag=Bag("backpack", (0, 255, 0), (255, 0, 255), 1.0))

    def seen(yaw):
        image = studio.render(base, 1, View(yaw=yaw), np.random.default_rng(0))
        return count(image, (150, 0, 150), (255, 90, 255)), count(image, (0, 90, 0), (80, 255, 80))

    (pocket_front, straps), (pocket_back, bag) = seen(0.0), seen(np.pi)
    assert pocket_front == 0 and pocket_back > 40
    assert 0 < straps < bag


def test_rendering_refuses_a_camera_that_is_not_there():
    with pytest.raises(ValueError, match="cameras 1 to 2"):
        Studio(0, 2, size=SIZE).render(sample_identities(0, 0, 1)[0], 3, View(), np.random.default_rng(0))


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), "1", True])
def test_strengths_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="nuisance 'pose'"):
        Nuisances(pose=value)


def test_a_folder_made_with_other_parameters_is_refused(tmp_path):
    folder = make(tmp_path)
    with pytest.raises(ValueError, match=r"size was \[64, 32\] and is now \[128, 64\].*delete that folder"):
        generate(tmp_path, "demo", progress=False)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": 0}))
    with pytest.raises(ValueError, match="version was 0"):
        make(tmp_path)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="cannot be read.*delete the folder"):
        make(tmp_path)
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match="not made by this generator"):
        make(tmp_path)


def test_other_strengths_get_a_folder_of_their_own(tmp_path):
    usual, still = make(tmp_path), make(tmp_path, nuisances=Nuisances(pose=0))
    assert usual != still and "pose0" in still.name
    assert not set(contents(usual / TRAIN).values()) & set(contents(still / TRAIN).values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "huge"}, "unknown scale 'huge'.*demo, small, market"),
        ({"seed": -1}, "seed of SyntheticReID is -1"),
        ({"size": (8, 8)}, r"image size is \(8, 8\)"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path, **{"progress": False, **arguments})
    assert not list(tmp_path.iterdir())


def test_dataset_reads_as_market_does(tmp_path):
    dataset = SyntheticReID(str(tmp_path))
    assert DATASET_REGISTRY.get("SyntheticReID") is SyntheticReID
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (14, 7, 15)  # without the junk
    assert {item[1] for item in dataset.train} == {f"synthetic_{pid}" for pid in range(1, 5)}
    assert {item[2] for item in dataset.train} <= {f"synthetic_{camera}" for camera in range(3)}
    assert {item[1] for item in dataset.query} == {5, 6, 7}
    assert {item[1] for item in dataset.gallery} == {0, 5, 6, 7}
    assert {item[2] for item in dataset.gallery} <= {0, 1, 2}
    combined = SyntheticReID(str(tmp_path), combineall=True)
    assert len(combined.train) == 14 + 7 + 12  # junk and distractors are nobody


def test_dataset_follows_its_config(tmp_path):
    cfg = get_cfg()
    cfg.DATASETS.SYNTHETIC.SEED = 2
    cfg.DATASETS.SYNTHETIC.NUISANCES.CAMERA = 0.5
    dataset = SyntheticReID.from_config(cfg, str(tmp_path))
    manifest = json.loads((Path(dataset.data_dir) / MANIFEST).read_text())
    assert (manifest["scale"], manifest["seed"]) == ("demo", 2)
    assert manifest["nuisances"] == {name: 0.5 if name == "camera" else 1.0 for name in STRENGTHS}


def test_only_the_first_process_of_a_machine_generates(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(comm, "get_local_rank", lambda: 1)
    monkeypatch.setattr(comm, "synchronize", lambda: waited.append(True))
    with pytest.raises(RuntimeError, match="local rank 0 says why"):
        SyntheticReID(str(tmp_path))
    assert waited and not list(tmp_path.iterdir())
    generate(tmp_path, "demo", progress=False)
    assert len(SyntheticReID(str(tmp_path)).train) == 14


def test_the_others_are_released_when_the_first_process_fails(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(comm, "synchronize", lambda: waited.append(True))
    make(tmp_path)  # of another image size
    with pytest.raises(ValueError, match="other parameters"):
        SyntheticReID(str(tmp_path))
    assert waited


def test_contact_sheet_and_command(tmp_path, capsys):
    sheet = contact_sheet(identities=2, views=1, cameras=2, size=SIZE)
    assert sheet.dtype == np.uint8 and sheet.shape[0] > 2 * SIZE[0] and sheet.shape[1] > 2 * SIZE[1]
    with pytest.raises(ValueError, match="start at 1"):
        contact_sheet(views=0)
    path = tmp_path / "new" / "sheet.png"
    options = ["--identities", "2", "--views", "1", "--size", "64", "32", "--background", "0"]
    run(capsys, "synthesize", "--contact-sheet", path, *options)
    assert cv2.imread(str(path)) is not None
    wrong = ["--contact-sheet", tmp_path / "sheet.nothing", *options]
    assert "ends in .png" in problem(capsys, "synthesize", *wrong)
    run(capsys, "synthesize", "--root", tmp_path, "--size", "64", "32")
    assert is_complete(tmp_path / "SyntheticReID-demo-seed0")
