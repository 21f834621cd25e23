"""Tracklets from what trackers and users have: folders of crops, a table of tracks and times, a MOT text file."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data.names import names_of
from ..data.tables import read_table
from ..deployment.crops import as_image, cut
from ..evaluation import Features
from ..files import write_bytes, write_json
from ..retrieval import FeatureSet, list_images
from ..retrieval.columns import kind_of, typed
from ..words import count
from .tracklets import Tracklets

logger = logging.getLogger(__name__)

#: Columns of a table, unless others are named.
TRACK, TIME = "track", "time"

# The last number of a file's name; in Market-1501's names the one before it
_FRAME = re.compile(r"(\d+)\D*$")
_MARKET = re.compile(r"_c\d+s\d+_(\d+)_\d+$")
_NO_FOLDER = re.compile(r"[/\\]|^\.+$")
_SOURCE = "source.json"  # beside crops: what they were cut out of
_LATEST = 253_402_300_799.0  # seconds, the last of the year 9999
_MOT_COLUMNS = 6  # frame, track, left, top, width, height; what follows is not needed


class TrackedImage(NamedTuple):
    """One image of a tracklet.

    Attributes:
        path: of the file.
        track: what the tracker calls it, unique under its camera.
        camera: "" where unknown.
        time: seconds; NaN where unknown.
        identity: whom it shows, where that is known beforehand; "" otherwise.
        framed: the time is that of a frame's number, so two images of one time are of one frame.
    """

    path: str
    track: str
    camera: str = ""
    time: float = math.nan
    identity: str = ""
    framed: bool = False


def images_of_folders(places: Sequence[str | os.PathLike], fps: float = 0.0) -> list[TrackedImage]:
    """List the images of tracks: every folder that holds images is one, and the folder above it is its camera.

    Args:
        places: folders with tracks below them; one that holds images itself is a track. One that is named twice, or
            lies in another one, is read once.
        fps: frames a second, where the last number in a file's name is the number of its frame; 0 where it is not.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: fps is negative, or a frame's time beyond the year 9999.
    """
    images = []
    real: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for path in list_images(*places):
        folder, name = os.path.split(os.path.abspath(path))
        place = real.get(folder) or real.setdefault(folder, os.path.realpath(folder)), name
        if place in seen:
            continue
        seen.add(place)
        camera = os.path.basename(os.path.dirname(folder))
        seconds = _time_of_frame(name, fps)
        framed = not math.isnan(seconds)
        images.append(TrackedImage(path, os.path.basename(folder), camera, seconds, framed=framed))
    return images


def _time_of_frame(name: str, fps: float) -> float:
    if fps < 0 or not math.isfinite(fps):
        raise ValueError(f"frames a second are a number above 0, got {fps}")
    frame = _frame_of(name)
    seconds = frame / fps if frame is not None and fps else math.nan
    _check_seconds(seconds, f"the number of the frame '{name}', by {fps:g} frames a second")
    return seconds


def _check_seconds(latest: float, what: str) -> None:
    if latest > _LATEST:
        raise ValueError(f"{what}: {latest:.0f} seconds are beyond the year 9999; seconds are needed, not milliseconds")


def _frame_of(name: str) -> int | None:
    stem = os.path.splitext(os.path.basename(name))[0]
    found = _MARKET.search(stem) or _FRAME.search(stem)
    return int(found.group(1)) if found else None


def described(
    images: Sequence[TrackedImage],
    table: str | os.PathLike,
    track: str = TRACK,
    time: str = TIME,
) -> list[TrackedImage]:
    """Take what a table says of images in place of what is known of them.

    Args:
        images: as they are known.
        table: with the column path, which starts at its folder, and others that it has: `track`, `time`, camera,
            identity.
        track: name of the column of tracks; one that is named otherwise than by default must be there.
        time: name of the column of times: seconds, or dates and times of ISO 8601; likewise.

    Returns:
        The images that the table names; where a cell is empty, what was known stays.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is none, lacks a column that is named, names none of the images, or times are texts or beyond
            the year 9999.
    """
    needed = list(dict.fromkeys(("path", *{track, time}.difference((TRACK, TIME)))))
    optional = [name for name in dict.fromkeys((track, time, "camera", "identity")) if name not in needed]
    rows = [row for _, row in read_table(table, needed, optional)]
    folder = os.path.dirname(os.fspath(table))
    row_of: dict[str, int] = {}
    for place, row in enumerate(rows):
        if row_of.setdefault(os.path.realpath(os.path.join(folder, row["path"])), place) != place:
            raise ValueError(f"'{table}' names {row['path']} twice")
    seconds = seconds_of([row[time] for row in rows], f"'{table}', column '{time}'")
    found = []
    for image in images:
        at = row_of.get(os.path.realpath(image.path))
        if at is None:
            continue
        row = rows[at]
        found.append(
            TrackedImage(
                image.path,
                row[track] or image.track,
                row["camera"] or image.camera,
                image.time if math.isnan(seconds[at]) else float(seconds[at]),
                row["identity"] or image.identity,
                image.framed and math.isnan(seconds[at]),
            )
        )
    if not found:
        raise ValueError(f"'{table}' names none of the {len(images)} images: its paths start at its folder")
    if len(found) < len(images):
        logger.info("%s left out: %s does not name them", count(len(images) - len(found), "image"), table)
    return found


def seconds_of(texts: Sequence[str], what: str) -> np.ndarray:
    """Read times as seconds, dates as those since 1970 (UTC): (N,) float64, NaN where unknown.

    Args:
        texts: N numbers or times of ISO 8601, "" where unknown.
        what: they are, for the message.

    Raises:
        ValueError: they are neither, of both kinds, or beyond the year 9999, as milliseconds since 1970 are.
    """
    try:
        column = typed(texts)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    if kind_of(column) == "text" and any(texts):
        raise ValueError(f"{what} holds texts: write seconds, or times as 2026-05-01T14:30:00")
    if kind_of(column) == "text":
        return np.full(len(texts), np.nan)
    if kind_of(column) == "time":
        column = np.where(np.isnat(column), np.nan, column.astype(np.int64) / 1e6)
    _check_seconds(np.fmax.reduce(column, initial=0.0), what)
    return column


def images_of_features(features: Features) -> list[TrackedImage]:
    """List the images of features, with camera and identity by name; their tracks are to be described by a table."""
    identities, cameras = names_of(features.pids, features.camids, features.names)
    return [
        TrackedImage(path, "", camera, math.nan, identity)
        for path, camera, identity in zip(features.paths, cameras, identities)
    ]


def images_of_mot(
    file: str | os.PathLike,
    crops: str | os.PathLike,
    fps: float,
    frames: str | os.PathLike = "",
    camera: str = "",
    start: float = 0.0,
    every: int = 1,
) -> list[TrackedImage]:
    """Cut the boxes of a tracker out of frames: a MOT text file has frame, track, left, top, width, height a line.

    Args:
        file: the text, separated by commas or blanks, in any order; frames count from 1.
        crops: folder for the crops, `camera/track/frame.jpg`, the frame in eight digits; those that were cut for the
            same file and frames, or for the file when it had fewer lines, are not cut again. Without `frames` all of
            them are there.
        fps: frames a second.
        frames: a video, or a folder of images; the last number in an image's name is the number of its frame.
        camera: by default the file's name without its ending.
        start: seconds at which frame 1 was taken.
        every: take one in so many frames of a track.

    Raises:
        FileNotFoundError: there is no such file or folder, or a frame or a crop is missing.
        OSError: a frame or the video cannot be read.
        ValueError: a line is none of a MOT file, a track has two boxes in one frame, fps is not positive, a time is
            beyond the year 9999, no box lies in its frame, two images are of one frame, or the folder holds crops of
            something else.
    """
    if not fps > 0 or not math.isfinite(fps):
        raise ValueError(f"a MOT file counts frames: say how many a second there are, got {fps:g}")
    camera = camera or os.path.splitext(os.path.basename(file))[0]
    if _NO_FOLDER.search(camera):
        raise ValueError(f"a camera's name is that of a folder of crops, and '{camera}' is none")
    boxes = _thinned(sorted(_mot_lines(file)), every)
    _check_seconds(start + (boxes[-1][0] - 1) / fps, f"start and frames of '{file}'")
    place = os.path.join(crops, camera)
    images = [
        TrackedImage(
            os.path.join(place, track, f"{frame:08d}.jpg"), track, camera, start + (frame - 1) / fps, framed=True
        )
        for frame, track, _ in boxes
    ]
    missing = [number for number, image in enumerate(images) if not os.path.exists(image.path)]
    if not frames:
        if missing:
            raise FileNotFoundError(
                f"there is no crop '{images[missing[0]].path}' ({count(len(missing), 'such box', 'such boxes')} in "
                f"'{file}'): name the frames that boxes are to be cut out of, or the folder that holds the crops"
            )
        return images
    _check_crops(place, file, frames)
    outside = _cut_boxes(frames, [(boxes[number], images[number].path) for number in missing])
    if outside:
        logger.warning("%s of '%s' left out: outside of the frame", count(len(outside), "box", "boxes"), file)
    images = [image for image in images if image.path not in outside]
    if not images:
        raise ValueError(f"'{file}' has no box that lies in its frame")
    return images


_Box = tuple[int, str, tuple[float, ...]]


def _mot_lines(file: str | os.PathLike) -> list[_Box]:
    """(frame, track, (left, top, width, height)) of each line."""
    found: list[_Box] = []
    line_of: dict[tuple[int, str], int] = {}
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            cells = [cell.strip() for cell in (line.split(",") if "," in line else line.split())]
            try:
                frame, track = int(float(cells[0])), cells[1].removesuffix(".0")
                box = tuple(float(cell) for cell in cells[2:_MOT_COLUMNS])
                if len(box) < 4 or not track or not all(map(math.isfinite, box)) or _NO_FOLDER.search(track):
                    raise ValueError
            except (ValueError, IndexError, OverflowError) as error:
                raise ValueError(
                    f"'{file}', line {number}: frame, track, left, top, width, height are needed, separated by commas"
                ) from error
            before = line_of.setdefault((frame, track), number)
            if before != number:
                raise ValueError(f"'{file}', lines {before} and {number}: track {track} has two boxes in frame {frame}")
            found.append((frame, track, box))
    if not found:
        raise ValueError(f"'{file}' holds no box")
    return found


def _thinned(boxes: Sequence[_Box], every: int) -> list[_Box]:
    """One in so many boxes of each track."""
    seen: dict[str, int] = {}
    kept = []
    for box in boxes:
        seen[box[1]] = seen.get(box[1], -1) + 1
        if seen[box[1]] % every == 0:
            kept.append(box)
    return kept


def _check_crops(place: str, file: str | os.PathLike, frames: str | os.PathLike) -> None:
    """Refuse a folder with crops of another file or other frames: the same track and frame may be another box there."""
    path = os.path.join(place, _SOURCE)
    # Listed first: another process may begin at any time, and it says what the crops are of before it cuts one
    empty = not os.path.isdir(place) or not os.listdir(place)
    try:
        with open(path, encoding="utf-8") as there:
            said = json.load(there)
        earlier = said.pop("sha256")
    except FileNotFoundError:
        said, earlier = None, ""
    except (ValueError, AttributeError, KeyError):
        said, earlier = None, "damaged"
    digest, goes_on = _digest(file, earlier)
    source = {"frames": os.path.abspath(frames)}
    if not (said == source and goes_on) and not (empty and not earlier):
        raise ValueError(
            f"'{place}' holds crops of something else than '{file}' and '{frames}': name another folder for the crops, "
            "or remove this one"
        )
    write_json(path, {"sha256": digest, **source})


def _digest(file: str | os.PathLike, earlier: str) -> tuple[str, bool]:
    """SHA-256 of a file, and whether `earlier` is that, or that of its first lines: a tracker appends to it."""
    digest, goes_on = hashlib.sha256(), False
    with open(file, "rb") as lines:
        for line in lines:
            text = line.rstrip(b"\r\n")
            for part in (text, line[len(text) :]):  # the last line may have had no end
                digest.update(part)
                goes_on = goes_on or digest.hexdigest() == earlier
    return digest.hexdigest(), goes_on


def _cut_boxes(frames: str | os.PathLike, wanted: Sequence[tuple[_Box, str]]) -> set[str]:
    """Write the crops that are wanted, (box, path) in the order of frames; those outside of their frames come back."""
    outside = set()
    numbers = sorted({box[0] for box, _ in wanted})
    pictures = _pictures(frames, numbers)
    at, picture = 0, None
    for (frame, _, (left, top, width, height)), path in tqdm(
        wanted, desc="crops", unit="box", leave=False, disable=None
    ):
        if frame != at:
            at, picture = frame, next(pictures)
        assert picture is not None
        try:
            (crop,) = cut(picture, [(left, top, left + width, top + height)])
        except ValueError:
            outside.add(path)
            continue
        content = io.BytesIO()
        crop.save(content, "JPEG", quality=95)
        write_bytes(path, content.getvalue())
    return outside


def _pictures(frames: str | os.PathLike, numbers: Sequence[int]) -> Iterator[Image.Image]:
    """Frames by ascending number, of a folder or a video; whether a folder has them is said before any is read."""
    if os.path.isfile(frames):
        return _of_video(frames, numbers)
    found: dict[int | None, str] = {}
    wanted = set(numbers)
    for path in list_images(frames):
        number = _frame_of(path)
        if found.setdefault(number, path) != path and number in wanted:
            raise ValueError(f"'{found[number]}' and '{path}' are both frame {number}: name the folder of one camera")
    missing = [number for number in numbers if number not in found]
    if missing:
        raise FileNotFoundError(f"'{frames}' has no frame {missing[0]} ({len(missing)} such frames)")
    return (as_image(found[number]) for number in numbers)


def _of_video(file: str | os.PathLike, numbers: Sequence[int]) -> Iterator[Image.Image]:
    video, at = cv2.VideoCapture(os.fspath(file)), 0
    try:
        if not video.isOpened():
            raise OSError(f"'{file}' cannot be read as a video, and is no folder of frames")
        for number in numbers:
            there = True
            while there and at < number:  # seeking is not exact in every format
                there, at = video.grab(), at + 1
            there, picture = video.retrieve() if there and number > 0 else (False, None)
            if not there:
                raise FileNotFoundError(f"the video '{file}' has no frame {number}")
            yield as_image(picture, bgr=True)
    finally:
        video.release()


def check_tracks(images: Sequence[TrackedImage]) -> None:
    """Refuse images that would be one tracklet and are of two tracks.

    Args:
        images: those without a track do not count.

    Raises:
        ValueError: two folders, camera/track, are called the same, or two tracks' names with their cameras'.
    """
    folders: dict[str, str] = {}
    tracks: dict[str, tuple[str, str]] = {}
    for image in images:
        if not image.track:
            continue
        name, track = _name_of(image), (image.camera, image.track)
        if tracks.setdefault(name, track) != track:
            raise ValueError(f"two tracks, {tracks[name]} and {track} by camera and track, are called '{name}'")
        folder = os.path.dirname(os.path.abspath(image.path))
        if not folder.endswith(os.path.join(os.sep, *track)):
            continue  # the name is a table's, whose tracks may lie in several folders
        other = folders.setdefault(name, folder)
        if other != folder and os.path.realpath(other) != os.path.realpath(folder):
            raise ValueError(
                f"'{other}' and '{folder}' would be one track, '{name}': rename a folder, or name camera and track of "
                "each image by a table"
            )


def _name_of(image: TrackedImage) -> str:
    return f"{image.camera}/{image.track}" if image.camera else image.track


def gathered(images: Sequence[TrackedImage], features: Features, fingerprint: str, config: str) -> Tracklets:
    """Put images into tracklets: those of one track and one camera, in the order of time.

    Args:
        images: those without a track are left out.
        features: of all of them, found by path.
        fingerprint: of the model.
        config: of the model.

    Raises:
        ValueError: as `check_tracks`; no image has a track, one has no features, or a track shows several people.
    """
    check_tracks(images)
    row_of = {path: row for row, path in enumerate(features.paths)}
    groups: dict[str, list[TrackedImage]] = {}
    for image in images:
        if image.track:
            groups.setdefault(_name_of(image), []).append(image)
    left_out = len(images) - sum(map(len, groups.values()))
    if not groups:
        raise ValueError("no image has a track: name them by folders, or by a table with the column track")
    if left_out:
        logger.info("%s left out: without a track", count(left_out, "image"))
    names = sorted(groups)
    rows: list[int] = []
    of: list[int] = []
    identities, start, end, framed = [], [], [], []
    for place, name in enumerate(names):
        group = sorted(groups[name], key=lambda image: (image.time if image.time == image.time else 0.0, image.path))
        missing = [image.path for image in group if image.path not in row_of]
        if missing:
            raise ValueError(f"there are no features of '{missing[0]}' ({len(missing)} such images of '{name}')")
        rows += [row_of[image.path] for image in group]
        of += [place] * len(group)
        people = {image.identity for image in group} - {""}
        if len(people) > 1:
            raise ValueError(f"the track '{name}' shows several people: {', '.join(sorted(people)[:5])}")
        identities.append(next(iter(people), ""))
        times = [image.time for image in group if not math.isnan(image.time)]
        start.append(min(times, default=math.nan))
        end.append(max(times, default=math.nan))
        framed.append(all(image.framed for image in group if not math.isnan(image.time)))
    return Tracklets(
        features.features[rows],
        np.array(of, np.int64),
        [features.paths[row] for row in rows],
        names,
        [groups[name][0].camera for name in names],
        np.array(start),
        np.array(end),
        identities,
        fingerprint,
        config,
        np.array(framed),
    )


def of_feature_set(there: FeatureSet, table: str | os.PathLike, track: str = TRACK, time: str = TIME) -> Tracklets:
    """Put the images of a feature set into tracklets, by a table.

    Args:
        there: queries and gallery alike.
        table: as in `described`.
        track: as in `described`.
        time: as in `described`.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: as `described` and `gathered`.
    """
    images = described(images_of_features(there.features), table, track, time)
    return gathered(images, there.features, there.fingerprint, there.config)
