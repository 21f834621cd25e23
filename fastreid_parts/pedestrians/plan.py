"""How large a dataset is, and which image shows whom, where: settled before anything is drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FOLDERS = TRAIN, QUERY, GALLERY = ("bounding_box_train", "query", "bounding_box_test")
TRAIN_SPLIT, TEST_SPLIT = 0, 1  # numbers of the splits for `sample_identities`
_TRACK = 4  # from so many images on, a person passes a camera twice
_FRAMES = 25  # between two images of a track


class Scale(NamedTuple):
    """Size of a dataset: identities and images of each split, and the cameras.

    `gallery` counts the images of test identities, `distractors` the false detections (identity 0) and `junk` the boxes
    that evaluation ignores (identity -1), both in the gallery's folder.
    """

    train_ids: int
    train_images: int
    test_ids: int
    queries: int
    gallery: int
    distractors: int
    junk: int
    cameras: int = 6


SCALES: dict[str, Scale] = {
    "demo": Scale(100, 1600, 40, 120, 480, 60, 20),
    "small": Scale(200, 3400, 120, 480, 1900, 300, 120),
    "market": Scale(751, 12936, 750, 3368, 13115, 2798, 3819),
}


class Shot(NamedTuple):
    """One image of the plan.

    Attributes:
        folder: one of `FOLDERS`.
        pid: identity as in the file name; 0 is a distractor and -1 junk.
        camera: from 1.
        track: how often the person passed this camera before, plus 1.
        frame: number of the video frame.
        number: of the image among those of this person in this camera, or among the distractors or the junk.
        person: (split, index) for `sample_identities`; None where no identity is shown.
    """

    folder: str
    pid: int
    camera: int
    track: int
    frame: int
    number: int
    person: tuple[int, int] | None

    @property
    def name(self) -> str:
        """Give the file name, as Market-1501 has it: identity, camera and sequence, frame, number of the box."""
        pid = "-1" if self.pid < 0 else f"{self.pid:04d}"
        return f"{pid}_c{self.camera}s{self.track}_{self.frame:06d}_{self.number % 100:02d}.jpg"


def plan(scale: Scale, seed: int) -> list[Shot]:
    """Lay out a dataset.

    Args:
        scale: its size.
        seed: decides who passes which cameras, and how often.

    Returns:
        All shots, those of one person next to each other. Training identities are numbered from 1, test identities
        from there on. Every query has images of its person from another camera in the gallery.

    Raises:
        ValueError: the numbers of the scale do not fit together.
    """
    _check(scale)
    rng = np.random.default_rng([seed, 7])
    clock = rng.integers(100, 2000, size=scale.cameras).tolist()  # the next frame of every camera
    visits = min(round(4.3 * scale.train_ids), scale.train_images, scale.cameras * scale.train_ids)
    visits = max(visits, min(2, scale.cameras) * scale.train_ids)
    shots: list[Shot] = []
    for person, camera, count in _passages(rng, scale.train_ids, scale.cameras, visits, scale.train_images, 1):
        shots += _tracks(TRAIN, 1 + person, camera, count, (TRAIN_SPLIT, person), clock)
    total = scale.queries + scale.gallery
    for person, camera, count in _passages(rng, scale.test_ids, scale.cameras, scale.queries, total, 2):
        pid = 1 + scale.train_ids + person
        passage = _tracks(GALLERY, pid, camera, count, (TEST_SPLIT, person), clock)
        query = int(rng.integers(count))
        passage[query] = passage[query]._replace(folder=QUERY)
        shots += passage
    for pid, count in ((0, scale.distractors), (-1, scale.junk)):
        for index, camera in enumerate(rng.integers(1, scale.cameras + 1, size=count).tolist()):
            clock[camera - 1] += _FRAMES
            shots.append(Shot(GALLERY, pid, camera, 1, clock[camera - 1], index, None))
    return shots


def _check(scale: Scale) -> None:
    if min(scale) < 0 or scale.cameras < 2 or scale.train_ids < 1 or scale.test_ids < 1:
        raise ValueError(f"{scale} needs at least 2 cameras and an identity in each split, and no negative count")
    if scale.train_images < 2 * scale.train_ids:
        raise ValueError(f"{scale.train_images} images are too few for {scale.train_ids} training identities: 2 each")
    if not 2 * scale.test_ids <= scale.queries <= scale.cameras * scale.test_ids:
        low, high = 2 * scale.test_ids, scale.cameras * scale.test_ids
        raise ValueError(
            f"{scale.queries} queries do not fit {scale.test_ids} test identities: each is seen by 2 to "
            f"{scale.cameras} cameras, which makes {low} to {high} queries, one for a camera"
        )
    if scale.gallery < scale.queries:
        raise ValueError(f"{scale.gallery} gallery images are too few for {scale.queries} queries: one each at least")


def _passages(
    rng: np.random.Generator, people: int, cameras: int, visits: int, images: int, least: int
) -> list[tuple[int, int, int]]:
    """(person, camera, images) of all visits: exact totals, two cameras a person, `least` images a visit."""
    extra = rng.permutation(np.repeat(np.arange(people), cameras - 2))[: visits - 2 * people]
    seen_by = 2 + np.bincount(extra, minlength=people)
    share = rng.dirichlet(np.full(visits, 3.0))
    counts = (least + rng.multinomial(images - least * visits, share)).tolist()
    passages: list[tuple[int, int, int]] = []
    for person in range(people):
        for camera in sorted(rng.permutation(cameras)[: seen_by[person]].tolist()):
            passages.append((person, camera + 1, counts[len(passages)]))
    return passages


def _tracks(folder: str, pid: int, camera: int, count: int, person: tuple[int, int], clock: list[int]) -> list[Shot]:
    shots = []
    for index in range(count):
        track = 2 if count >= _TRACK and index >= (count + 1) // 2 else 1
        clock[camera - 1] += _FRAMES
        shots.append(Shot(folder, pid, camera, track, clock[camera - 1], index, person))
    clock[camera - 1] += 3 * _FRAMES
    return shots
