"""Write tracks of synthetic people to disk: consecutive frames of a person under a camera, with times."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from .folder import complete, write_file
from .generate import VERSION, check_request, dataset_folder
from .identity import Identity, sample_identities
from .nuisances import Nuisances
from .plan import SCALES, TEST_SPLIT
from .render import Studio
from .walks import CAMERAS, FPS, OVERLAPPING, Track, least_seconds, moments, plan_walks

TABLE, TRAVEL_TIMES = "tracks.csv", "travel_times.csv"
_FIRST_PART = 2  # split of people, below which are those of the images and passers-by


def generate_tracks(
    root: str | os.PathLike,
    scale: str = "demo",
    seed: int = 0,
    nuisances: Nuisances | None = None,
    size: tuple[int, int] = (128, 64),
    part: int = 0,
    progress: bool = True,
) -> Path:
    """Draw tracks, or what is missing of them: the people of a dataset walk past its cameras.

    The same arguments give the same bytes, as of `generate`. In the folder are the images, `camera/track/frame.jpg`;
    `tracks.csv` with their identity, camera, track, time in seconds and frame; for each camera the boxes as a MOT text
    file, `c1.txt` and so on; and `travel_times.csv`, how many seconds the way between two cameras takes at least.

    Args:
        root: the folder for datasets; this one gets a folder of its own in it.
        scale: "demo", "small" or "market": as many people as its test set has.
        seed: decides people, places and cameras, which are those of `generate`.
        nuisances: strengths; all of them 1 by default.
        size: (H, W) of the images in pixels.
        part: 0: the test set's people; another: other people under the same cameras, such as for a threshold.
        progress: show a progress bar while images are drawn.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of range, or the folder was made with other parameters or by something else.
    """
    check_request(scale, seed, size)
    if isinstance(part, bool) or not isinstance(part, int) or part < 0:
        raise ValueError(f"the part of SyntheticReID's tracks is {part!r}; give a whole number from 0 on")
    nuisances = Nuisances() if nuisances is None else nuisances
    usual = dataset_folder(root, scale, seed, nuisances)
    folder = usual.with_name(f"{usual.name}-tracks{part or ''}")
    parameters: dict[str, Any] = {
        "version": VERSION,
        "scale": scale,
        "seed": int(seed),
        "part": part,
        "size": [int(n) for n in size],
        "nuisances": nuisances.as_dict(),
        "fps": FPS,
        "overlapping": [f"c{camera}" for camera in OVERLAPPING],
    }
    people = track_people(scale, seed, part)
    tracks = plan_walks(seed, part, len(people))
    tables = [TABLE, TRAVEL_TIMES, *(f"c{camera}.txt" for camera in range(1, CAMERAS + 1))]
    places = [track.folder for track in tracks]

    def missing() -> list[str]:
        there = {str(Path(name).parent) for name in tables} | set(places)
        present = {
            f"{place}/{name}" if place != "." else name
            for place in there
            if (folder / place).is_dir()
            for name in os.listdir(folder / place)
        }
        return [name for name in (*tables, *(name for track in tracks for name in track.names)) if name not in present]

    def draw(names: Sequence[str]) -> None:
        studio = Studio(seed, CAMERAS, nuisances, size)
        _draw(folder, tracks, people, studio, seed, part, set(names), progress)

    complete(folder, parameters, places, missing, draw, sum(track.frames for track in tracks))
    return folder


def track_people(scale: str, seed: int, part: int) -> dict[str, Identity]:
    """Give the people of a set of tracks by what its table calls them.

    Args:
        scale: as in `generate_tracks`.
        seed: as in `generate_tracks`.
        part: as in `generate_tracks`.
    """
    sizes = SCALES[scale]
    people = sample_identities(seed, _FIRST_PART + part if part else TEST_SPLIT, sizes.test_ids)
    if part:
        return {f"{part}-{number:04d}": person for number, person in enumerate(people, start=1)}
    return {f"{number:04d}": person for number, person in enumerate(people, start=1 + sizes.train_ids)}


def _draw(
    folder: Path,
    tracks: Sequence[Track],
    people: dict[str, Identity],
    studio: Studio,
    seed: int,
    part: int,
    missing: set[str],
    progress: bool,
) -> None:
    """Write the images that are missing, and all tables."""
    names = list(people)
    lines: list[Sequence[object]] = [("path", "identity", "camera", "track", "time", "frame")]
    boxes: dict[int, list[tuple[int, int, str]]] = {camera: [] for camera in range(1, CAMERAS + 1)}
    total = sum(name.endswith(".jpg") for name in missing)
    with tqdm(total=total, desc="drawing tracks", unit="image", disable=not progress) as bar:
        for track in tracks:
            seen = moments(track, seed, part, studio.scene(track.camera), studio.nuisances)
            name = names[track.person]
            quality = [cv2.IMWRITE_JPEG_QUALITY, studio.cameras[track.camera - 1].quality]
            for frame, (path, moment) in enumerate(zip(track.names, seen), start=track.start):
                time = f"{(frame - 1) / FPS:.1f}"
                lines.append((path, name, f"c{track.camera}", track.number, time, frame))
                box = ",".join(f"{number:.2f}" for number in studio.box(track.camera, moment))
                boxes[track.camera].append((frame, track.number, box))
                if path in missing:
                    image = studio.render_moment(people[name], track.camera, moment)
                    write_file(folder / path, cv2.imencode(".jpg", image, quality)[1].tobytes())
                    bar.update()
    _write_table(folder / TABLE, lines)
    pairs = [(one, other) for other in range(1, CAMERAS + 1) for one in range(1, other)]
    ways = [(f"c{one}", f"c{other}", least_seconds(one, other)) for one, other in pairs if (one, other) != OVERLAPPING]
    _write_table(folder / TRAVEL_TIMES, [("camera_a", "camera_b", "least_seconds"), *ways])
    for camera, found in boxes.items():
        text = "".join(f"{frame},{number},{box},1,-1,-1,-1\n" for frame, number, box in sorted(found))
        write_file(folder / f"c{camera}.txt", text.encode())


def _write_table(path: Path, lines: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_file(path, text.getvalue().encode())
