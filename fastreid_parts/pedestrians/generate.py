"""Write a synthetic dataset to disk: every image on its own random numbers, interrupted and continued at will."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from .folder import complete, write_file
from .identity import Identity, sample_identities
from .nuisances import Nuisances
from .plan import FOLDERS, SCALES, TEST_SPLIT, TRAIN_SPLIT, Shot, plan
from .render import Studio, sample_view

VERSION = 1  # of the drawings: raise it with every change that shows in the images


def check_request(scale: str, seed: int, size: tuple[int, int] = (128, 64)) -> None:
    """Refuse what no dataset can be made from.

    Args:
        scale: as in `generate`.
        seed: as in `generate`.
        size: as in `generate`.

    Raises:
        ValueError: the scale is unknown, the seed is no whole number from 0, or the size no (H, W) from 32 to 1024.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale '{scale}' of SyntheticReID; choose one of: {', '.join(SCALES)}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"the seed of SyntheticReID is {seed!r}; give a whole number from 0 on")
    if len(size) != 2 or not all(isinstance(n, (int, np.integer)) and 32 <= n <= 1024 for n in size):
        raise ValueError(f"the image size is {size!r}; give (height, width), each from 32 to 1024 pixels")


def dataset_folder(root: str | os.PathLike, scale: str, seed: int, nuisances: Nuisances | None = None) -> Path:
    """Name the folder of a dataset; strengths of 1 are not in the name.

    Args:
        root: the folder for datasets.
        scale: of the dataset.
        seed: of the dataset.
        nuisances: strengths; all of them 1 by default.
    """
    strengths = {} if nuisances is None else nuisances.as_dict()
    changed = [f"-{name}{value:g}" for name, value in strengths.items() if value != 1]
    return Path(root) / f"SyntheticReID-{scale}-seed{seed}{''.join(changed)}"


def generate(
    root: str | os.PathLike,
    scale: str = "demo",
    seed: int = 0,
    nuisances: Nuisances | None = None,
    size: tuple[int, int] = (128, 64),
    progress: bool = True,
) -> Path:
    """Draw a dataset, or what is missing of it, in Market-1501's layout.

    The same arguments give the same bytes (with the same versions of NumPy and OpenCV), in whatever order the images
    are drawn and however often the run was interrupted. Images appear under their name only when they are whole, and
    `manifest.json` says with which parameters the folder was made and, at last, that it is complete.

    Args:
        root: the folder for datasets; this one gets a folder of its own in it.
        scale: "demo", "small" or "market".
        seed: decides people, places and cameras.
        nuisances: strengths; all of them 1 by default.
        size: (H, W) of the images in pixels.
        progress: show a progress bar while images are drawn.

    Returns:
        The dataset's folder, with bounding_box_train, query and bounding_box_test in it.

    Raises:
        ValueError: an argument is out of range, or the folder was made with other parameters or by something else.
    """
    check_request(scale, seed, size)
    nuisances = Nuisances() if nuisances is None else nuisances
    folder = dataset_folder(root, scale, seed, nuisances)
    parameters: dict[str, Any] = {
        "version": VERSION,
        "scale": scale,
        "seed": int(seed),
        "size": [int(n) for n in size],
        "nuisances": nuisances.as_dict(),
    }
    shots = plan(SCALES[scale], seed)

    def draw(missing: Sequence[Shot]) -> None:
        _draw(folder, missing, scale, seed, nuisances, size, progress)

    complete(folder, parameters, FOLDERS, lambda: _missing(folder, shots), draw, len(shots))
    return folder


def _missing(folder: Path, shots: list[Shot]) -> list[Shot]:
    present = {name: set(os.listdir(folder / name)) if (folder / name).is_dir() else set() for name in FOLDERS}
    return [shot for shot in shots if shot.name not in present[shot.folder]]


def draw_shot(studio: Studio, shot: Shot, person: Identity | None, seed: int) -> np.ndarray:
    """Draw one image of the plan.

    Args:
        studio: of this dataset.
        shot: which image.
        person: who `shot.person` is, None for a distractor or junk.
        seed: of the dataset; with what `shot` says it decides everything about the image.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    split, who = (2 - shot.pid, shot.number) if shot.person is None else shot.person
    walk = sample_view(
        np.random.default_rng([seed, 8, split, who, shot.camera, shot.track]), studio.nuisances.viewpoint
    )
    rng = np.random.default_rng([seed, 9, split, who, shot.camera, shot.number])
    if person is None:
        return studio.render_distractor(shot.camera, walk, rng)
    step = 0.02 * shot.number  # people keep walking while they are filmed
    view = walk._replace(
        across=(walk.across + step * math.sin(walk.yaw)) % 1,
        depth=min(1.0, max(0.0, walk.depth + step * math.cos(walk.yaw))),
        phase=walk.phase + 1.9 * shot.number,
    )
    return studio.render(person, shot.camera, view, rng)


def _draw(
    folder: Path,
    shots: Sequence[Shot],
    scale: str,
    seed: int,
    nuisances: Nuisances,
    size: tuple[int, int],
    progress: bool,
) -> None:
    studio = Studio(seed, SCALES[scale].cameras, nuisances, size)
    people = {
        TRAIN_SPLIT: sample_identities(seed, TRAIN_SPLIT, SCALES[scale].train_ids),
        TEST_SPLIT: sample_identities(seed, TEST_SPLIT, SCALES[scale].test_ids),
    }
    for shot in tqdm(shots, desc=f"drawing SyntheticReID ({scale})", unit="image", disable=not progress):
        person = None if shot.person is None else people[shot.person[0]][shot.person[1]]
        image = draw_shot(studio, shot, person, seed)
        quality = [cv2.IMWRITE_JPEG_QUALITY, studio.cameras[shot.camera - 1].quality]
        write_file(folder / shot.folder / shot.name, cv2.imencode(".jpg", image, quality)[1].tobytes())
