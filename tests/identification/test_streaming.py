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


def test_what_is_decided_is_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    there, linking, state = reduced(people=6).in_order(), Linking(Compared(), 0.3), tmp_path / "state.npz"
    once = everything(identify_arriving(there, linking, state))
    with caplog.at_level("INFO"):
        assert everything(identify_arriving(there, linking, state)) == once
    assert f"{len(there)} tracklets passed over: decided in an earlier run" in caplog.text
    caplog.clear()
    grown = Reduced(**{**vars(there), "end": there.end + [9, *[0] * (len(there) - 1)], "sizes": there.sizes.copy()})
    grown.sizes[0] += 3
    with caplog.at_level("INFO"):
        assert everything(identify_arriving(grown, linking, state)) == once
    assert f"1 tracklet passed over, whose images were others when decided: {there.names[0]}. Streaming" in caplog.text
    before = state.read_bytes()
    again = Reduced(**{**vars(there), "start": there.start + 1000, "end": there.end + 1000})  # the tracker began anew
    with pytest.raises(ValueError, match=rf"{there.names[0]} begins at .*{len(there)} such tracklets.*--table.*anew"):
        identify_arriving(again, linking, state)
    assert state.read_bytes() == before


def test_a_state_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It does not say which times are of frames: all are taken so, as they were."""
    there, linking, state = reduced(people=6).in_order(), Linking(Compared(), 0.3), tmp_path / "state.npz"
    identify_arriving(there, linking, state)
    with np.load(state) as stored:
        arrays = {name: stored[name] for name in stored if name != "framed"}
    with state.open("wb") as file:
        np.savez(file, **arrays)
    assert identify_arriving(there, linking, state).reduced.framed.all()


def test_names_that_are_not_there(caplog: pytest.LogCaptureFixture) -> None:
    there = reduced(people=6)
    names = there.names[0], there.names[-1]
    rules = Rules(frozenset({frozenset(("c0", "c7"))}), {("c0", "c1"): (1.0, np.inf), ("c1", "c7"): (1.0, np.inf)})
    linking = Linking(Compared(), 0.3, rules, [(*names, False), (names[0], "c7/1", True)])
    with pytest.raises(
        ValueError, match="camera c7, which overlapping views name.*no tracklet c7/1.*correct the names"
    ):
        identify(there, linking)
    identify_arriving(there, linking)
    assert "no tracklet c7/1, which corrections name: these wait until they are there" in caplog.text
    held = linking.in_force(there)
    assert held.corrections == [(*names, False)] and list(held.rules.travel) == [("c0", "c1")]
    assert not held.rules.overlapping
    identify(there, held)


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


def test_labels_stay_when_people_are_known_later(tmp_path: Path) -> None:
    there, state = reduced(noise=0.1, people=5, visits=1).in_order(), tmp_path / "state.npz"
    linking = Linking(Compared(), 1e-6)
    found = identify_arriving(there, linking, state)
    assert [found.labels[one] for one in found.identity] == ["1", "2", "3", "4", "5"]
    people = there.take(np.array([1, 2]))
    people = Reduced(
        **{**vars(people), "names": ["known/anna", "known/4"], "people": ["anna", "4"], "cameras": ["", ""],
           "start": np.full(2, np.nan), "end": np.full(2, np.nan)}
    )  # fmt: skip
    found = identify_arriving(people.followed_by(there), linking, state)
    of = dict(zip(found.reduced.names, (found.labels[one] for one in found.identity)))
    assert [of[name] for name in there.names] == ["1", "anna", "4", "unknown/4", "5"]


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
