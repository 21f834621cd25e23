"""Identities of tracklets as they arrive: each is decided once, by what came before it.

A tracklet joins the nearest identity that it may belong to, by the mean distance to the identity's tracklets, if that
is below the threshold, and is a new one otherwise. Arrival is the end of a tracklet. A decision depends on what arrived
before and on nothing else: products are of one shape whatever their number is, so it is the same, to the last bit,
where a run went on from a state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .batch import check_threshold
from .constraints import Constraints
from .distances import Compared, TrackletDistances
from .reduced import Reduced

#: What becomes of decisions that are not to stand.
ANEW = "begin anew with all tracklets (--overwrite)"

_STAND = f"decisions of streaming stand; to apply corrections to them, {ANEW}"
_CHUNK = 1024  # tracklets that a new one is compared with in one product


@dataclass
class Decisions:
    """What was decided of T tracklets.

    Attributes:
        identity: (T,) int64, from 0 in the order in which identities began; -1 where it is not decided yet.
        nearest: (T,) int64, the nearest tracklet of the identity that it joined, -1 where it began one.
        distance: (T,) float64, to that identity; NaN where it began one.
        second: (T,) float64, to the nearest other identity that it might have joined; NaN where there was none.
        second_identity: (T,) int64, which; -1 where there was none.
        corrected: (T,) bool, whether a correction decided.
    """

    identity: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray
    second: np.ndarray
    second_identity: np.ndarray
    corrected: np.ndarray

    @classmethod
    def none(cls, size: int) -> Decisions:
        """Begin with no decision.

        Args:
            size: T.
        """
        nobody, unknown = np.full(size, -1, np.int64), np.full(size, np.nan)
        return cls(nobody, nobody.copy(), unknown, unknown.copy(), nobody.copy(), np.zeros(size, bool))

    @property
    def made(self) -> int:
        """How many are decided, the first ones."""
        return int((self.identity >= 0).sum())

    def first(self, size: int) -> dict[str, np.ndarray]:
        """Give the first ones as arrays by name.

        Args:
            size: how many.
        """
        return {name: values[:size] for name, values in vars(self).items()}

    def continued(self, size: int) -> Decisions:
        """Make room for so many tracklets in all.

        Args:
            size: T.
        """
        longer = Decisions.none(size)
        for name, values in vars(self).items():
            getattr(longer, name)[: len(values)] = values
        return longer


def decide(
    reduced: Reduced,
    compared: Compared,
    constraints: Constraints,
    threshold: float,
    decisions: Decisions,
    keep: Callable[[], object] = lambda: None,
    every: float = 30.0,
) -> None:
    """Decide tracklets in the order in which they stand, from the first that is not decided yet.

    Args:
        reduced: T tracklets, those that are decided first.
        compared: how they are compared.
        constraints: on them.
        threshold: below it a tracklet joins an identity.
        decisions: of T; those that are made are added.
        keep: called now and then, at the end, and when the work is interrupted.
        every: seconds between these calls.

    Raises:
        ValueError: a threshold that cannot be, or a correction contradicts what is decided already.
    """
    check_threshold(threshold)
    made, size = decisions.made, len(reduced)
    _check_decided(reduced, constraints, decisions, made)
    padded = np.zeros((-(-size // _CHUNK) * _CHUNK, *reduced.vectors.shape[1:]), np.float32)
    padded[:size] = reduced.vectors
    filled = np.ones(len(padded), np.int64)
    filled[:size] = reduced.filled
    distances, kept_at = TrackletDistances(padded, filled, compared), time.monotonic()
    try:
        bar = tqdm(total=size, initial=made, desc="tracklets", unit="tracklet", leave=False, disable=None)
        with bar:
            for place in range(made, size):
                _decide_one(place, distances, constraints, threshold, decisions)
                bar.update()
                if time.monotonic() - kept_at > every:
                    keep()
                    kept_at = time.monotonic()
    finally:
        keep()


def _decide_one(
    place: int, distances: TrackletDistances, constraints: Constraints, threshold: float, decisions: Decisions
) -> None:
    own = slice(place, place + 1)
    chunks = [distances.block(own, slice(start, start + _CHUNK))[0] for start in range(0, place, _CHUNK)]
    identity = decisions.identity[:place]
    identities = int(identity.max(initial=-1)) + 1
    chosen = identities  # a new one
    if place:
        to_each = np.concatenate(chunks)[:place].astype(np.float64)
        sizes = np.bincount(identity, minlength=identities)
        mean = np.bincount(identity, to_each, identities) / sizes
        apart = np.bincount(identity, constraints.forbidden_to_group(place, place), identities) > 0
        mean[apart] = np.inf
        called_same = np.unique(identity[constraints.together[:place] == constraints.together[place]])
        nearest = int(mean.argmin())
        if len(called_same):
            chosen, decisions.corrected[place] = int(called_same[0]), True
            if apart[chosen]:
                raise ValueError(
                    f"corrections put {constraints.sighted.names[place]} to an identity that it cannot be: "
                    f"{_why_apart(place, identity == chosen, constraints)}; {_STAND}"
                )
        elif mean[nearest] < threshold:
            chosen = nearest
        if chosen < identities:
            members = np.flatnonzero(identity == chosen)
            decisions.nearest[place] = members[to_each[members].argmin()]
            decisions.distance[place] = to_each[members].mean()
            mean[chosen] = np.inf
        if np.isfinite(mean.min()):
            decisions.second[place], decisions.second_identity[place] = mean.min(), mean.argmin()
    decisions.identity[place] = chosen


def _why_apart(place: int, members: np.ndarray, constraints: Constraints) -> str:
    names = constraints.sighted.names
    for member in np.flatnonzero(members).tolist():
        if reason := constraints.reason(member, place):
            return f"of {names[member]} and it, {reason}"
    return "another tracklet that is called the same as it, or as one of theirs, cannot"


def _check_decided(reduced: Reduced, constraints: Constraints, decisions: Decisions, made: int) -> None:
    """Refuse corrections of what is decided already: a decision is made once."""
    for one, other, same in constraints.corrections:
        if one < made and other < made and (decisions.identity[one] == decisions.identity[other]) != same:
            said = "the same" if same else "different people"
            raise ValueError(f"a correction calls {reduced.names[one]} and {reduced.names[other]} {said}: {_STAND}")
    if not any(same for _, _, same in constraints.corrections):
        return
    for group in np.unique(constraints.together[:made]):
        members = np.flatnonzero(constraints.together[:made] == group)
        if len(set(decisions.identity[members].tolist())) > 1:
            said = ", ".join(reduced.names[member] for member in members[:10])
            raise ValueError(f"corrections call {said} the same: {_STAND}")
