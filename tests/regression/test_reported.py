"""What the papers report, held against what was measured here, row by row."""

from __future__ import annotations

import pytest

from fastreid_parts.paper_results import load_ledger

from .held import assert_within, measured


@pytest.mark.dataset
@pytest.mark.parametrize("row", load_ledger().select(built=True), ids=lambda row: row.id)
def test_reported_number_is_reproduced(row):
    assert_within(row, measured(row))
