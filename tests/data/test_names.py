"""Names of identities and cameras, and the numbers in between."""

from __future__ import annotations

import numpy as np

from fastreid_parts.data.names import BY_NUMBER, Names, columns_of, joined, names_of, number_cameras, number_identities


def test_whole_numbers_are_themselves_and_other_names_are_in_order() -> None:
    assert number_identities(["7", "12", "7", "0", ""]) == {"0": 0, "7": 7, "12": 12}
    assert number_identities(["7", "hana", "gus"]) == {"7": 3, "gus": 1, "hana": 2}
    assert number_identities(["7", "07"]) == {"07": 1, "7": 2}
    assert number_cameras(["3", "1"]) == {"1": 0, "3": 2}
    assert number_cameras(["0", "1"]) == {"0": 0, "1": 1}
    assert list(number_identities(["9" * 30]).values()) == [1]  # which is no int64


def test_what_numbers_are_called() -> None:
    assert (BY_NUMBER.identity(7), BY_NUMBER.camera(2), BY_NUMBER.identity(-1), BY_NUMBER.camera(-1)) == (
        7,
        3,
        None,
        None,
    )
    names = Names.of(number_identities(["gus"]), number_cameras(["2", "5"]))
    assert names == Names({1: "gus"}, {}) and names.identity(np.int64(1)) == "gus" and names.camera(4) == 5


def test_names_come_back_from_their_numbers() -> None:
    for identities, cameras in (
        (["gus", "", "7", "gus"], ["door", "", "", "2"]),
        (["4", "", "0", "4"], ["1", "6", "", "1"]),
    ):
        pids, camids, names = columns_of(identities, cameras)
        assert names_of(pids, camids, names) == (identities, cameras)
        assert pids[0] == pids[3] and pids[1] == -1 and pids.dtype == camids.dtype == np.int64


def test_joining_goes_by_name() -> None:
    first, second = columns_of(["gus", "hana"], ["1", "2"]), columns_of(["eva", "gus"], ["2", "x"])
    pids, camids, names = joined([first, second])
    assert names_of(pids, camids, names) == (["gus", "hana", "eva", "gus"], ["1", "2", "2", "x"])
    same = joined([first, first])
    assert same[2] is first[2] and same[0].tolist() == [1, 2, 1, 2]
