"""One person, one number: tracklets of several cameras in, the identity of each out, with the evidence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..files import atomic_write
from ..words import some_of
from .batch import cluster
from .constraints import Constraints, Rules, placed
from .distances import Compared
from .evidence import Evidence, decisions_explained, explain
from .reduced import Reduced, read_arrays, write_arrays
from .streaming import Decisions, decide


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
            ValueError: corrections are of none of them, or contradict each other or the rules.
        """
        return Constraints(reduced.sighted, self.rules, placed(self.corrections, reduced.names), reduced.person)


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
        """What identities are called: a known person's name, or a number, from 1 on."""
        called = {int(one): name for one, name in zip(self.identity, self.reduced.people) if name}
        numbers = (str(number) for number in range(1, len(self.identity) + 1 + len(called)))
        free = (number for number in numbers if number not in called.values())
        return [called.get(one) or next(free) for one in range(int(self.identity.max()) + 1)]

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
        ValueError: as `cluster`, and as `Linking.constraints`.
    """
    reduced = reduced.in_order()
    constraints, distances = linking.constraints(reduced), reduced.distances(linking.compared)
    identity, merges = cluster(distances, constraints, linking.threshold, linking.linkage)
    return Identified(reduced, identity, explain(distances, constraints, identity, merges, linking.threshold))


def identify_arriving(
    reduced: Reduced, linking: Linking, state: str | os.PathLike = "", every: float = 30.0
) -> Identified:
    """Link tracklets in the order of their arrival, and go on from what was decided before.

    Args:
        reduced: tracklets and known people; those that are in the state already are passed over.
        linking: how; all but rules and corrections must be as they were.
        state: the file of what was decided, read where it is there, and replaced now and then, in one step: who is
            killed leaves an older state or the new one. Without it, nothing is kept.
        every: seconds between two writes.

    Raises:
        ValueError: the state is damaged or of other settings; as `decide`, and as `Linking.constraints`.
    """
    reduced, decisions = reduced.in_order(), Decisions.none(0)
    said = {**vars(linking.compared), "threshold": linking.threshold, "fingerprint": linking.fingerprint}
    if state and os.path.exists(state):
        there, said_there, arrays = read_arrays(state, list(vars(decisions)))
        _check_same(state, said_there, said)
        known = set(there.names)
        rows = np.array([row for row, name in enumerate(reduced.names) if name not in known], np.int64)
        reduced, decisions = there.followed_by(reduced.take(rows)), Decisions(**arrays)
    decisions = decisions.continued(len(reduced))

    def keep() -> None:
        if state and (made := decisions.made):
            part = reduced.take(np.arange(made))
            atomic_write(state, lambda file: write_arrays(file, part, said, **decisions.first(made)))

    constraints, distances = linking.constraints(reduced), reduced.distances(linking.compared)
    decide(reduced, linking.compared, constraints, linking.threshold, decisions, keep, every)
    final = explain(distances, constraints, decisions.identity, (), linking.threshold)
    return Identified(reduced, decisions.identity, decisions_explained(final, decisions, distances))


def _check_same(state: str | os.PathLike, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = [f"{name} {there.get(name)} (now {now[name]})" for name in now if there.get(name) != now[name]]
    if differing:
        raise ValueError(
            f"'{state}' was begun with other settings: {some_of(differing)}; give these again, or begin anew "
            "(--overwrite)"
        )
