"""Who cannot be one person, by camera and time; and what a person who looked said of two tracklets.

Nobody is at two places at once: two tracklets that overlap in time are different people, under one camera always, and
under two unless these see the same place. One that ends when the other begins overlaps it where both times are numbers
of frames, since one frame shows both; seconds of a table are rounded, and may touch. Nor is anybody faster than a least
travel time. What is unknown of a tracklet forbids nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from ..data.tables import read_table
from ..words import some_of

_TRAVEL = ("camera_a", "camera_b", "least_seconds")
_MOST = "most_seconds"
_CORRECTIONS = ("tracklet_a", "tracklet_b", "same")
_SAME = {"1": True, "0": False}


@dataclass(frozen=True)
class Rules:
    """What is known of cameras.

    Attributes:
        overlapping: pairs of cameras that see the same place, in which one person can be at one time.
        travel: (camera, camera) -> least and most seconds from leaving the first to entering the second; also between
            two tracklets of one camera. The way back takes as long unless it is there as well. More than `most` is
            forbidden between any two tracklets: give it only where nobody comes back later.
        clock_error: by how many seconds the clocks of two cameras may differ.

    Raises:
        ValueError: a time that cannot be, or a travel time between cameras that see the same place.
    """

    overlapping: Collection[frozenset[str]] = frozenset()
    travel: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    clock_error: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.clock_error < np.inf:
            raise ValueError(f"clocks differ by a number of seconds from 0 on, got {self.clock_error}")
        for pair in self.overlapping:
            if len(pair) != 2:
                raise ValueError("two different cameras see the same place; one camera's tracklets never overlap")
        for (one, other), (least, most) in self.travel.items():
            if not 0 <= least <= most:
                raise ValueError(f"from {one} to {other}: seconds from 0 on, least before most, got {least}, {most}")
            if frozenset((one, other)) in self.overlapping:
                raise ValueError(f"cameras {one} and {other} see the same place: there is no travel time between them")


def read_travel_times(path: str | os.PathLike) -> dict[tuple[str, str], tuple[float, float]]:
    """Read a table with the columns camera_a, camera_b, least_seconds, and most_seconds where there is such a time.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a column or a value is missing or cannot be; the line is named.
    """
    travel: dict[tuple[str, str], tuple[float, float]] = {}
    for number, line in read_table(path, _TRAVEL, (_MOST,)):
        pair = line["camera_a"], line["camera_b"]
        try:
            least, most = float(line["least_seconds"] or 0), float(line[_MOST] or np.inf)
        except ValueError:
            least, most = np.nan, np.nan
        if not all(pair) or not 0 <= least <= most or least == np.inf:
            raise ValueError(f"'{path}', line {number}: two cameras and their least (and most) seconds are needed")
        if pair in travel:
            raise ValueError(f"'{path}', line {number}: from {pair[0]} to {pair[1]} is there twice")
        travel[pair] = least, most
    return travel


class Sighted(NamedTuple):
    """When and where T tracklets were seen.

    Attributes:
        names: T.
        cameras: T, "" where unknown.
        start: (T,) float64 seconds, NaN where unknown.
        end: (T,) float64 seconds.
        framed: (T,) bool, whether these are numbers of frames; None where none is.
    """

    names: Sequence[str]
    cameras: Sequence[str]
    start: np.ndarray
    end: np.ndarray
    framed: np.ndarray | None = None


class Constraints:
    """Which of T tracklets cannot be one person.

    Args:
        sighted: when and where they were seen.
        rules: what is known of cameras.
        corrections: pairs of tracklets of which it was said whether the person is the same.
        people: (T,) int64 of known people, -1 for tracklets: two known people are different.

    Attributes:
        corrections: as they were given.
        together: (T,) int64, the same for tracklets that a correction, or several in a row, call the same person.

    Raises:
        ValueError: corrections contradict each other or the rules; the message says which.
    """

    def __init__(
        self,
        sighted: Sighted,
        rules: Rules = Rules(),
        corrections: Sequence[tuple[int, int, bool]] = (),
        people: np.ndarray | None = None,
    ) -> None:
        self.sighted, self.rules = sighted, rules
        self._framed = np.zeros(len(sighted.names), bool) if sighted.framed is None else sighted.framed
        self.people = np.full(len(sighted.names), -1, np.int64) if people is None else people
        places = {name: number for number, name in enumerate(sorted(set(sighted.cameras)))}
        self._camera = np.array([places[name] if name else -1 for name in sighted.cameras], np.int64)
        cameras = len(places), len(places)
        self._least, self._most = np.full(cameras, -np.inf), np.full(cameras, np.inf)
        for (one, other), (least, most) in rules.travel.items():
            for a, b in ((one, other), (other, one)):
                if a in places and b in places and ((a, b) == (one, other) or (a, b) not in rules.travel):
                    self._least[places[a], places[b]], self._most[places[a], places[b]] = least, most
        self._see_same = np.zeros(cameras, bool)
        for pair in rules.overlapping:
            seen = [places[name] for name in pair if name in places]
            if len(seen) == 2:
                self._see_same[seen, seen[::-1]] = True
        self.corrections = corrections
        self._has_same = any(same for _, _, same in corrections)
        different = [(a, b) for a, b, same in corrections if not same]
        self._different = {(min(pair), max(pair)) for pair in different}
        self._apart = _symmetric(different, len(sighted.names))
        self._same = _symmetric([(a, b) for a, b, same in corrections if same], len(sighted.names))
        self.together = connected_components(self._same)[1].astype(np.int64)
        self._check_corrections()

    def forbidden(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Tell which pairs of tracklets cannot be one person.

        Args:
            rows: (R,) of them.
            columns: (C,) of them.

        Returns:
            (R, C) bool.
        """
        answer = self._by_time(rows, columns)
        answer |= (self.people[rows, None] >= 0) & (self.people[None, columns] >= 0)
        answer &= rows[:, None] != columns[None]
        if self._different:
            answer |= self._apart[rows][:, columns].toarray() > 0
        return answer

    def forbidden_to_group(self, one: int, size: int) -> np.ndarray:
        """Tell which of the first tracklets cannot be one person with one, nor can any that are called the same.

        Those that corrections call the same as one of the two count also where they come later.

        Args:
            one: a tracklet.
            size: how many others, from the first.

        Returns:
            (size,) bool.
        """
        if not self._has_same:
            return self.forbidden(np.array([one]), np.arange(size))[0]
        group = np.flatnonzero(self.together == self.together[one])
        answer = self.forbidden(group, np.arange(len(self.together))).any(axis=0)
        return (np.bincount(self.together, answer) > 0)[self.together[:size]]

    def _by_time(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        start, end = self.sighted.start, self.sighted.end
        one, other = self._camera[rows, None], self._camera[None, columns]
        gap = np.maximum(start[rows, None], start[None, columns]) - np.minimum(end[rows, None], end[None, columns])
        error = np.where(one == other, 0.0, self.rules.clock_error)
        with np.errstate(invalid="ignore"):
            answer = _at_once(gap, error, self._framed[rows, None] & self._framed[None, columns])
            answer &= ~self._see_same[one, other]
            if self.rules.travel:
                forth = start[rows, None] <= start[None, columns]
                least = np.where(forth, self._least[one, other], self._least[other, one])
                most = np.where(forth, self._most[one, other], self._most[other, one])
                answer |= (gap + error < least) | (gap - error > most)
        return answer & (one >= 0) & (other >= 0)

    def reason(self, one: int, other: int) -> str:
        """Say why two tracklets cannot be one person; "" where they can.

        Args:
            one: a tracklet.
            other: another.
        """
        if (min(one, other), max(one, other)) in self._different:
            return "a correction says that they are different people"
        pair = np.array([one]), np.array([other])
        if not self.forbidden(*pair)[0, 0]:
            return ""
        if self.people[one] >= 0 and self.people[other] >= 0:
            return "they are two known people"
        _, cameras, start, end, _ = self.sighted
        first, then = (one, other) if start[one] <= start[other] else (other, one)
        gap = start[then] - end[first]
        where = f"camera {cameras[first]}" + ("" if cameras[first] == cameras[then] else f" and camera {cameras[then]}")
        error = 0.0 if cameras[first] == cameras[then] else self.rules.clock_error
        if _at_once(gap, error, self._framed[one] & self._framed[other]):
            until = min(end[one], end[other])
            return f"both are seen from {start[then]:.12g} to {until:.12g} s, under {where}"
        least, most = (float(m[self._camera[first], self._camera[then]]) for m in (self._least, self._most))
        takes = f"at least {least:g}" if gap < least else f"at most {most:g}"
        return f"{gap:.6g} s apart under {where}, where a person takes {takes} s"

    def _check_corrections(self) -> None:
        """Refuse tracklets that are called the same, in a row, and cannot be."""
        if not self._has_same:
            return
        sizes = np.bincount(self.together)
        for group in np.flatnonzero(sizes > 1):
            members = np.flatnonzero(self.together == group)
            rows, columns = np.nonzero(np.triu(self.forbidden(members, members), 1))
            if len(rows):
                one, other = int(members[rows[0]]), int(members[columns[0]])
                chain = " = ".join(self.sighted.names[place] for place in self._chain(one, other))
                raise ValueError(
                    f"corrections contradict what is known: they say {chain}, but {self.sighted.names[one]} and "
                    f"{self.sighted.names[other]} cannot be one person: {self.reason(one, other)}. Take one of the "
                    "corrections out, or change the rule"
                )

    def _chain(self, one: int, other: int) -> list[int]:
        """Of corrections that lead from one tracklet to another, the fewest."""
        _, before = breadth_first_order(self._same, one, directed=False)
        chain = [other]
        while chain[-1] != one:
            chain.append(int(before[chain[-1]]))
        return chain[::-1]


def _symmetric(pairs: Sequence[tuple[int, int]], size: int) -> coo_matrix:
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    ones = np.ones(2 * len(pairs), np.int32)
    return coo_matrix((ones, (np.r_[one, other], np.r_[other, one])), (size, size)).tocsr()


def read_corrections(path: str | os.PathLike) -> list[tuple[str, str, bool]]:
    """Read a table with the columns tracklet_a, tracklet_b, same (1 or 0).

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a column or a value is missing or cannot be, or a pair is called both; the line is named.
    """
    said: dict[frozenset[str], bool] = {}
    pairs = []
    for number, line in read_table(path, _CORRECTIONS):
        one, other, same = line["tracklet_a"], line["tracklet_b"], _SAME.get(line["same"])
        if not one or not other or one == other or same is None:
            raise ValueError(f"'{path}', line {number}: two tracklets and 1 or 0 for 'same' are needed")
        if said.setdefault(frozenset((one, other)), same) != same:
            raise ValueError(f"'{path}', line {number}: {one} and {other} are called the same and different people")
        pairs.append((one, other, same))
    return pairs


def placed(pairs: Sequence[tuple[str, str, bool]], names: Sequence[str]) -> list[tuple[int, int, bool]]:
    """Find the tracklets that corrections name; pairs of which one is not there are left out.

    Args:
        pairs: as `read_corrections` gives them.
        names: of the tracklets.
    """
    places = {name: place for place, name in enumerate(names)}
    return [(places[a], places[b], same) for a, b, same in pairs if a in places and b in places]


def _at_once(gap: Any, error: Any, framed: Any) -> Any:
    """Whether tracklets overlap in time; those that touch do where both times are numbers of frames."""
    return (gap < -error) | ((gap == -error) & framed)


def unknown_names(rules: Rules, corrections: Sequence[tuple[str, str, bool]], sighted: Sighted) -> str:
    """Say which cameras and tracklets that rules and corrections name are not there; "" where all are.

    Args:
        rules: what is known of cameras.
        corrections: as `read_corrections` gives them.
        sighted: the tracklets.
    """
    cameras = {name for name in sighted.cameras if name}
    lacking = {
        "overlapping views": {name for pair in rules.overlapping for name in pair} - cameras,
        "travel times": {name for pair in rules.travel for name in pair} - cameras,
    }
    said = [f"no tracklet is of a camera {some_of(sorted(names), 3)}, which {what} name" for what, names in
            lacking.items() if names]  # fmt: skip
    if said:
        said.append(f"the cameras are {some_of(sorted(cameras)) or 'unknown'}")
    names = set(sighted.names)
    if absent := [name for pair in corrections for name in pair[:2] if name not in names]:
        said.append(f"there is no tracklet {some_of(absent, 3)}, which corrections name")
    return "; ".join(said)
