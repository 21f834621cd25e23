"""One person, one number: tracklets of several cameras in, the identity of each out, with the evidence."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..files import atomic_write
from ..words import count, some_of
from .batch import cluster
from .constraints import Constraints, Rules, placed, unknown_names
from .distances import Compared
from .evidence import Evidence, decisions_explained, explain
from .reduced import Reduced, read_arrays, write_arrays
from .streaming import ANEW, Decisions, decide

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Linking:
    """How tracklets are linked.

    Attributes:
        compared: how two of them are compared.
        threshold: distance below which they, or two groups of them, are one person.
        rules: what is known of cameras.
        corrections: (tracklet, tracklet, whether the person is the same), by name.
        linkage: of batch, see `fastreid_parts.identification.batch.LINKAGES`.
        fingerprint: of the model.
    """

    compared: Compared
    threshold: float
    rules: Rules = field(default_factory=Rules)
    corrections: Sequence[tuple[str, str, bool]] = ()
    linkage: str = "average"
    fingerprint: str = ""

    def constraints(self, reduced: Reduced) -> Constraints:
        """Make the constraints on tracklets.

        Raises:
            ValueError: corrections contradict each other or the rules.
        """
        return Constraints(reduced.sighted, self.rules, placed(self.corrections, reduced.names), reduced.person)

    def check_names(self, reduced: Reduced) -> None:
        """Refuse cameras and tracklets that rules and corrections name and that are not there.

        Raises:
            ValueError: the message says which.
        """
        if unknown := unknown_names(self.rules, self.corrections, reduced.sighted):
            raise ValueError(f"{unknown}: correct the names, or take them out")

    def in_force(self, reduced: Reduced) -> Linking:
        """Leave out what is of cameras and tracklets that are not there."""
        cameras, names = set(reduced.cameras), set(reduced.names)
        rules = replace(
            self.rules,
            overlapping=frozenset(pair for pair in self.rules.overlapping if pair <= cameras),
            travel={pair: times for pair, times in self.rules.travel.items() if cameras.issuperset(pair)},
        )
        corrections = [said for said in self.corrections if names.issuperset(said[:2])]
        return replace(self, rules=rules, corrections=corrections)


@dataclass(frozen=True)
class Identified:
    """T tracklets and known people with their identities.

    Attributes:
        reduced: them, in the order of their arrival.
        identity: (T,) int64, from 0 in the order in which identities began.
        evidence: why.
    """

    reduced: Reduced
    identity: np.ndarray
    evidence: Evidence

    @property
    def labels(self) -> list[str]:
        """What identities are called: a known person's name, or a number, from 1 on.

        Numbers count the identities that began with a tracklet. Those of streaming stay, whoever arrives or is known
        later; one that is also a known person's name has `unknown/` in front.
        """
        called = {int(one): name for one, name in zip(self.identity, self.reduced.people) if name}
        first, names = np.unique(self.identity, return_index=True)[1], set(called.values())
        numbers = np.cumsum([not self.reduced.people[row] for row in first.tolist()]).tolist()
        return [
            called.get(one) or (f"unknown/{number}" if str(number) in names else str(number))
            for one, number in enumerate(numbers)
        ]

    @property
    def new(self) -> np.ndarray:
        """(T,) bool, whether nobody knew the person before: the first tracklet of one who is not a known person."""
        first = np.unique(self.identity, return_index=True)[1]
        new = np.zeros(len(self.identity), bool)
        new[first] = True
        return new & np.array([not name for name in self.reduced.people])

    @property
    def tracklets(self) -> np.ndarray:
        """Rows that are tracklets and no known people, int64."""
        return np.flatnonzero([not name for name in self.reduced.people])


def identify(reduced: Reduced, linking: Linking) -> Identified:
    """Link all tracklets at once; the result does not depend on the order in which they are given.

    Args:
        reduced: tracklets, and known people.
        linking: how.

    Raises:
        ValueError: as `cluster`, `Linking.check_names` and `Linking.constraints`.
    """
    reduced = reduced.in_order()
    linking.check_names(reduced)
    constraints, distances = linking.constraints(reduced), reduced.distances(linking.compared)
    identity, merges = cluster(distances, constraints, linking.threshold, linking.linkage)
    return Identified(reduced, identity, explain(distances, constraints, identity, merges, linking.threshold))


def identify_arriving(
    reduced: Reduced, linking: Linking, state: str | os.PathLike = "", every: float = 30.0
) -> Identified:
    """Link tracklets in the order of their arrival, and go on from what was decided before.

    Args:
        reduced: tracklets and known people; those that are in the state already are passed over, and counted in the
            log.
        linking: how; all but rules and corrections must be as they were. What these name may arrive later, so the log
            has a warning of it.
        state: the file of what was decided, read where it is there, and replaced now and then, in one step: who is
            killed leaves an older state or the new one. Without it, nothing is kept.
        every: seconds between two writes.

    Raises:
        ValueError: the state is damaged or of other settings, or has another tracklet of the same name; as `decide`,
            and as `Linking.constraints`.
    """
    reduced, decisions = reduced.in_order(), Decisions.none(0)
    said = {**vars(linking.compared), "threshold": linking.threshold, "fingerprint": linking.fingerprint}
    if state and os.path.exists(state):
        there, said_there, arrays = read_arrays(state, list(vars(decisions)))
        _check_same(state, said_there, said)
        reduced, decisions = there.followed_by(reduced.take(_arrived(reduced, there))), Decisions(**arrays)
    decisions = decisions.continued(len(reduced))
    if unknown := unknown_names(linking.rules, linking.corrections, reduced.sighted):
        logger.warning("%s: these wait until they are there", unknown)

    def keep() -> None:
        if state and (made := decisions.made):
            part = reduced.take(np.arange(made))
            atomic_write(state, lambda file: write_arrays(file, part, said, **decisions.first(made)))

    constraints, distances = linking.constraints(reduced), reduced.distances(linking.compared)
    decide(reduced, linking.compared, constraints, linking.threshold, decisions, keep, every)
    final = explain(distances, constraints, decisions.identity, (), linking.threshold)
    return Identified(reduced, decisions.identity, decisions_explained(final, decisions, distances))


def _arrived(reduced: Reduced, there: Reduced) -> np.ndarray:
    """Rows that are not decided yet; those that are, and are others than they were, are said.

    Raises:
        ValueError: a tracklet that is decided began at another time, so it is another one.
    """
    place_of = {name: place for place, name in enumerate(there.names)}
    new, known, changed, other = [], 0, [], []
    for row, name in enumerate(reduced.names):
        place = place_of.get(name)
        if place is None:
            new.append(row)
        elif not np.array_equal(reduced.start[row], there.start[place], equal_nan=True):
            other.append((name, reduced.start[row], there.start[place]))
        elif reduced.sizes[row] != there.sizes[place]:
            changed.append(name)
        else:
            known += 1
    if other:
        name, now, before = other[0]
        raise ValueError(
            f"the tracklet {name} begins at {now:.12g} s, and one of that name that begins at {before:.12g} s is "
            f"decided already ({count(len(other), 'such tracklet')}): a tracker that began its numbers anew gives "
            "other tracks old names. Name tracks or cameras otherwise, in a --table for example, take another folder, "
            f"or {ANEW}"
        )
    if known:
        logger.info("%s passed over: decided in an earlier run", count(known, "tracklet"))
    if changed:
        logger.warning(
            "%s passed over, whose images were others when decided: %s. Streaming decides once; give it tracklets that "
            "have ended",
            count(len(changed), "tracklet"),
            some_of(changed, 3),
        )
    return np.array(new, np.int64)


def _check_same(state: str | os.PathLike, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = [f"{name} {there.get(name)} (now {now[name]})" for name in now if there.get(name) != now[name]]
    if differing:
        raise ValueError(f"'{state}' was begun with other settings: {some_of(differing)}; give these again, or {ANEW}")
