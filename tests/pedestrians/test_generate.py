"""The folder of a set: the same bytes for the same request, whatever came in between."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from fastreid_parts.pedestrians import Nuisances, Studio, generate, is_complete, plan, sample_identities
from fastreid_parts.pedestrians import folder as sets
from fastreid_parts.pedestrians.folder import MANIFEST
from fastreid_parts.pedestrians.generate import draw_shot
from fastreid_parts.pedestrians.plan import FOLDERS, GALLERY, QUERY, TRAIN

from .. import forks
from .tiny import SIZE, TINY, contents, make, tiny_demo  # noqa: F401  a fixture

GENERATOR = sys.modules[draw_shot.__module__]  # the package has a function of the same name


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
    write, replace_file, calls = GENERATOR.write_file, os.replace, Counter()

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

    monkeypatch.setattr(GENERATOR, "write_file", counted)
    make(tmp_path / "cut")
    assert contents(folder) == whole
    assert calls["written"] == len(plan(TINY, 0)) - 8
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())


def test_two_processes_draw_it_once(tmp_path):
    whole = contents(make(tmp_path / "whole"))
    assert forks.together(*[lambda: make(tmp_path / "both")] * 2, own_pids=True) == [0, 0]
    (folder,) = (tmp_path / "both").iterdir()
    assert {name: digest for name, digest in contents(folder).items() if name != ".lock"} == whole


def test_another_process_draws_it_between_two_looks(tmp_path, monkeypatch):
    read, calls = sets._read_manifest, []

    def look(folder):
        found = read(folder)
        calls.append(folder)
        if len(calls) == 1:
            make(tmp_path)
        return found

    monkeypatch.setattr(sets, "_read_manifest", look)
    assert is_complete(make(tmp_path)) and len(calls) > 2


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
