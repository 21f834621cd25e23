"""A threshold on the distance, "the same person or not", from pairs of images that are labeled.

No matrix of distances is kept: pairs are counted in narrow bins of the distance, so that false and true positive rates
are exact at every edge between two bins, and the threshold is one of these edges.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta

from ..data.tables import read_table
from ..evaluation import Features
from ..evaluation.exact import Similarity, check_features, check_metric
from ..evaluation.search import as_compared, distances_of
from .store import FeatureSet

#: What a threshold is chosen by -> what that means.
CRITERIA = {
    "fpr": "the greatest true positive rate whose false positive rate is at most the target",
    "balanced": "the greatest mean of true positive rate and true negative rate",
    "eer": "equal error rate: false positives as frequent as false negatives",
}
CONFIDENCE = 0.95

_BINS = 1 << 20
_BLOCK_PAIRS = 1 << 24  # pairs that are compared at once
_RESAMPLES = 1000

# A block of labeled pairs: distances, whether the person is the same, and the group that a pair belongs to
Block = tuple[np.ndarray, np.ndarray, np.ndarray]
Blocks = Callable[[], Iterator[Block]]  # gone through twice


@dataclass(frozen=True)
class Calibration:
    """A threshold, and what it does on the pairs that it was chosen by.

    Attributes:
        threshold: two images show the same person if their distance is below it.
        metric: of the distance, `euclidean` or `cosine`.
        criterion: one of `CRITERIA`.
        target: the false positive rate that was asked for; 0 for other criteria.
        fpr: false positive rate: share of the pairs of different people that are taken for the same.
        fpr_low: lower end of the interval of the FPR at `CONFIDENCE`.
        fpr_high: its upper end.
        tpr: true positive rate: share of the pairs of the same person that are recognized.
        positives: number of pairs of the same person.
        negatives: number of pairs of different people.
        source: where the pairs are from.

    Raises:
        ValueError: a value that no threshold has, such as a rate above 1.
    """

    threshold: float
    metric: str
    criterion: str
    target: float
    fpr: float
    fpr_low: float
    fpr_high: float
    tpr: float
    positives: int
    negatives: int
    source: str

    def __post_init__(self) -> None:
        _check(self.metric, self.criterion, self.target)
        rates = {name: getattr(self, name) for name in ("target", "fpr", "fpr_low", "fpr_high", "tpr")}
        wrong = [name for name, value in rates.items() if not _is_number(value) or value > 1]
        wrong += [name for name in ("positives", "negatives") if type(getattr(self, name)) is not int]
        wrong += [name for name in ("threshold", "positives", "negatives") if not _is_number(getattr(self, name))]
        if wrong or not isinstance(self.source, str):
            raise ValueError(f"a threshold cannot have such {', '.join(wrong or ['source'])}: calibrate again")

    def same_person(self, distances: np.ndarray) -> np.ndarray:
        """Bool of the distances' shape."""
        return np.asarray(distances, np.float64) < self.threshold


def calibrate(
    labeled: FeatureSet, metric: str = "cosine", criterion: str = "fpr", target: float = 1e-3, source: str = ""
) -> Calibration:
    """Choose a threshold by every pair of a query and a gallery image, or of images where there are no queries.

    As in fast-reid's ROC, pairs of the same person under one camera do not count. Nor do images of unknown identity.

    The interval of the FPR is the wider one, at either end, of two: the binomial one (Clopper and Pearson, 1934), which
    takes the pairs for independent, and a bootstrap over the queries' identities, because pairs that share a person are
    not.

    Args:
        labeled: features with identities and cameras.
        metric: of the index that the threshold is for.
        criterion: one of `CRITERIA`.
        target: false positive rate, for the criterion `fpr`.
        source: kept with the threshold; by default the name of the dataset.

    Raises:
        ValueError: unknown metric or criterion, a target out of its range, features that are not finite, no pair of the
            same or of different people, or too few of the latter for the target.
    """
    _check(metric, criterion, target)
    sides = labeled.split() if labeled.num_query else [labeled.features]
    known = [side.take(np.flatnonzero(side.pids >= 0)) for side in sides]
    query, gallery = known[0], known[-1]
    if len(query) == 0 or len(gallery) == 0:
        raise ValueError("no image has a known identity: a threshold needs labeled images")
    similarity = Similarity(query.features, gallery.features, metric)

    def blocks() -> Iterator[Block]:
        for rows, scores in similarity.blocks(max(1, _BLOCK_PAIRS // len(gallery))):
            same = query.pids[rows, None] == gallery.pids[None]
            counts = ~(same & (query.camids[rows, None] == gallery.camids[None]) & (gallery.camids[None] >= 0))
            if query is gallery:  # each pair once, and no image with itself
                counts &= np.arange(len(query))[rows, None] < np.arange(len(gallery))[None]
            distances = similarity.as_distances(rows, scores).numpy()
            groups = np.broadcast_to(query.pids[rows, None], same.shape)
            yield distances[counts], same[counts], groups[counts]

    largest = largest_distance(query.features, gallery.features, metric)
    return calibrate_blocks(blocks, largest, metric, criterion, target, source or labeled.dataset)


def calibrate_pairs(
    features: Features,
    pairs: Sequence[tuple[str, str, bool]],
    metric: str = "cosine",
    criterion: str = "fpr",
    target: float = 1e-3,
    source: str = "",
) -> Calibration:
    """Choose a threshold by pairs that are listed; the bootstrap is over their first images.

    Args:
        features: of all images in the pairs, found by path.
        pairs: (path, path, whether the person is the same); see `read_pairs`.
        metric: as in `calibrate`.
        criterion: as in `calibrate`.
        target: as in `calibrate`.
        source: as in `calibrate`.

    Raises:
        ValueError: as `calibrate`; or a path without features.
    """
    _check(metric, criterion, target)
    check_features(features.features, "listed")
    place = {path: row for row, path in enumerate(features.paths)}
    missing = [path for pair in pairs for path in pair[:2] if path not in place]
    if missing:
        raise ValueError(f"there are no features of '{missing[0]}' ({len(missing)} such images in the pairs)")
    first = np.array([place[one] for one, _, _ in pairs], dtype=np.int64)
    second = np.array([place[other] for _, other, _ in pairs], dtype=np.int64)
    same = np.array([label for _, _, label in pairs], dtype=bool)

    def blocks() -> Iterator[Block]:
        step = max(1, _BLOCK_PAIRS // max(1, features.features.shape[1]))
        for start in range(0, len(pairs), step):
            rows = slice(start, start + step)
            a, b = (as_compared(features.features[side[rows]], metric) for side in (first, second))
            scores = np.einsum("nd,nd->n", a, b) if metric == "cosine" else np.square(a - b).sum(axis=1)
            yield distances_of(scores, metric), same[rows], first[rows]

    return calibrate_blocks(
        blocks, largest_distance(features.features, features.features, metric), metric, criterion, target, source
    )


def read_pairs(path: str | os.PathLike) -> list[tuple[str, str, bool]]:
    """Labeled pairs from a table with the columns image_a, image_b, same (1 or 0); paths start at the table's folder.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a column or a value is missing or of another form; the line is named.
    """
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    folder = os.path.dirname(path)
    pairs = []
    for number, line in read_table(path, ("image_a", "image_b", "same")):
        label = line["same"].lower()
        if not line["image_a"] or not line["image_b"] or label not in words:
            raise ValueError(f"'{path}', line {number}: two images and 1 or 0 for 'same' are needed")
        pairs.append((os.path.join(folder, line["image_a"]), os.path.join(folder, line["image_b"]), words[label]))
    if not pairs:
        raise ValueError(f"'{path}' holds no pairs")
    return pairs


# ---- counting ------------------------------------------------------------------------------------------------


def calibrate_blocks(
    blocks: Blocks, largest: float, metric: str, criterion: str, target: float, source: str
) -> Calibration:
    """Choose a threshold by pairs whose distances are computed, a block at a time.

    Args:
        blocks: called twice; gives (distances, whether the person is the same, the group that a pair belongs to), of
            one length each. The bootstrap is over groups.
        largest: no distance is larger.
        metric: as in `calibrate`.
        criterion: as in `calibrate`.
        target: as in `calibrate`.
        source: kept with the threshold.

    Raises:
        ValueError: there is no pair of the same or of different people, or too few of the latter for the target.
    """
    _check(metric, criterion, target)
    # A power of two of bins over a power of two: an edge is a number of the distances' kind, and no pair on it is lost
    width = 2.0 ** np.ceil(np.log2(max(largest, 1e-30))) / _BINS
    histograms = np.zeros((2, _BINS + 1), np.int64)  # different people, the same person
    for distances, same, _ in blocks():
        places = _bin(distances, width) + same * (_BINS + 1)
        histograms += np.bincount(places, minlength=histograms.size).reshape(histograms.shape)
    negatives, positives = histograms.sum(axis=1).tolist()
    if not negatives or not positives:
        which = "of the same person" if not positives else "of different people"
        raise ValueError(
            f"there is no pair {which} ({positives} of the same and {negatives} of different people): a threshold "
            "needs both"
        )
    # Of the edges 0 to _BINS: pairs below it
    below = np.concatenate([np.zeros((2, 1), np.int64), histograms.cumsum(axis=1)], axis=1)
    fpr, tpr = below[0] / negatives, below[1] / positives
    edge = _edge(fpr, tpr, criterion, target, negatives)
    low, high = _interval(*_false_positives(blocks, width, edge))
    return Calibration(
        threshold=float(edge * width),
        metric=metric,
        criterion=criterion,
        target=target if criterion == "fpr" else 0.0,
        fpr=float(fpr[edge]),
        fpr_low=low,
        fpr_high=high,
        tpr=float(tpr[edge]),
        positives=positives,
        negatives=negatives,
        source=source,
    )


def _bin(distances: np.ndarray, width: float) -> np.ndarray:
    """The bin of each distance; the last is for what rounding puts beyond the largest."""
    return np.clip(np.floor(distances.astype(np.float64) / width), 0, _BINS).astype(np.int64)


def _edge(fpr: np.ndarray, tpr: np.ndarray, criterion: str, target: float, negatives: int) -> int:
    """The edge that a criterion chooses, in the middle of those that are as good."""
    if criterion == "fpr":
        if target * negatives < 1:
            raise ValueError(
                f"{negatives} pairs of different people are too few for a false positive rate of {target:g}: it takes "
                f"at least {int(np.ceil(1 / target))}, or a higher target"
            )
        return int(np.flatnonzero(fpr <= target)[-1])
    worth = tpr - fpr if criterion == "balanced" else -np.abs(fpr - (1 - tpr))
    best = np.flatnonzero(worth == worth.max())
    return int(best[len(best) // 2])


def _false_positives(blocks: Blocks, width: float, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """(groups,) numbers of pairs of different people that are below the edge, and of all such pairs."""
    counts: dict[int, np.ndarray] = {}
    for distances, same, groups in blocks():
        names, places = np.unique(groups[~same], return_inverse=True)
        taken = np.bincount(places, weights=_bin(distances[~same], width) < edge, minlength=len(names))
        every = np.bincount(places, minlength=len(names))
        for name, number in zip(names.tolist(), np.stack([taken, every], axis=1)):
            counts[name] = counts.get(name, 0) + number
    both = np.stack(list(counts.values()))
    return both[:, 0], both[:, 1]


def _interval(false: np.ndarray, of_group: np.ndarray) -> tuple[float, float]:
    """Of the FPR; see `calibrate`."""
    wrong, every, rest = false.sum(), of_group.sum(), (1 - CONFIDENCE) / 2
    low = float(beta.ppf(rest, wrong, every - wrong + 1)) if wrong else 0.0
    high = float(beta.ppf(1 - rest, wrong + 1, every - wrong)) if wrong < every else 1.0
    generator, chances, rates = np.random.default_rng(0), np.full(len(false), 1 / len(false)), []
    for _ in range(_RESAMPLES):  # one at a time: all of them would take 8 KB for each image
        times = generator.multinomial(len(false), chances)
        rates.append((times @ false) / (times @ of_group))
    drawn = np.quantile(rates, [rest, 1 - rest])
    return min(low, float(drawn[0])), max(high, float(drawn[1]))


def largest_distance(query: np.ndarray, gallery: np.ndarray, metric: str) -> float:
    """Bound the distances between features from above.

    Args:
        query: (Q, D).
        gallery: (G, D).
        metric: `cosine` or `euclidean`.
    """
    if metric == "cosine":
        return 2.0
    return float(sum(np.sqrt(np.square(features, dtype=np.float64).sum(axis=1).max()) for features in (query, gallery)))


def _is_number(value: Any) -> bool:
    """Tell whether it is finite and not negative."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < np.inf


def _check(metric: str, criterion: str, target: float) -> None:
    check_metric(metric)
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion '{criterion}', choose one of: {', '.join(CRITERIA)}")
    if criterion == "fpr" and not 0 < target < 1:
        raise ValueError(f"the target is a false positive rate between 0 and 1, got {target}")
