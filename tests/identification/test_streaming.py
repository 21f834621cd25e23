"""Decisions in the order of arrival: by what came before, the same after an interruption, never half written."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastreid_parts.identification.constraints import Constraints, Rules
from fastreid_parts.identification.distances import Compared
from fastreid_parts.identification.identities import Identified, Linking, identify, identify_arriving
from fastreid_parts.identification.reduced import Reduced, read_arrays, reduce_tracklets
from fastreid_parts.identification.tracklets import Tracklets

from ..forks import killed_at
from .sightings import MEANS, walks

LINKS: tuple[Callable[[Reduced, Linking], Identified], ...] = (identify, identify_arriving)
RULES = Rules(travel={("c0", "c1"): (8.0, np.inf)})


def tracklets(**changes: Any) -> Tracklets:
    features, of, names, cameras, start, end, who = walks(**changes)
    paths = [f"{names[place]}/{row}.jpg" for row, place in enumerate(of)]
    return Tracklets(features, of, paths, names, cameras, start, end, who, "abc", "")


def reduced(compared: Compared = MEANS, **changes: Any) -> Reduced:
    return reduce_tracklets(tracklets(**changes), compared)


def everything(found: Identified) -> list:
    evidence = found.evidence
    arrays = (evidence.distance, evidence.second, evidence.second_identity)
    joins = [tuple(join) for join in evidence.joins]
    return [found.reduced.names, found.identity.tolist(), *(a.tobytes() for a in arrays), repr(joins), evidence.near]


def slow(found: Reduced, compared: Compared, threshold: float) -> list[int]:
    """Each tracklet to the identity with the nearest mean that it may belong to."""
    distances, constraints = found.distances(compared), Linking(compared, threshold, RULES).constraints(found)
    every = np.arange(len(found))
    table, apart = distances.block(every, every).astype(np.float64), constraints.forbidden(every, every)
    groups: list[list[int]] = []
    for place in range(len(found)):
        open_ = [n for n, group in enumerate(groups) if not apart[place, group].any()]
        best = min(((table[place, groups[n]].mean(), n) for n in open_), default=(np.inf, -1))
        if best[0] < threshold:
            groups[best[1]].append(place)
        else:
            groups.append([place])
    return [next(n for n, group in enumerate(groups) if place in group) for place in every]


@pytest.mark.parametrize("compared", [Compared(), Compared("pairs", images=3)], ids=lambda c: c.kind)
def test_it_decides_by_what_came_before(compared: Compared) -> None:
    for seed in range(6):
        there = reduced(compared, noise=0.5, seed=seed)
        found = identify_arriving(there, Linking(compared, 0.25, RULES))
        assert found.identity.tolist() == slow(there.in_order(), compared, 0.25)
        part = identify_arriving(there.in_order().take(np.arange(12)), Linking(compared, 0.25, RULES))
        assert part.identity.tolist() == found.identity[:12].tolist()


@pytest.mark.parametrize("link", LINKS)
def test_the_order_of_the_input_does_not_matter(link: Callable[[Reduced, Linking], Identified]) -> None:
    there = reduced(noise=0.5, people=12)
    twins = there.take(np.r_[np.arange(len(there)), 3])  # equal in all but the name
    twins.names[-1] = "c0/twin"
    linking = Linking(Compared(), 0.3, RULES)
    once = everything(link(twins, linking))
    for seed in range(4):
        shuffled = twins.take(np.random.default_rng(seed).permutation(len(twins)))
        assert everything(link(shuffled, linking)) == once


def test_it_goes_on_from_a_state(tmp_path: Path) -> None:
    there = reduced(noise=0.5, people=12).in_order()
    linking = Linking(Compared(), 0.3, RULES)
    whole = everything(identify_arriving(there, linking))
    state = tmp_path / "state.npz"
    for stop in (1, 10, 11, len(there), len(there)):
        last = identify_arriving(there.take(np.arange(stop)[::-1]), linking, state)
    assert everything(last) == whole
    for changed, what in ((Linking(Compared(), 0.2), "threshold 0.3"), (Linking(Compared("pairs"), 0.3), "kind mean"),
                          (Linking(Compared(), 0.3, fingerprint="x"), "fingerprint")):  # fmt: skip
        with pytest.raises(ValueError, match=f"begun with other settings: {what}.*begin anew"):
            identify_arriving(there, changed, state)
    content = state.read_bytes()
    for damaged in (content[:-100], content[:5000] + b"\0" * 16 + content[5016:], b""):
        state.write_bytes(damaged)
        with pytest.raises(ValueError, match="no state of an identification, or damaged"):
            identify_arriving(there, linking, state)


def test_corrections(tmp_path: Path) -> None:
    there = reduced(noise=0.5, people=12).in_order()
    found = identify_arriving(there, Linking(Compared(), 0.3))
    join = next(join for join in found.evidence.joins if join.one > 2)
    names = found.reduced.names
    apart = Linking(Compared(), 0.3, corrections=[(names[join.one], names[join.other], False)])
    for link in LINKS:
        again = link(there, apart)
        assert again.identity[join.one] != again.identity[join.other]
    state = tmp_path / "state.npz"
    identify_arriving(there, Linking(Compared(), 0.3), state)
    with pytest.raises(ValueError, match="different people: decisions of streaming stand"):
        identify_arriving(there, apart, state)
    # Two that no distance brings together, and that may be one
    constraints = Linking(Compared(), 0.3).constraints(there)
    other = next(
        place for place in range(30, len(there))
        if found.identity[place] != found.identity[0] and not constraints.forbidden_to_group(place, 1)[0]
    )  # fmt: skip
    same = Linking(Compared(), 1e-6, corrections=[(names[0], names[other], True)])
    for link in LINKS:
        again = link(there, same)
        assert again.identity[0] == again.identity[other]
        (one,) = again.evidence.joins
        assert one.corrected and {one.one, one.other} == {0, other} and one.distance > 1e-6
    with pytest.raises(ValueError, match="the same: decisions of streaming stand"):
        identify_arriving(there, Linking(Compared(), 0.3, corrections=same.corrections), state)


def test_known_people_and_numbers() -> None:
    there = reduced(noise=0.2, people=6).in_order()
    rows = [there.truth.index(who) for who in ("1", "4")]
    people = there.take(np.array(rows))
    people = Reduced(
        **{**vars(people), "names": ["known/1", "known/anna"], "people": ["1", "anna"], "cameras": ["", ""],
           "start": np.full(2, np.nan), "end": np.full(2, np.nan)}
    )  # fmt: skip
    for link in LINKS:
        found = link(people.followed_by(there), Linking(Compared(), 0.3))
        labels = [found.labels[one] for one in found.identity]
        assert labels[:2] == ["1", "anna"] and "2" in labels
        for row, name in zip(rows, ("1", "anna")):
            assert labels[found.reduced.names.index(there.names[row])] == name
        new = found.new
        assert not new[:2].any() and new.sum() == len(set(labels)) - 2
        for row in np.flatnonzero(new):
            assert labels[row] not in labels[:row]


def test_who_is_killed_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    there, linking = reduced(noise=0.5, people=6), Linking(Compared(), 0.3, RULES)
    whole = everything(identify_arriving(there, linking))
    state, sizes = tmp_path / "state.npz", []
    for step in range(0, 2 * len(there), 5):  # two steps a write: a flush and a renaming
        assert killed_at(step, lambda: identify_arriving(there, linking, state, every=0.0)) == -signal.SIGKILL
        if state.exists():
            sizes.append(len(read_arrays(state, [])[0]))
        assert everything(identify_arriving(there, linking, state)) == whole
        state.unlink()
        for leftover in tmp_path.iterdir():
            leftover.unlink()
    assert len(set(sizes)) > 5 and max(sizes) <= len(there)


def test_who_interrupts_keeps_what_is_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, linking, state = reduced(noise=0.5, people=6), Linking(Compared(), 0.3, RULES), tmp_path / "state.npz"
    whole = everything(identify_arriving(there, linking))
    forbidden, calls = Constraints.forbidden, iter(range(9))

    def interrupted(self: Constraints, *args: np.ndarray) -> np.ndarray:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return forbidden(self, *args)

    monkeypatch.setattr(Constraints, "forbidden", interrupted)
    with pytest.raises(KeyboardInterrupt):
        identify_arriving(there, linking, state)
    monkeypatch.undo()
    assert len(read_arrays(state, [])[0]) == 10  # the first is compared with nobody
    assert everything(identify_arriving(there, linking, state)) == whole
