"""Why tracklets have one identity, and what was nearly joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .batch import Merge
from .constraints import Constraints
from .distances import TrackletDistances
from .streaming import Decisions

# Of each identity, so many of the nearest others are looked at; those within so many thresholds are nearly joined
_NEIGHBORS = 3
_NEARLY = 2.0


class Join(NamedTuple):
    """Two groups of tracklets that became one identity.

    Attributes:
        identity: which.
        one: the tracklet of the first that is nearest to one of the second.
        other: that one of the second.
        nearest: distance between the two.
        distance: between the groups, that was compared with the threshold.
        second: from the smaller group to the nearest other identity that it may belong to; NaN where there is none.
        second_identity: which; -1 where there is none.
        corrected: a correction joined them.
    """

    identity: int
    one: int
    other: int
    nearest: float
    distance: float
    second: float
    second_identity: int
    corrected: bool


class Near(NamedTuple):
    """Two identities that were nearly one.

    Attributes:
        identity_a: the one.
        identity_b: the other.
        one: the tracklet of the first that is nearest to one of the second.
        other: that one of the second.
        nearest: distance between the two.
        distance: the mean over all their tracklets.
        reason: why they cannot be one person; empty where they could.
    """

    identity_a: int
    identity_b: int
    one: int
    other: int
    nearest: float
    distance: float
    reason: str


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against the identities of T tracklets.

    Attributes:
        distance: (T,) float64, of a tracklet to its identity's others; NaN where it is alone.
        second: (T,) float64, to the nearest other identity that it may belong to; NaN where there is none.
        second_identity: (T,) int64, which; -1 where there is none.
        joins: how identities came together, by identity.
        near: what was nearly joined, the nearest first.
    """

    distance: np.ndarray
    second: np.ndarray
    second_identity: np.ndarray
    joins: list[Join]
    near: list[Near]


def explain(
    distances: TrackletDistances,
    constraints: Constraints,
    identity: np.ndarray,
    merges: Sequence[Merge],
    threshold: float,
) -> Evidence:
    """Look at identities when all are known; a distance to several tracklets is the mean.

    Args:
        distances: between T tracklets.
        constraints: on them.
        identity: (T,) int64, from 0 on without gaps.
        merges: how they came together, see `cluster`.
        threshold: that they were compared with.
    """
    order = np.argsort(identity, kind="stable")
    sizes = np.bincount(identity)
    first = np.concatenate([[0], sizes.cumsum()])
    merges_of: dict[int, list[Merge]] = {}
    for merge in merges:
        merges_of.setdefault(int(identity[merge.one[0]]), []).append(merge)
    own, second = np.full(len(identity), np.nan), np.full(len(identity), np.nan)
    second_identity = np.full(len(identity), -1, np.int64)
    joins: list[Join] = []
    near: dict[tuple[int, int], Near] = {}
    place_of = np.empty(len(order), np.int64)
    place_of[order] = np.arange(len(order))

    with tqdm(total=len(order), desc="evidence", unit="tracklet", leave=False, disable=None) as bar:
        for begin, end in _whole_identities(first, distances):
            rows = order[first[begin] : first[end]]
            block = distances.block(rows, order)
            apart = np.logical_or.reduceat(constraints.forbidden(rows, order), first[:-1], axis=1)
            sums = np.add.reduceat(block, first[:-1], axis=1, dtype=np.float64)
            own_place = np.arange(len(rows)), identity[rows]
            alone = sizes[identity[rows]] == 1
            itself = block[np.arange(len(rows)), first[begin] + np.arange(len(rows))]
            own[rows] = np.where(alone, np.nan, (sums[own_place] - itself) / np.maximum(sizes[identity[rows]] - 1, 1))
            means = sums / sizes
            allowed = np.where(apart, np.inf, means)
            allowed[own_place] = np.inf
            best = allowed.argmin(axis=1)
            there = np.isfinite(allowed[np.arange(len(rows)), best])
            second[rows[there]] = allowed[there, best[there]]
            second_identity[rows[there]] = best[there]
            for one in range(begin, end):
                part = slice(first[one] - first[begin], first[one + 1] - first[begin])
                for merge in merges_of.get(one, ()):
                    joins.append(_join(one, merge, block, allowed, first[begin], place_of, order))
                together = means[part].mean(axis=0)
                together[one] = np.inf
                for other in np.argsort(together, kind="stable")[:_NEIGHBORS].tolist():
                    if together[other] < _NEARLY * threshold and (other, one) not in near:
                        near[one, other] = _near(one, other, together[other], block[part], rows[part], order, first)
            bar.update(len(rows))
    listed = sorted(near.values(), key=lambda pair: (pair.distance, pair.identity_a, pair.identity_b))
    listed = [pair._replace(reason=_reason(pair, identity, constraints)) for pair in listed]
    return Evidence(own, second, second_identity, joins, listed)


def _whole_identities(first: np.ndarray, distances: TrackletDistances) -> list[tuple[int, int]]:
    """Divide identities into runs, each with a block of distances that is held easily."""
    blocks = [rows.stop for rows in distances.row_blocks()]
    begins, begin = [], 0
    while begin < len(first) - 1:
        begins.append(begin)
        begin = max(begin + 1, int(np.searchsorted(first, first[begin] + blocks[0], side="right")) - 1)
    return list(zip(begins, [*begins[1:], len(first) - 1]))


def _join(
    identity: int,
    merge: Merge,
    block: np.ndarray,
    allowed: np.ndarray,
    begin: int,
    place_of: np.ndarray,
    order: np.ndarray,
) -> Join:
    small, large = sorted((merge.one, merge.other), key=len)
    rows, columns = place_of[small] - begin, place_of[large]
    pairs = block[np.ix_(rows, columns)]
    row, column = np.unravel_index(pairs.argmin(), pairs.shape)
    to_others = allowed[rows].mean(axis=0)
    best = int(to_others.argmin())
    known = bool(np.isfinite(to_others[best]))
    one, other = sorted((int(small[row]), int(large[column])))
    return Join(
        identity,
        one,
        other,
        nearest=float(pairs[row, column]),
        distance=float(pairs.mean()) if merge.distance == 0 else merge.distance,
        second=float(to_others[best]) if known else np.nan,
        second_identity=best if known else -1,
        corrected=merge.distance == 0,
    )


def _near(
    one: int,
    other: int,
    distance: float,
    block: np.ndarray,
    rows: np.ndarray,
    order: np.ndarray,
    first: np.ndarray,
) -> Near:
    columns = slice(first[other], first[other + 1])
    pairs = block[:, columns]
    row, column = np.unravel_index(pairs.argmin(), pairs.shape)
    nearest = int(rows[row]), int(order[columns][column])
    if one > other:
        one, other, nearest = other, one, nearest[::-1]
    return Near(one, other, *nearest, float(pairs[row, column]), float(distance), "")


def _reason(pair: Near, identity: np.ndarray, constraints: Constraints) -> str:
    one, other = (np.flatnonzero(identity == which) for which in (pair.identity_a, pair.identity_b))
    apart = constraints.forbidden(one, other)
    if not apart.any():
        return ""
    row, column = np.unravel_index(apart.argmax(), apart.shape)
    a, b = int(one[row]), int(other[column])
    names = constraints.sighted.names
    return f"{names[a]} and {names[b]}: {constraints.reason(a, b)}"


def decisions_explained(final: Evidence, decisions: Decisions, distances: TrackletDistances) -> Evidence:
    """Say what was known when tracklets were decided as they arrived, in place of what is known at the end.

    Args:
        final: of the identities in the end, of which `near` stays.
        decisions: of T tracklets.
        distances: between them.
    """
    joins = []
    for place in np.flatnonzero(decisions.nearest >= 0).tolist():
        one = int(decisions.nearest[place])
        nearest = float(distances.block(np.array([place]), np.array([one]))[0, 0])
        joins.append(
            Join(
                identity=int(decisions.identity[place]),
                one=one,
                other=place,
                nearest=nearest,
                distance=float(decisions.distance[place]),
                second=float(decisions.second[place]),
                second_identity=int(decisions.second_identity[place]),
                corrected=bool(decisions.corrected[place]),
            )
        )
    return Evidence(decisions.distance, decisions.second, decisions.second_identity, joins, final.near)
