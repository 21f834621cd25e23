"""Tracks: consecutive frames of people who are at one place at a time, and what lies in their folder."""

from __future__ import annotations

import csv
import itertools
import json
import os

import cv2
import numpy as np
import pytest

from fastreid_parts.pedestrians import (
    SCALES,
    Nuisances,
    Studio,
    generate_tracks,
    is_complete,
    sample_identities,
    track_sheet,
)
from fastreid_parts.pedestrians.folder import MANIFEST
from fastreid_parts.pedestrians.render import BACKGROUND, OCCLUDER
from fastreid_parts.pedestrians.walks import CAMERAS, FPS, OVERLAPPING, least_seconds, moments, plan_walks

from .tiny import SIZE, TINY, contents, tiny_demo  # noqa: F401  a fixture


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "demo", TINY)
        return generate_tracks(tmp_path_factory.mktemp("root"), "demo", size=SIZE, progress=False)


def test_nobody_is_at_two_places_at_once_or_faster_than_the_travel_times():
    together, apart = 0, 0
    for seed in range(3):
        tracks = plan_walks(seed, 0, 60)
        assert {track.camera for track in tracks} == set(range(1, CAMERAS + 1))
        for one, other in itertools.combinations(sorted(tracks, key=lambda track: track.start), 2):
            if one.person != other.person:
                continue
            gap = (other.start - one.start - one.frames) / FPS
            if one.visit == other.visit:
                assert {one.camera, other.camera} == set(OVERLAPPING)
                together += gap < 0
            else:
                assert gap >= max(1 / FPS, least_seconds(one.camera, other.camera))
                apart += 1
    assert together > 20 and apart > 1000


def test_tracks_of_a_camera_are_numbered_by_their_begin_and_a_plan_of_more_people_holds_that_of_fewer():
    tracks = plan_walks(0, 0, 30)
    for camera in range(1, CAMERAS + 1):
        under = [track for track in tracks if track.camera == camera]
        assert [track.number for track in under] == list(range(1, len(under) + 1))
        assert [track.start for track in under] == sorted(track.start for track in under)
    fewer = {track._replace(number=0) for track in plan_walks(0, 0, 10)}
    assert fewer == {track._replace(number=0) for track in tracks if track.person < 10}
    assert fewer.isdisjoint({track._replace(number=0) for track in plan_walks(0, 1, 10)})


def test_what_is_seen_changes_little_from_one_frame_to_the_next():
    studio, leaps, occluded, frames = Studio(0, CAMERAS, size=SIZE), 0, 0, 0
    for track in plan_walks(0, 0, 40):
        seen = moments(track, 0, 0, studio.scene(track.camera), studio.nuisances)
        assert len(seen) == track.frames
        frames += len(seen)
        boxes = np.array([studio.box(track.camera, moment) for moment in seen])
        assert (boxes[:, 2:] > 0).all()
        for one, other in itertools.pairwise(seen):
            assert abs(other.view.across - one.view.across) < 0.15 and abs(other.view.depth - one.view.depth) < 0.3
            assert 0.6 < other.view.phase - one.view.phase < 2.5  # a person goes on walking, never half a cycle a frame
            # Whatever crosses moves on by its step; the next begins beside the box, as the one before has left it
            places = ((OCCLUDER, 0), (BACKGROUND, 0), (BACKGROUND, 4))
            for (row, column), before, after in zip(places, one.crossing, other.crossing):
                if abs(after.shift - before.shift) > 0.35:
                    leaps += 1
                    for moment, crossing in ((one, before), (other, after)):
                        assert abs(crossing.shift) > 0.5 or moment.draws[row, column] == 1
        occluded += sum(m.draws[OCCLUDER, 0] == 0 and abs(m.crossing[0].shift) < 0.3 for m in seen)
    assert 0 < leaps < 0.3 * frames and 0.05 < occluded / frames < 0.3


def test_consecutive_images_are_more_alike_than_distant_ones():
    studio = Studio(0, CAMERAS, Nuisances(occlusion=0), size=(64, 32))
    people = sample_identities(0, 1, 4)
    near, far = [], []
    for track in plan_walks(0, 0, 4)[:8]:
        seen = moments(track, 0, 0, studio.scene(track.camera), studio.nuisances)
        images = [studio.render_moment(people[track.person], track.camera, moment).astype(float) for moment in seen]
        near += [np.abs(one - other).mean() for one, other in itertools.pairwise(images)]
        far += [
            np.abs(one - images[len(images) // 2 + index]).mean()
            for index, one in enumerate(images[: len(images) // 2])
        ]
    assert np.mean(near) < 0.85 * np.mean(far)


def test_strengths_change_no_random_number():
    studio = Studio(0, CAMERAS, size=SIZE)
    track = plan_walks(0, 0, 1)[0]
    usual, still = (
        moments(track, 0, 0, studio.scene(track.camera), one) for one in (Nuisances(), Nuisances(occlusion=0, pose=0))
    )
    for one, other in zip(usual, still):
        assert one.view == other.view and one.crossing == other.crossing
        rows = [row for row in range(7) if row != OCCLUDER]
        assert np.array_equal(one.draws[rows], other.draws[rows]) and other.draws[OCCLUDER, 0] == 1


def test_the_folder(drawn):
    rows = list(csv.DictReader((drawn / "tracks.csv").open()))
    images = {str(path.relative_to(drawn)) for path in drawn.rglob("*.jpg")}
    assert images == {row["path"] for row in rows} and len(images) == len(rows)
    assert is_complete(drawn) and json.loads((drawn / MANIFEST).read_text())["images"] == len(rows)
    assert {row["identity"] for row in rows} == {f"{TINY.train_ids + 1 + n:04d}" for n in range(TINY.test_ids)}
    for row in rows:
        assert row["path"] == f"{row['camera']}/{row['track']}/{int(row['frame']):08d}.jpg"
        assert float(row["time"]) == pytest.approx((int(row["frame"]) - 1) / FPS)
    mot = {
        (path.stem, int(line.split(",")[1]), int(line.split(",")[0]))
        for path in drawn.glob("c*.txt")
        for line in path.read_text().splitlines()
    }
    assert mot == {(row["camera"], int(row["track"]), int(row["frame"])) for row in rows}
    ways = list(csv.DictReader((drawn / "travel_times.csv").open()))
    assert len(ways) == 14 and all(float(way["least_seconds"]) > 0 for way in ways)
    assert cv2.imread(str(drawn / rows[0]["path"])).shape == (*SIZE, 3)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(drawn, tmp_path, monkeypatch):
    replace, calls = os.replace, itertools.count()

    def killed(source, target):
        if next(calls) == 9:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        generate_tracks(tmp_path, "demo", size=SIZE, progress=False)
    monkeypatch.setattr(os, "replace", replace)
    folder = tmp_path / drawn.name
    assert len(list(folder.rglob("*.jpg"))) == 8 and not is_complete(folder)
    generate_tracks(tmp_path, "demo", size=SIZE, progress=False)
    assert contents(folder) == contents(drawn)
    table = (folder / "tracks.csv").read_bytes()
    (folder / "tracks.csv").unlink()
    generate_tracks(tmp_path, "demo", size=SIZE, progress=False)
    assert (folder / "tracks.csv").read_bytes() == table


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="part of SyntheticReID's tracks is -1"):
        generate_tracks(tmp_path, "demo", part=-1, progress=False)
    with pytest.raises(ValueError, match="unknown scale"):
        generate_tracks(tmp_path, "huge", progress=False)
    with pytest.raises(ValueError, match="start at 1"):
        track_sheet(frames=0)
    assert not list(tmp_path.iterdir())
