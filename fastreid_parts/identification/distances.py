"""How far apart tracklets are: by the robust mean of each, or by their best pairs of images.

A tracklet is represented by few vectors, and distances are computed in blocks, so that no more memory is held than
those take and one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.exact import check_features, check_metric
from ..evaluation.search import as_compared, distances_of

#: How two tracklets are compared -> what that is.
KINDS = {
    "mean": "of robust means: of each tracklet without the fifth of its images that is farthest from its mean",
    "pairs": "the mean over the nearest pairs of images, one of each tracklet",
}

_TRIMMED = 0.2  # share of a tracklet's images that its robust mean leaves out
_IMAGES = 1 << 16  # that are looked at together
_PAIRS = 1 << 23  # of images that are compared together: 32 MB, which a processor's caches hold in part
_DISTANCES = 1 << 22  # that a block of rows has


@dataclass(frozen=True)
class Compared:
    """How tracklets are compared.

    Attributes:
        kind: one of `KINDS`.
        metric: `cosine` or `euclidean`.
        best: pairs of images that `pairs` averages over; of tracklets with fewer, all.
        images: `pairs` takes so many of a tracklet's images, evenly spread over it: neighbors in time look alike.

    Raises:
        ValueError: one of them cannot be.
    """

    kind: str = "mean"
    metric: str = "cosine"
    best: int = 3
    images: int = 8

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if self.kind not in KINDS:
            raise ValueError(f"unknown distance '{self.kind}', choose one of: {', '.join(KINDS)}")
        if self.best < 1 or self.images < 1:
            raise ValueError("at least one image of a tracklet and one pair of images are compared")

    @property
    def width(self) -> int:
        """How many vectors represent a tracklet."""
        return 1 if self.kind == "mean" else self.images


def represent(features: np.ndarray, of: np.ndarray, compared: Compared) -> tuple[np.ndarray, np.ndarray]:
    """Choose the vectors that tracklets are compared by.

    Of `mean` it is the mean of features (for the cosine, of length 1, and brought to length 1 again) without the fifth
    of the images that is farthest from the mean of all. Of `pairs` it is images, evenly spread over the tracklet.

    Args:
        features: (N, D) of the images.
        of: (N,) the tracklet of each image, 0 to T - 1, ascending, each at least once.
        compared: how they are compared.

    Returns:
        (T, width, D) float32 vectors; and the image that each is of, (T, width) int64: of `mean` the one nearest to
        it, of `pairs` -1 at the end of a tracklet with fewer, whose vectors are zero there.

    Raises:
        ValueError: features are not finite, or a tracklet has none.
    """
    matrix = check_features(features, "tracklets'", compared.metric)
    counts = np.bincount(of)
    if len(of) != len(matrix) or not len(of) or (counts == 0).any() or (np.diff(of) < 0).any():
        raise ValueError("every tracklet needs at least one image, and images of one tracklet stand together")
    first = np.concatenate([[0], counts.cumsum()])
    vectors = np.zeros((len(counts), compared.width, matrix.shape[1]), np.float32)
    images = np.full((len(counts), compared.width), -1, np.int64)
    begin = 0
    while begin < len(counts):
        end = max(begin + 1, int(np.searchsorted(first, first[begin] + _IMAGES, side="right")) - 1)
        part = slice(first[begin], first[end])
        block = as_compared(matrix[part], compared.metric)
        starts = first[begin:end] - first[begin]
        if compared.kind == "mean":
            vectors[begin:end, 0], nearest = _robust_means(block, starts, counts[begin:end], compared.metric)
            images[begin:end, 0] = nearest + first[begin]
        else:
            for place in range(begin, end):
                rows = spread(counts[place], compared.images)
                vectors[place, : len(rows)] = block[starts[place - begin] + rows]
                images[place, : len(rows)] = first[place] + rows
        begin = end
    return vectors, images


def spread(images: int, most: int) -> np.ndarray:
    """Choose images evenly spread over a tracklet: int64 numbers from 0, ascending.

    Args:
        images: how many it has.
        most: how many are chosen, at most.
    """
    number = min(images, most)
    return ((2 * np.arange(number) + 1) * images) // (2 * number)


def _robust_means(
    block: np.ndarray, starts: np.ndarray, counts: np.ndarray, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Of consecutive tracklets the robust mean, and the row of the image nearest to it."""
    of = np.repeat(np.arange(len(counts)), counts)

    def mean(weights: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(block * weights[:, None], starts, axis=0)
        return as_compared(sums / np.add.reduceat(weights, starts)[:, None], metric)

    def place(means: np.ndarray) -> np.ndarray:
        """Of each image its place among its tracklet's, the nearest to the mean first."""
        far = np.square(block - means[of]).sum(axis=1)
        places = np.empty(len(block), np.int64)
        places[np.lexsort((far, of))] = np.arange(len(block)) - starts[of]
        return places

    kept = place(mean(np.ones(len(block), np.float32))) < (counts - np.floor(_TRIMMED * counts))[of]
    means = mean(kept.astype(np.float32))
    return means, np.flatnonzero(place(means) == 0)


class TrackletDistances:
    """Distances between T tracklets, a block at a time.

    Args:
        vectors: (T, width, D) float32, as `represent` gives them.
        filled: (T,) how many of these a tracklet has.
        compared: how they are compared.
    """

    def __init__(self, vectors: np.ndarray, filled: np.ndarray, compared: Compared) -> None:
        self.vectors, self.filled, self.compared = vectors, filled, compared

    def __len__(self) -> int:
        return len(self.vectors)

    def block(self, rows: slice | np.ndarray, columns: slice | np.ndarray) -> np.ndarray:
        """Compute distances between some tracklets and some others.

        Args:
            rows: R of them.
            columns: C of them.

        Returns:
            (R, C) float32, in the metric.
        """
        a, b = self.vectors[rows], self.vectors[columns]
        if self.compared.width == 1:
            return _between(a[:, 0], b[:, 0], self.compared.metric)
        has = self.filled[rows], self.filled[columns]
        step = max(1, _PAIRS // max(1, len(b) * self.compared.width**2))
        parts = [
            self._of_best(a[start : start + step], b, has[0][start : start + step], has[1])
            for start in range(0, len(a), step)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(b)), np.float32)

    def _of_best(self, a: np.ndarray, b: np.ndarray, has_a: np.ndarray, has_b: np.ndarray) -> np.ndarray:
        width = self.compared.width
        # One pair of places after the other, for all tracklets: a fifth of the time of a partition of each one's pairs
        pairs = np.ascontiguousarray(self._image_pairs(a, b, has_a, has_b).transpose(2, 3, 0, 1))
        pairs = pairs.reshape(width**2, len(a), len(b))
        best = min(self.compared.best, width**2)
        nearest = np.full((best, len(a), len(b)), np.inf, np.float32)
        larger = np.empty((len(a), len(b)), np.float32)
        for passed_on in pairs:
            for kept in nearest:  # ascending
                np.maximum(kept, passed_on, out=larger)
                np.minimum(kept, passed_on, out=kept)
                passed_on, larger = larger, passed_on
        number = np.minimum(best, has_a[:, None] * has_b[None])
        nearest[np.arange(best)[:, None, None] >= number] = 0
        return nearest.sum(axis=0) / number.astype(np.float32)

    def _image_pairs(self, a: np.ndarray, b: np.ndarray, has_a: np.ndarray, has_b: np.ndarray) -> np.ndarray:
        """(R, C, width, width) distances between images; infinite where there is none."""
        width, dimensions = a.shape[1:]
        flat = _between(a.reshape(-1, dimensions), b.reshape(-1, dimensions), self.compared.metric)
        absent = np.arange(width) >= has_a[:, None], np.arange(width) >= has_b[:, None]
        flat[absent[0].ravel()] = np.inf
        flat[:, absent[1].ravel()] = np.inf
        return flat.reshape(len(a), width, len(b), width).transpose(0, 2, 1, 3)

    def nearest_vectors(self, one: int, other: int) -> tuple[int, int]:
        """Say which two vectors of two tracklets are nearest to each other, by their places in these.

        Args:
            one: a tracklet.
            other: another.
        """
        if self.compared.width == 1:
            return 0, 0
        a, b = slice(one, one + 1), slice(other, other + 1)
        pairs = self._image_pairs(self.vectors[a], self.vectors[b], self.filled[a], self.filled[b])
        place = int(pairs.argmin())
        return place // self.compared.width, place % self.compared.width

    def row_blocks(self, columns: int = 0) -> Iterator[slice]:
        """Divide the tracklets so that a block of their distances to so many others, by default all, is held easily."""
        step = max(1, _DISTANCES // max(1, columns or len(self)))
        for start in range(0, len(self), step):
            yield slice(start, min(len(self), start + step))


def _between(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    scores = a @ b.T
    if metric == "euclidean":
        scores = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None] - 2 * scores
    return np.maximum(distances_of(scores, metric), 0)


def filled_of(images: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Count the vectors that each tracklet has, (T,) int64.

    Args:
        images: (T, width), as `represent` gives them.
    """
    return (np.asarray(images) >= 0).sum(axis=1)
