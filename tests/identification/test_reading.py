"""Tracklets from folders, tables, MOT text files with frames, a video or crops; what is wrong with them is said."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fastreid_parts.data.names import columns_of
from fastreid_parts.evaluation import Features
from fastreid_parts.identification.distances import Compared
from fastreid_parts.identification.page import _seen
from fastreid_parts.identification.reading import (
    TrackedImage,
    described,
    gathered,
    images_of_folders,
    images_of_mot,
    of_feature_set,
    seconds_of,
)
from fastreid_parts.identification.reduced import reduce_tracklets
from fastreid_parts.pedestrians import SCALES, generate_tracks
from fastreid_parts.retrieval import FeatureSet

from ..pedestrians.tiny import TINY

_BOXES = "2,7,4,2,8,16,1,-1,-1,-1\n1,7,0,0,8,16,1\n1,9,10,0,6.4,12.2,1\n"


def frames_of(folder: Path, many: int = 2) -> Path:
    """Frames of 32 x 24 whose color says their number."""
    folder.mkdir()
    for number in range(1, many + 1):
        Image.new("RGB", (32, 24), (40 * number, 0, 200)).save(folder / f"img_{number:04d}.png")
    return folder


def features_of(images: list[TrackedImage]) -> Features:
    pids, camids, names = columns_of([image.identity for image in images], [image.camera for image in images])
    rows = np.arange(4 * len(images), dtype=np.float32).reshape(len(images), 4)
    return Features(rows, pids, camids, [image.path for image in images], names)


def test_boxes_are_cut_once_and_in_the_order_of_time(tmp_path: Path) -> None:
    (tmp_path / "door.txt").write_text(_BOXES)
    frames = frames_of(tmp_path / "frames")
    images = images_of_mot(tmp_path / "door.txt", tmp_path / "crops", 10.0, frames, start=5.0)
    assert [(image.track, image.camera, image.time) for image in images] == [
        ("7", "door", 5.0), ("9", "door", 5.0), ("7", "door", 5.1),
    ]  # fmt: skip
    assert images[0].path == str(tmp_path / "crops/door/7/00000001.jpg")
    assert [Image.open(image.path).size for image in images] == [(8, 16), (6, 12), (8, 16)]
    assert abs(Image.open(images[2].path).getpixel((4, 8))[0] - 80) < 4
    tracklets = gathered(images, features_of(images), "abc", "")
    assert tracklets.names == ["door/7", "door/9"] and tracklets.of.tolist() == [0, 0, 1]
    assert tracklets.start.tolist() == [5.0, 5.0] and tracklets.end.tolist() == [5.1, 5.0]

    second = (frames / "img_0002.png").read_bytes()
    for file in frames.iterdir():
        file.unlink()
    (frames / "img_0001.png").write_bytes(b"not needed any more")
    assert images_of_mot(tmp_path / "door.txt", tmp_path / "crops", 10.0, frames, start=5.0) == images
    # The crops alone do as well, and of one box in two only these are needed
    assert images_of_mot(tmp_path / "door.txt", tmp_path / "crops", 10.0, start=5.0) == images
    Path(images[2].path).unlink()
    assert images_of_mot(tmp_path / "door.txt", tmp_path / "crops", 10.0, every=2, start=5.0) == images[:2]
    with pytest.raises(FileNotFoundError, match="00000002.jpg.*1 such box"):
        images_of_mot(tmp_path / "door.txt", tmp_path / "crops", 10.0)
    # The tracker goes on, and its last line has no end yet
    for more in ("2,9,0,0,8,16", "\n2,11,0,0,8,16\n"):
        with (tmp_path / "door.txt").open("a") as file:
            file.write(more)
        (frames / "img_0002.png").write_bytes(second)
        grown = images_of_mot(tmp_path / "door.txt", tmp_path / "crops", 10.0, frames, start=5.0)
    assert len(grown) == 5 and set(images) < set(grown)
    (tmp_path / "door.txt").write_text(_BOXES.replace("4,2,8,16", "5,2,8,16"))
    with pytest.raises(ValueError, match="crops of something else"):
        images_of_mot(tmp_path / "door.txt", tmp_path / "crops", 10.0, frames)


def test_a_video_gives_the_frames_of_its_numbers(tmp_path: Path) -> None:
    video = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (32, 24))
    for number in range(1, 5):
        video.write(np.full((24, 32, 3), (0, 0, 50 * number), np.uint8))  # red, as OpenCV has it
    video.release()
    (tmp_path / "a.txt").write_text("2 1 0 0 8 16\n4 1 0 0 8 16\n")
    images = images_of_mot(tmp_path / "a.txt", tmp_path / "crops", 5.0, tmp_path / "a.avi")
    red = [Image.open(image.path).getpixel((4, 8)) for image in images]
    assert [abs(r - 50 * number) < 12 and g < 20 and b < 20 for (r, g, b), number in zip(red, (2, 4))] == [True, True]
    (tmp_path / "b.txt").write_text("5,1,0,0,8,16\n")
    with pytest.raises(FileNotFoundError, match="has no frame 5"):
        images_of_mot(tmp_path / "b.txt", tmp_path / "crops", 5.0, tmp_path / "a.avi")
    with pytest.raises(OSError, match="cannot be read as a video"):
        images_of_mot(tmp_path / "b.txt", tmp_path / "other", 5.0, tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no box"),
        ("1,7,0,0,8\n", "line 1: frame, track"),
        ("1,7,0,0,8,16\n\n2,../x,0,0,8,16\n", "line 3: frame, track"),
        ("1,7,0,0,nan,16\n", "line 1: frame, track"),
        ("1,7,0,0,8,16\n1,8,0,0,8,16\n1,7,4,0,8,16\n", "lines 1 and 3: track 7 has two boxes in frame 1"),
        ("1,7,40,0,8,16\n", "no box that lies in its frame"),
        ("9,7,0,0,8,16\n", "has no frame 9"),
        ("0,7,0,0,8,16\n", "has no frame 0"),
    ],
)
def test_what_is_wrong_with_a_mot_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        images_of_mot(tmp_path / "a.txt", tmp_path / "crops", 5.0, frames_of(tmp_path / "frames"))


def test_boxes_outside_of_their_frame_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("1,7,-4,0,8,16\n2,7,-9,0,8,16\n")
    with caplog.at_level(logging.WARNING):
        images = images_of_mot(tmp_path / "a.txt", tmp_path / "crops", 5.0, frames_of(tmp_path / "frames"))
    assert len(images) == 1 and Image.open(images[0].path).size == (4, 16) and "1 box of" in caplog.text
    with pytest.raises(ValueError, match="how many a second"):
        images_of_mot(tmp_path / "a.txt", tmp_path / "crops", 0.0)
    with pytest.raises(ValueError, match=r"start and frames of '.*a\.txt': .* beyond the year 9999"):
        images_of_mot(tmp_path / "a.txt", tmp_path / "crops", 5.0, start=1714572450000)
    with pytest.raises(ValueError, match="a camera's name"):
        images_of_mot(tmp_path / "a.txt", tmp_path / "crops", 5.0, camera="../x")


def test_drawn_tracks_are_read_alike_by_folder_and_by_mot_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "demo", TINY)
    folder = generate_tracks(tmp_path, "demo", size=(32, 32), progress=False)
    by_folder = described(images_of_folders([folder]), folder / "tracks.csv")
    by_mot = [image for file in folder.glob("c*.txt") for image in images_of_mot(file, folder, 5.0)]
    by_frames = images_of_folders([folder], fps=5.0)
    one, other, third = (gathered(images, features_of(images), "", "") for images in (by_folder, by_mot, by_frames))
    assert len(one) > 5 and set(one.identities) == {"0005", "0006", "0007"}
    rows = [other.names.index(name) for name in one.names]
    assert np.allclose(other.start[rows], one.start) and np.allclose(other.end[rows], one.end)
    assert np.allclose(third.end - third.start, one.end - one.start) and third.names == one.names
    # Seconds of a table may touch, numbers of frames may not
    assert not one.framed.any() and other.framed.all() and third.framed.all()
    assert not reduce_tracklets(one, Compared()).sighted.framed.any()


def test_times_cameras_and_people_of_a_table(tmp_path: Path) -> None:
    images = [TrackedImage(str(tmp_path / f"{n}.jpg"), "", "", math.nan, "") for n in range(5)]
    head = "path,track,time,camera,identity\n"
    table = tmp_path / "t.csv"
    table.write_text(
        head + "0.jpg,a,2026-05-01T14:00:02,till,Ann\n1.jpg,a,2026-05-01T14:00:00,till,\n2.jpg,a,,till,\n3.jpg,,,,\n"
    )
    there = FeatureSet(features_of(images), 0, "abc", "", "")
    tracklets = of_feature_set(there, table)
    assert tracklets.names == ["till/a"] and tracklets.identities == ["Ann"] and tracklets.fingerprint == "abc"
    assert tracklets.end[0] - tracklets.start[0] == 2.0 and len(tracklets.features) == 3
    for lines, message in (
        ("0.jpg,a,1,till,Ann\n1.jpg,a,2,till,Bob\n", "shows several people: Ann, Bob"),
        ("0.jpg,a,noon,,\n", "write seconds"),
        ("0.jpg,a,1714572450000,,\n1.jpg,a,,,\n", "column 'time': 1714572450000 seconds are beyond the year 9999"),
        ("0.jpg,a,9999-12-31T23:59:59.999999,,\n", "beyond the year 9999"),
        ("0.jpg,a,1,,\n0.jpg,a,2,,\n", "names 0.jpg twice"),
        ("9.jpg,a,1,,\n", "names none of the 5 images"),
        ("0.jpg,,1,,\n", "no image has a track"),
    ):
        table.write_text(head + lines)
        with pytest.raises(ValueError, match=message):
            of_feature_set(there, table)
    # One track's name under two cameras: two tracklets
    table.write_text(head + "0.jpg,a,1,till,\n1.jpg,a,1,door,\n")
    assert of_feature_set(there, table).names == ["door/a", "till/a"]


def test_a_column_that_is_named_is_needed(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    images = [TrackedImage(str(tmp_path / "a.jpg"), "9", "c1")]
    table.write_text("path,person,at\na.jpg,7,1\n")
    assert described(images, table)[0].track == "9"
    assert described(images, table, "person", "at")[0][1:4] == ("7", "c1", 1.0)
    for columns, missing in ((("persn", "at"), "persn"), (("person", "tiem"), "tiem")):
        with pytest.raises(ValueError, match=f"no column {missing}"):
            described(images, table, *columns)


def test_a_folder_that_is_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for track in "78":
        (tmp_path / "a" / "c1" / track).mkdir(parents=True)
        Image.new("RGB", (8, 16)).save(tmp_path / "a" / "c1" / track / "1.jpg")
    (tmp_path / "b").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    images = images_of_folders(["a", "a/c1", tmp_path / "a", "b", "a/../a/c1/7"])
    assert [image.path for image in images] == ["a/c1/7/1.jpg", "a/c1/8/1.jpg"]


def test_frames_in_names_of_files(tmp_path: Path) -> None:
    for name in ("c1/7/0012_c1s2_000050_03.jpg", "c1/8/frame-75.jpg", "c1/9/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 16)).save(tmp_path / name)
    images = images_of_folders([tmp_path], fps=25.0)
    assert [(image.camera, image.track) for image in images] == [("c1", "7"), ("c1", "8"), ("c1", "9")]
    assert [image.time for image in images[:2]] == [2.0, 3.0] and math.isnan(images[2].time)
    with pytest.raises(ValueError, match="above 0"):
        images_of_folders([tmp_path], fps=-1.0)
    Image.new("RGB", (8, 16)).save(tmp_path / "c1/9/1714572450000.jpg")
    with pytest.raises(ValueError, match=r"1714572450000\.jpg', by 1 frames a second.*not milliseconds"):
        images_of_folders([tmp_path], fps=1.0)
    with pytest.raises(ValueError, match="no features of"):
        gathered(images, features_of(images[:2]), "", "")


def test_the_last_times_that_are_read_can_be_shown(tmp_path: Path) -> None:
    seconds = seconds_of(["253402300799", ""], "times")
    assert _seen(seconds[0], seconds[0]).startswith("9999-12-31 23:59:59") and np.isnan(seconds[1])
    assert np.isnan(seconds_of(["", ""], "times")).all()


def test_tracks_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    for shop in "AB":
        (tmp_path / shop / "cam1" / "0001").mkdir(parents=True)
        Image.new("RGB", (8, 16)).save(tmp_path / shop / "cam1" / "0001" / "x.jpg")
    images = images_of_folders([tmp_path])
    with pytest.raises(ValueError, match="A/cam1/0001' and '.*B/cam1/0001' would be one track, 'cam1/0001'"):
        gathered(images, features_of(images), "", "")
    (tmp_path / "t.csv").write_text("path,camera\nA/cam1/0001/x.jpg,A1\nB/cam1/0001/x.jpg,B1\n")
    renamed = described(images, tmp_path / "t.csv")
    assert gathered(renamed, features_of(images), "", "").names == ["A1/0001", "B1/0001"]
    (tmp_path / "t.csv").write_text("path,track\nA/cam1/0001/x.jpg,7\nB/cam1/0001/x.jpg,7\n")  # a table may say so
    assert gathered(described(images, tmp_path / "t.csv"), features_of(images), "", "").names == ["cam1/7"]
    (tmp_path / "C").symlink_to(tmp_path / "A")
    again = images_of_folders([tmp_path / "A", tmp_path / "C"])
    assert len(gathered(again, features_of(again), "", "")) == 1
    odd = [TrackedImage("a.jpg", "b/c", "a"), TrackedImage("b.jpg", "c", "a/b")]
    with pytest.raises(ValueError, match="are called 'a/b/c'"):
        gathered(odd, features_of(odd), "", "")


def test_two_images_of_one_frame_are_refused(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for name in "ab":
        frames_of(tmp_path / "frames" / name)
    (tmp_path / "a.txt").write_text("1,7,0,0,8,16\n")
    with pytest.raises(ValueError, match="a/img_0001.png' and '.*b/img_0001.png' are both frame 1"):
        images_of_mot(tmp_path / "a.txt", tmp_path / "crops", 5.0, tmp_path / "frames")
    (tmp_path / "frames" / "b" / "img_0001.png").unlink()  # the second frame is not needed
    assert len(images_of_mot(tmp_path / "a.txt", tmp_path / "crops", 5.0, tmp_path / "frames")) == 1
