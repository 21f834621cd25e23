"""Sheets to be looked at by a person: the same people through all cameras, or in consecutive frames."""

from __future__ import annotations

import cv2
import numpy as np

from .identity import sample_identities
from .nuisances import Nuisances
from .plan import TEST_SPLIT
from .render import Studio, sample_view
from .walks import CAMERAS, moments, plan_walks

_GAP, _MARGIN, _TITLE = 6, 44, 40
_BACK, _INK = 255, (40, 40, 40)


def contact_sheet(
    seed: int = 0,
    identities: int = 8,
    views: int = 2,
    cameras: int = 6,
    nuisances: Nuisances | None = None,
    size: tuple[int, int] = (128, 64),
    zoom: int = 1,
) -> np.ndarray:
    """Draw test identities (rows) through all cameras (columns, `views` images each).

    Neighbouring rows are look-alikes, in fours; what tells them apart is in the details.

    Args:
        seed: of the dataset.
        identities: how many rows.
        views: images of each identity in each camera, each with a heading of its own.
        cameras: how many cameras.
        nuisances: strengths; all of them 1 by default.
        size: (H, W) of one image in pixels.
        zoom: whole factor by which images are enlarged.

    Returns:
        The sheet, uint8 BGR (rows, columns, 3), with the cameras named at the top and identities at the left.

    Raises:
        ValueError: a count or the zoom is below 1.
    """
    if min(identities, views, cameras, zoom) < 1:
        raise ValueError("identities, views, cameras and zoom of a contact sheet start at 1")
    nuisances = Nuisances() if nuisances is None else nuisances
    studio = Studio(seed, cameras, nuisances, size)
    height, width = size[0] * zoom, size[1] * zoom
    block = views * width + _GAP
    sheet = np.full((_TITLE + identities * (height + _GAP), _MARGIN + cameras * block, 3), _BACK, np.uint8)
    for camera in range(1, cameras + 1):
        _label(sheet, f"camera {camera}", _MARGIN + (camera - 1) * block, _TITLE - 14)
    for row, person in enumerate(sample_identities(seed, TEST_SPLIT, identities)):
        top = _TITLE + row * (height + _GAP)
        _label(sheet, str(row + 1), 10, top + height // 2)
        for camera in range(1, cameras + 1):
            for index in range(views):
                rng = np.random.default_rng([seed, 10, row, camera, index])
                view = sample_view(rng, nuisances.viewpoint)
                image = studio.render(person, camera, view, rng)
                large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
                left = _MARGIN + (camera - 1) * block + index * width
                sheet[top : top + height, left : left + width] = large
    return sheet


def track_sheet(
    seed: int = 0,
    identities: int = 8,
    frames: int = 12,
    nuisances: Nuisances | None = None,
    size: tuple[int, int] = (128, 64),
) -> np.ndarray:
    """Draw the first two tracks of test identities, a row each, frame after frame.

    Args:
        seed: of the dataset.
        identities: how many.
        frames: of each track, at most.
        nuisances: strengths; all of them 1 by default.
        size: (H, W) of one image in pixels.

    Returns:
        As `contact_sheet`: identity and camera stand at the left.

    Raises:
        ValueError: a count is below 1.
    """
    if min(identities, frames) < 1:
        raise ValueError("identities and frames of a sheet of tracks start at 1")
    studio = Studio(seed, CAMERAS, nuisances, size)
    people = sample_identities(seed, TEST_SPLIT, identities)
    tracks = sorted(plan_walks(seed, 0, identities), key=lambda track: (track.person, track.start))
    rows = [track for person in range(identities) for track in [t for t in tracks if t.person == person][:2]]
    margin = 2 * _MARGIN
    sheet = np.full((len(rows) * (size[0] + _GAP), margin + frames * size[1], 3), _BACK, np.uint8)
    for row, track in enumerate(rows):
        top = row * (size[0] + _GAP)
        _label(sheet, f"{track.person + 1}: c{track.camera}", 10, top + size[0] // 2)
        seen = moments(track, seed, 0, studio.scene(track.camera), studio.nuisances)
        for index, moment in enumerate(seen[:frames]):
            left = margin + index * size[1]
            image = studio.render_moment(people[track.person], track.camera, moment)
            sheet[top : top + size[0], left : left + size[1]] = image
    return sheet


def _label(sheet: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _INK, 1, cv2.LINE_AA)
