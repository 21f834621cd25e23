"""The table of an index's images: a row is an image's number for good."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_parts.evaluation import Features
from fastreid_parts.retrieval.image_table import ImageTable


def test_the_table_counts_rows_once() -> None:
    table = ImageTable(np.array([1, 4]), ["b", "e"], np.array([7, 8]), np.array([0, 1]), next_row=6)
    assert (
        len(table) == 2 and table.paths == ["", "b", "", "", "e", ""] and table.pids.tolist() == [-1, 7, -1, -1, 8, -1]
    )
    assert table.find([4], ["b"], [8]).tolist() == [1, 4]
    with pytest.raises(ValueError, match="no image of row '0'"):
        table.find([0], None, None)


def test_rows_are_kept_and_never_given_again() -> None:
    table = ImageTable(np.array([0, 2]), ["a", "c"], np.array([7, 8]), np.array([0, 1]), next_row=3)
    table.remove(np.array([2]))
    assert len(table) == 1 and table.paths == ["a", "", ""] and table.pids.tolist() == [7, -1, -1]
    more = Features(np.zeros((2, 4), np.float32), np.array([8, 9]), np.array([2, 3]), ["c", "d"])
    assert table.append(more).tolist() == [3, 4]
    assert table.paths == ["a", "", "", "c", "d"] and table.present.tolist() == [True, False, False, True, True]
    assert table.pids.tolist() == [7, -1, -1, 8, 9] and table.camids.tolist() == [0, -1, -1, 2, 3]
    assert table.find(None, None, [7, 9]).tolist() == [0, 4] and table.find(None, None, None).tolist() == []
    with pytest.raises(ValueError, match=r"no image of path 'e' in the index \(2 such\)"):
        table.find(None, ["e", "f", "d"], None)
    table.check_new(["b", "", ""])  # an image without a file may be there already
    with pytest.raises(ValueError, match="2 of 3 images are in the index already, the first is 'c'"):
        table.check_new(["c", "b", "a"])
