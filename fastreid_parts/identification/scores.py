"""How good identities are, where the truth is known."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, auc
from sklearn.metrics.cluster import pair_confusion_matrix

from .evidence import Join


def identification_scores(
    found: Sequence[Hashable], true: Sequence[Hashable], images: Sequence[int] | np.ndarray
) -> dict[str, float]:
    """Score the identities of T tracklets, all of which have a box of one image each in every frame of theirs.

    `IDF1`: F1 of images under the assignment of found identities to people, one to one, that is best for it (Ristani
    et al., 2016); tracklets are given, so as many images are found as there are. `pairwise_precision`,
    `pairwise_recall`, `pairwise_F1`: of pairs of tracklets. `adjusted_rand`: of tracklets (Hubert and Arabie, 1985).

    Args:
        found: T identities.
        true: T people.
        images: (T,) how many images each has.

    Returns:
        From 0 to 1 each, the adjusted Rand index down to -0.5; and how many `identities` and `people` there are.

    Raises:
        ValueError: there are no tracklets, or lengths differ.
    """
    if not len(found) == len(true) == len(images) or not len(found):
        raise ValueError(
            f"{len(found)} identities found for {len(true)} tracklets with {len(images)} numbers of images"
        )
    of = np.unique([str(one) for one in found], return_inverse=True)[1]
    who = np.unique([str(one) for one in true], return_inverse=True)[1]
    weights = np.zeros((of.max() + 1, who.max() + 1))
    np.add.at(weights, (of, who), images)
    matched = weights[linear_sum_assignment(weights, maximize=True)].sum()
    (_, false_joins), (missed, right) = pair_confusion_matrix(who, of)
    precision = right / (right + false_joins) if right + false_joins else 1.0
    recall = right / (right + missed) if right + missed else 1.0
    return {
        "IDF1": float(matched / weights.sum()),
        "pairwise_precision": float(precision),
        "pairwise_recall": float(recall),
        "pairwise_F1": float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0,
        "adjusted_rand": float(adjusted_rand_score(who, of)),
        "identities": int(of.max() + 1),
        "people": int(who.max() + 1),
    }


@dataclass(frozen=True)
class RejectionCurve:
    """How often decisions are right when those with the smallest margins are left to a person.

    Attributes:
        margin: (C,) float64, falling: decisions with at least this margin are taken.
        answered: (C,) float64, the share of all decisions that these are, rising to 1.
        right: (C,) float64, the share of these that is right.
    """

    margin: np.ndarray
    answered: np.ndarray
    right: np.ndarray

    @property
    def area(self) -> float:
        """Give the mean of `right` over all shares answered, from 0 to 1; before the first point it is the first's."""
        return float(auc(np.append(0.0, self.answered), np.append(self.right[0], self.right)))


def rejection_curve(margins: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> RejectionCurve:
    """Show what rejecting uncertain decisions gains (accuracy-rejection curve; Nadeem et al., 2009).

    Args:
        margins: (J,) of decisions such as joins: by how much the second best was farther than what was chosen; NaN
            where there was no second, which counts as the largest of all.
        right: (J,) whether each was right.

    Returns:
        One point for each different margin: equal ones are answered together.

    Raises:
        ValueError: there are no decisions, or lengths differ.
    """
    if len(margins) != len(right) or not len(right):
        raise ValueError(f"{len(margins)} margins of {len(right)} decisions")
    largest_first = np.where(np.isnan(margins), np.inf, np.asarray(margins, np.float64))
    order = np.argsort(-largest_first, kind="stable")
    falling = largest_first[order]
    last = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
    answered = last + 1
    share = np.cumsum(np.asarray(right, bool)[order])[last] / answered
    return RejectionCurve(falling[last], answered / len(falling), share)


def rejection_of_joins(joins: Sequence[Join], truth: Sequence[str]) -> RejectionCurve | None:
    """Show what leaving uncertain joins to a person gains.

    A join is right where the two tracklets that it is made by are of one person; its margin is the distance to the
    second best identity less its own. Joins by corrections, and of tracklets whose person is unknown, do not count.

    Args:
        joins: of an identification.
        truth: T people, "" where unknown.

    Returns:
        None where no join counts.
    """
    counted = [join for join in joins if not join.corrected and truth[join.one] and truth[join.other]]
    if not counted:
        return None
    margins = [join.second - join.distance for join in counted]
    return rejection_curve(margins, [truth[join.one] == truth[join.other] for join in counted])
