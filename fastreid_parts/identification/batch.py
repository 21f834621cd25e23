"""Identities of all tracklets at once: constrained agglomerative clustering.

Two clusters are joined while the mean distance between their tracklets (or the largest, `complete`) is below the
threshold. Tracklets that cannot be one person get a distance so large that no mean with it is below the threshold, and
means are updated with every join, so what forbids a pair forbids every cluster that holds it: this is plain
agglomeration, which SciPy does in quadratic time (nearest-neighbor chains). Clusters that are joined have at least one
pair of tracklets below the threshold between them, so each connected component of such pairs is clustered by itself,
and no larger matrix is held than the largest of these takes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import linkage as agglomerate
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from .constraints import Constraints
from .distances import TrackletDistances

#: How far apart two clusters are -> what that is.
LINKAGES = {"average": "the mean distance between their tracklets", "complete": "the largest distance between them"}
#: Tracklets of one component, at most: 3.2 GB for their distances.
LARGEST = 20_000

# Tracklets that corrections call the same come together before all others
_NEAREST = 1e-9


class Merge(NamedTuple):
    """Two clusters that were joined.

    Attributes:
        one: tracklets of the first, ascending.
        other: tracklets of the second.
        distance: between them, by the linkage; 0 where a correction joined them.
    """

    one: np.ndarray
    other: np.ndarray
    distance: float


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that no distance is below.

    Raises:
        ValueError: it is not positive or not finite.
    """
    if not 0 < threshold < np.inf:
        raise ValueError(f"the threshold is a distance above 0, got {threshold}")


def cluster(
    distances: TrackletDistances, constraints: Constraints, threshold: float, linkage: str = "average"
) -> tuple[np.ndarray, list[Merge]]:
    """Give each of T tracklets its identity.

    The result depends on the order of the tracklets only where distances are equal; give them in an order of their own.

    Args:
        distances: between them.
        constraints: which of them cannot be, or are, one person.
        threshold: clusters are joined while they are nearer than this.
        linkage: one of `LINKAGES`.

    Returns:
        (T,) int64 identities, numbered from 0 in the order of their first tracklets; and how they came together, for
        each identity in the order of the joins.

    Raises:
        ValueError: an unknown linkage, a threshold that cannot be, or too many tracklets of one component.
    """
    check_threshold(threshold)
    if linkage not in LINKAGES:
        raise ValueError(f"unknown linkage '{linkage}', choose one of: {', '.join(LINKAGES)}")
    component = _components(distances, constraints, threshold)
    order = np.argsort(component, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    largest = max(map(len, parts))
    if largest > LARGEST:
        raise ValueError(
            f"{largest} tracklets are linked by distances below {threshold:g}, and at most {LARGEST} are clustered "
            "together: take a lower threshold, or mode streaming"
        )
    identity, merges = np.arange(len(distances)), []
    with tqdm(total=len(distances), desc="clustering", unit="tracklet", leave=False, disable=None) as bar:
        for members in parts:
            for merge in _cluster_component(distances, constraints, members, threshold, linkage):
                identity[merge.other] = identity[merge.one] = min(identity[merge.one[0]], identity[merge.other[0]])
                merges.append(merge)
            bar.update(len(members))
    return np.unique(identity, return_inverse=True)[1].astype(np.int64), merges


def _components(distances: TrackletDistances, constraints: Constraints, threshold: float) -> np.ndarray:
    """(T,) int64: what is connected by allowed pairs below the threshold, or by corrections."""
    component = constraints.together.copy()
    every = np.arange(len(distances))
    for rows in tqdm(list(distances.row_blocks()), desc="distances", unit="block", leave=False, disable=None):
        columns = every[rows.start :]
        near = distances.block(rows, slice(rows.start, None)) < threshold
        near &= ~constraints.forbidden(every[rows], columns)
        one, other = np.nonzero(near)
        edges = component[rows][one], component[columns[other]]
        size = int(component.max()) + 1
        graph = coo_matrix((np.ones(len(one), bool), edges), (size, size))
        component = connected_components(graph, directed=False)[1][component].astype(np.int64)
    return component


def _cluster_component(
    distances: TrackletDistances, constraints: Constraints, members: np.ndarray, threshold: float, linkage: str
) -> list[Merge]:
    """Joins inside one component, nearest first."""
    size = len(members)
    if size == 1:
        return []
    # Above the threshold still when it is averaged with a distance of 0 for every other pair of the component
    never = 4.0 * threshold * size**2
    condensed = np.empty(size * (size - 1) // 2)
    rows_at_once, filled = max(1, (1 << 22) // size), 0
    for start in range(0, size - 1, rows_at_once):
        rows, columns = members[start : start + rows_at_once], members[start:]
        block = np.maximum(distances.block(rows, columns).astype(np.float64), _NEAREST)
        block[constraints.together[rows, None] == constraints.together[None, columns]] = 0.0
        block[constraints.forbidden(rows, columns)] = never
        for place, row in enumerate(block):
            condensed[filled : filled + len(row) - place - 1] = row[place + 1 :]
            filled += len(row) - place - 1
    clusters: dict[int, np.ndarray] = {place: members[place : place + 1] for place in range(size)}
    merges = []
    for step, (one, other, distance, _) in enumerate(agglomerate(condensed, linkage)):
        if distance >= threshold:
            break
        pair = sorted((clusters.pop(int(one)), clusters.pop(int(other))), key=lambda cluster: int(cluster[0]))
        clusters[size + step] = np.sort(np.concatenate(pair))
        merges.append(Merge(pair[0], pair[1], float(distance)))
    return merges
