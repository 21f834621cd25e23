"""Tracklets that the tests make: people walk past cameras, one camera at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastreid_parts.identification.constraints import Constraints, Rules, Sighted
from fastreid_parts.identification.distances import Compared, TrackletDistances, filled_of, represent

DIMENSIONS = 16
MEANS, NO_RULES = Compared(), Rules()

# Features, tracklet of each image, names, cameras, start, end and people of tracklets
Walks = tuple[np.ndarray, np.ndarray, list[str], list[str], np.ndarray, np.ndarray, list[str]]


def walks(people: int = 8, visits: int = 4, noise: float = 0.25, seed: int = 0, cameras: int = 3) -> Walks:
    """Tracklets in the order of time."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(people, DIMENSIONS))
    centers[1::2] = centers[::2][: len(centers[1::2])] + 0.8 * random.normal(size=centers[1::2].shape)  # look-alikes
    rows = []
    for person in range(people):
        at = random.uniform(0, 40)
        for _ in range(visits):
            length = random.uniform(5, 20)
            rows.append((at, at + length, int(random.integers(cameras)), person))
            at += length + random.uniform(5, 30)
    rows.sort()
    features, of, names, where, start, end, who = [], [], [], [], [], [], []
    for number, (begin, stop, camera, person) in enumerate(rows):
        images = int(random.integers(1, 9))
        view = centers[person] + noise * random.normal(size=DIMENSIONS)
        features.append(view + noise * random.normal(size=(images, DIMENSIONS)))
        of += [number] * images
        names.append(f"c{camera}/{number:03d}")
        where.append(f"c{camera}")
        start.append(begin)
        end.append(stop)
        who.append(str(person))
    return np.concatenate(features).astype(np.float32), np.array(of), names, where, np.array(start), np.array(end), who


def prepared(
    data: Walks,
    compared: Compared = MEANS,
    rules: Rules = NO_RULES,
    corrections: Sequence[tuple[int, int, bool]] = (),
) -> tuple[TrackletDistances, Constraints]:
    features, of, names, cameras, start, end, _ = data
    vectors, images = represent(features, of, compared)
    constraints = Constraints(Sighted(names, cameras, start, end), rules, corrections)
    return TrackletDistances(vectors, filled_of(images), compared), constraints
