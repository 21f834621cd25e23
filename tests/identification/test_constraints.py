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
)

from .sightings import NO_RULES

CAMERAS = ("", "a", "b", "c")
TRAVEL = {("a", "b"): (3.0, np.inf), ("b", "a"): (1.0, 6.0), ("c", "c"): (2.0, 4.0)}
RULES = Rules(frozenset({frozenset("bc")}), TRAVEL, clock_error=1.0)


def by_hand(one: tuple, other: tuple) -> bool:
    """Forbidden, one pair at a time, as the rules read."""
    (camera, start, end), (camera_b, start_b, end_b) = sorted((one, other), key=lambda t: t[1])
    if not camera or not camera_b or np.isnan(start + end + start_b + end_b):
        return False
    gap = start_b - min(end, end_b)
    if camera == camera_b:
        if gap <= 0:
            return True
        return camera == "c" and not 2 <= gap <= 4
    if {camera, camera_b} == {"b", "c"}:
        return False
    if gap <= -1:
        return True
    least, most = {"ab": (3, np.inf), "ba": (1, 6)}.get(camera + camera_b, (0, np.inf))
    return gap + 1 < least or gap - 1 > most


SEEN = st.tuples(
    st.sampled_from(CAMERAS), st.integers(0, 12).map(lambda n: n / 2), st.integers(0, 6).map(lambda n: n / 2)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SEEN, min_size=2, max_size=6, unique_by=lambda seen: seen[1]), st.booleans())
def test_rules_are_what_they_say(seen: list[tuple[str, float, float]], unknown: bool) -> None:
    rows = [(camera, start, start + length) for camera, start, length in seen]
    if unknown:
        rows[0] = (rows[0][0], np.nan, rows[0][2])
    cameras, start, end = zip(*rows)
    names = [str(number) for number in range(len(rows))]
    constraints = Constraints(Sighted(names, cameras, np.array(start), np.array(end)), RULES)
    every = np.arange(len(rows))
    found = constraints.forbidden(every, every)
    for a, b in itertools.product(range(len(rows)), repeat=2):
        if not np.isnan(rows[a][1] + rows[b][1]):
            assert found[a, b] == (a != b and by_hand(rows[a], rows[b])), (rows[a], rows[b])
        else:
            assert not found[a, b]
        assert bool(constraints.reason(a, b)) == found[a, b]


def four(corrections: Sequence[tuple[int, int, bool]] = (), rules: Rules = NO_RULES) -> Constraints:
    start = np.array([0.0, 5.0, 20.0, 21.0])
    return Constraints(Sighted(["w", "x", "y", "z"], ["a", "a", "a", "b"], start, start + 6), rules, corrections)


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
    with pytest.raises(ValueError, match="none of the corrections is of these tracklets: there is no x, y, z"):
        placed(read_corrections(table), ["v"])
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
