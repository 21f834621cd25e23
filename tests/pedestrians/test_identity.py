"""Drawn people: look-alikes in groups, told apart by details."""

from __future__ import annotations

from fastreid_parts.pedestrians import sample_identities
from fastreid_parts.pedestrians.identity import GROUP_SIZE, MIN_DIFFERENCES, _differences


def test_look_alikes_share_garments_and_differ_in_details():
    train, test = sample_identities(0, 0, 40), sample_identities(0, 1, 40)
    assert sample_identities(0, 0, 8) == train[:8]
    assert not set(train) & set(test)
    for people in (train, test):
        for start in range(0, 40, GROUP_SIZE):
            group = people[start : start + GROUP_SIZE]
            assert len({(p.top.kind, p.top.color, p.bottom.kind, p.bottom.color) for p in group}) == 1
            pairs = [(a, b) for i, a in enumerate(group) for b in group[:i]]
            assert all(_differences(a, b) >= MIN_DIFFERENCES for a, b in pairs)
    assert {p.top.color for p in test} & {p.top.color for p in train}  # one wardrobe
