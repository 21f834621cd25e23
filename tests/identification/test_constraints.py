"""Who cannot be one person: by camera and time, travel times and corrections."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreid_parts.identification.constraints import (
    Constraints,
    Rules,
    Sighted,
    placed,
    read_corrections,
    read_travel_times,
    unknown_names,
)

from .sightings import NO_RULES

CAMERAS = ("", "a", "b", "c")
TRAVEL = {("a", "b"): (3.0, np.inf), ("b", "a"): (1.0, 6.0), ("c", "c"): (2.0, 4.0)}
RULES = Rules(frozenset({frozenset("bc")}), TRAVEL, clock_error=1.0)


def by_hand(one: tuple, other: tuple, framed: bool) -> bool:
    """Forbidden, one pair at a time, as the rules read; tracklets may touch unless both times are numbers of frames."""
    (camera, start, end), (camera_b, start_b, end_b) = sorted((one, other), key=lambda t: t[1])
    if not camera or not camera_b or np.isnan(start + end + start_b + end_b):
        return False
    gap = start_b - min(end, end_b)
    if camera == camera_b:
        if gap < 0 or (gap == 0 and framed):
            return True
        return camera == "c" and not 2 <= gap <= 4
    if {camera, camera_b} == {"b", "c"}:
        return False
    if gap < -1 or (gap == -1 and framed):
        return True
    least, most = {"ab": (3, np.inf), "ba": (1, 6)}.get(camera + camera_b, (0, np.inf))
    return gap + 1 < least or gap - 1 > most


SEEN = st.tuples(
    st.sampled_from(CAMERAS), st.integers(0, 12).map(lambda n: n / 2), st.integers(0, 6).map(lambda n: n / 2)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SEEN, min_size=2, max_size=6, unique_by=lambda seen: seen[1]), st.booleans(), st.integers(0, 6))
def test_rules_are_what_they_say(seen: list[tuple[str, float, float]], unknown: bool, of_frames: int) -> None:
    rows = [(camera, start, start + length) for camera, start, length in seen]
    if unknown:
        rows[0] = (rows[0][0], np.nan, rows[0][2])
    cameras, start, end = zip(*rows)
    names = [str(number) for number in range(len(rows))]
    every = np.arange(len(rows))
    framed = every < of_frames
    constraints = Constraints(Sighted(names, cameras, np.array(start), np.array(end), framed), RULES)
    found = constraints.forbidden(every, every)
    for a, b in itertools.product(range(len(rows)), repeat=2):
        if not np.isnan(rows[a][1] + rows[b][1]):
            expected = a != b and by_hand(rows[a], rows[b], framed[a] and framed[b])
            assert found[a, b] == expected, (rows[a], rows[b])
        else:
            assert not found[a, b]
        assert bool(constraints.reason(a, b)) == found[a, b]


def four(corrections: Sequence[tuple[int, int, bool]] = (), rules: Rules = NO_RULES) -> Constraints:
    start = np.array([0.0, 5.0, 20.0, 21.0])
    return Constraints(Sighted(["w", "x", "y", "z"], ["a", "a", "a", "b"], start, start + 6), rules, corrections)


def test_seconds_may_touch_and_frames_do_not() -> None:
    """A tracker splits a person's track: it ends at 31 s and begins at 31 s, as a table has it in whole seconds."""
    start, end = np.array([0.0, 31.0]), np.array([31.0, 60.0])
    said = ["till/12", "till/13"], ["till", "till"], start, end
    pair = np.array([0]), np.array([1])
    for framed in (None, np.array([True, False])):
        constraints = Constraints(Sighted(*said, framed))
        assert not constraints.forbidden(*pair).any() and constraints.reason(0, 1) == ""
    constraints = Constraints(Sighted(*said, np.ones(2, bool)))
    assert constraints.forbidden(*pair).all()
    assert constraints.reason(0, 1) == "both are seen from 31 to 31 s, under camera till"


def test_reasons() -> None:
    assert four().reason(0, 1) == "both are seen from 5 to 6 s, under camera a"
    assert four().reason(2, 3) == "both are seen from 21 to 26 s, under camera a and camera b"
    slow = four(rules=Rules(travel={("a", "b"): (30.0, 40.0)}))
    assert slow.reason(1, 3) == "10 s apart under camera a and camera b, where a person takes at least 30 s"
    late = four(rules=Rules(travel={("b", "a"): (1.0, 4.0)}))
    assert late.reason(0, 3) == "15 s apart under camera a and camera b, where a person takes at most 4 s"
    assert four([(0, 2, False)]).reason(2, 0) == "a correction says that they are different people"
    assert four([(0, 2, False)]).forbidden(np.array([0, 2]), np.array([0, 2])).tolist() == [
        [False, True],
        [True, False],
    ]


def test_corrections_that_contradict() -> None:
    assert four([(0, 2, True), (1, 3, True)]).together.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"they say w = y = x, but w and x cannot be one person: both are seen from 5"):
        four([(0, 2, True), (2, 1, True)])
    with pytest.raises(ValueError, match=r"they say y = z, but y and z cannot be one person: both are seen from 21"):
        Constraints(
            Sighted(["w", "y", "z"], ["a", "a", "b"], np.array([0.0, 20, 21]), np.array([6.0, 26, 27])),
            corrections=[(0, 2, True), (2, 1, True)],
        )
    with pytest.raises(ValueError, match="they say w = y, but w and y cannot be one person: a correction says"):
        four([(0, 2, True), (0, 2, False)])


def test_what_waits_for_a_tracklet_that_is_called_the_same() -> None:
    constraints = four([(0, 3, True)])  # w = z, and z overlaps y
    assert constraints.forbidden_to_group(0, 3).tolist() == [False, True, True]
    assert constraints.forbidden_to_group(2, 2).tolist() == [True, False]
    assert four().forbidden_to_group(2, 2).tolist() == [False, False]


def test_tables(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("camera_a,camera_b,least_seconds,most_seconds\na,b,3,\nb,a,,6.5\n")
    assert read_travel_times(table) == {("a", "b"): (3.0, np.inf), ("b", "a"): (0.0, 6.5)}
    for line in ("a,b,-1,", "a,b,7,3", "a,,1,", "a,b,soon,", "a,b,nan,", "a,b,inf,"):
        table.write_text(f"camera_a,camera_b,least_seconds,most_seconds\n{line}\n")
        with pytest.raises(ValueError, match="line 2: two cameras and their least"):
            read_travel_times(table)
    table.write_text("camera_a,camera_b,least_seconds\na,b,1\na,b,2\n")
    with pytest.raises(ValueError, match="line 3: from a to b is there twice"):
        read_travel_times(table)
    table.write_text("tracklet_a,tracklet_b,same\nx,y,1\ny,z,0\n")
    assert read_corrections(table) == [("x", "y", True), ("y", "z", False)]
    assert placed(read_corrections(table), ["z", "y"]) == [(1, 0, False)]
    assert placed(read_corrections(table), ["v"]) == []
    table.write_text("tracklet_a,tracklet_b,same\nx,y,1\ny,x,0\n")
    with pytest.raises(ValueError, match="line 3: y and x are called the same and different people"):
        read_corrections(table)
    for line in ("x,x,1", "x,,1", "x,y,2", "x,y,"):
        table.write_text(f"tracklet_a,tracklet_b,same\n{line}\n")
        with pytest.raises(ValueError, match="line 2: two tracklets and 1 or 0"):
            read_corrections(table)


def test_rules_that_cannot_be() -> None:
    impossible: tuple[dict[str, Any], ...] = (
        {"clock_error": -1.0}, {"clock_error": np.nan}, {"overlapping": [frozenset("a")]},
                  {"travel": {("a", "b"): (3.0, 1.0)}},
                  {"travel": {("a", "b"): (3.0, 9.0)}, "overlapping": [frozenset("ab")]},
    )  # fmt: skip
    for rules in impossible:
        with pytest.raises(ValueError):
            Rules(**rules)


def test_names_that_are_not_there_are_said() -> None:
    rules = Rules(frozenset({frozenset(("a", "B"))}), {("a", "b"): (3.0, np.inf), ("A", "b"): (1.0, 2.0)})
    sighted = four().sighted
    said = unknown_names(rules, [("w", "x", True), ("w", "X", False)], sighted)
    assert said == (
        "no tracklet is of a camera B, which overlapping views name; no tracklet is of a camera A, which travel times "
        "name; the cameras are a, b; there is no tracklet X, which corrections name"
    )
    assert unknown_names(Rules(travel={("a", "b"): (3.0, np.inf)}), [("w", "x", True)], sighted) == ""
