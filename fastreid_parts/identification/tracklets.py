"""Tracklets: consecutive images of one person under one camera, as a tracker gives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tracklets:
    """T tracklets of N images in all.

    Attributes:
        features: (N, D) float32, as the model gives them.
        of: (N,) int64, the tracklet of each image, 0 to T - 1, ascending.
        paths: N image files; "" where there is none.
        names: T, what each is called, all different: camera/track.
        cameras: T, "" where unknown.
        start: (T,) float64 seconds, since 1970 (UTC) or of a recording; NaN where unknown.
        end: (T,) float64 seconds, of the last image.
        identities: T, whom each shows where that is known beforehand, for scores and thresholds; "" where unknown.
        fingerprint: of the model, see `model_fingerprint`; empty for features made by other means.
        config: the model's config as `cfg.dump()` writes it; empty as the fingerprint.
        framed: (T,) bool, whether start and end are numbers of frames, of which the same is in both of two tracklets
            that touch; None where none is.

    Raises:
        ValueError: lengths do not agree, a tracklet has no image, names are not different, or one ends before it
            starts.
    """

    features: np.ndarray
    of: np.ndarray
    paths: list[str]
    names: list[str]
    cameras: list[str]
    start: np.ndarray
    end: np.ndarray
    identities: list[str]
    fingerprint: str
    config: str
    framed: np.ndarray | None = None

    def __post_init__(self) -> None:
        images, size = len(self.features), len(self.names)
        if not size:
            raise ValueError("there is no tracklet")
        if self.features.ndim != 2 or not images == len(self.of) == len(self.paths):
            raise ValueError(f"{images} features of {len(self.of)} images with {len(self.paths)} paths")
        if not size == len(self.cameras) == len(self.start) == len(self.end) == len(self.identities):
            raise ValueError("every tracklet needs a name, a camera, start, end and an identity, which may be unknown")
        if not np.array_equal(np.unique(self.of), np.arange(size)) or (np.diff(self.of) < 0).any():
            raise ValueError("every tracklet needs at least one image, and images of one tracklet stand together")
        if len(set(self.names)) < size:
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"two tracklets are called '{twice}'")
        late = np.flatnonzero(self.start > self.end)
        if len(late):
            raise ValueError(f"the tracklet '{self.names[late[0]]}' ends before it starts")

    def __len__(self) -> int:
        return len(self.names)
