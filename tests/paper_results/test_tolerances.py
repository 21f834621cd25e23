"""The ranges follow the rule of rules.yml, written out here."""

from __future__ import annotations

import math

import pytest

from fastreid_parts.paper_results import load_ledger
from fastreid_parts.paper_results.tolerances import Range, printed, tolerated_range


def find(variant, dataset, paper="cmbn", source="Table 4"):
    [row] = load_ledger().select(paper=paper, source=source, dataset=dataset, variant=variant)
    return row


def test_a_range_by_hand():
    limits = find("baseline_rb_mg_cds", "Market1501").ranges["mAP"]
    spread = 2 * math.sqrt(79.8 * 20.2 / 3368)  # 3,368 queries
    openness = 0.10 * 20.2  # the paper leaves its recipe open
    assert limits.tolerance == pytest.approx(math.sqrt(spread**2 + openness**2))
    assert limits.low == pytest.approx(79.8 - limits.tolerance)
    assert limits.high == pytest.approx(79.8 + limits.tolerance)
    assert 2.4 < limits.tolerance < 2.5


def test_every_row_has_a_range_with_a_reason():
    for row in load_ledger().rows:
        assert set(row.ranges) == {"mAP", "rank1"}
        for metric, limits in row.ranges.items():
            assert limits.reported == row.metrics[metric]
            assert 0 < limits.tolerance < 10, row.id
        assert "queries" in row.reason and "because" in row.reason


def test_small_test_sets_and_open_recipes_get_wider_ranges():
    market = tolerated_range(80, 3368, 2, 0.10)
    assert tolerated_range(80, 1400, 2, 0.10).tolerance > market.tolerance  # CUHK03-NP
    assert tolerated_range(80, 11659, 2, 0.10).tolerance < market.tolerance  # MSMT17
    assert tolerated_range(80, 3368, 2, 0.025).tolerance < market.tolerance  # known recipe
    assert tolerated_range(70, 3368, 2, 0.10).tolerance > market.tolerance  # larger error
    for metric in ("mAP", "rank1"):
        labeled = find("baseline", "CUHK03NP_labeled").ranges[metric].tolerance
        assert labeled > find("baseline", "Market1501").ranges[metric].tolerance


@pytest.mark.parametrize("dataset", ["Market1501", "DukeMTMC", "CUHK03NP_labeled", "CUHK03NP_detected"])
def test_the_range_of_the_whole_method_tells_it_from_the_baseline(dataset):
    whole, baseline = find("baseline_rb_mg_cds", dataset), find("baseline", dataset)
    assert whole.ranges["mAP"].verdict(baseline.metrics["mAP"]) == "below"
    assert baseline.ranges["mAP"].verdict(whole.metrics["mAP"]) == "above"


def test_verdicts():
    limits = Range(80.0, 3.0, 4.0)
    assert limits.tolerance == 5
    assert [limits.verdict(x) for x in (74.9, 75.0, 80, 85.0, 85.1)] == ["below", "within", "within", "within", "above"]
    with pytest.raises(ValueError, match="nan"):
        limits.verdict(float("nan"))


def test_a_range_stays_a_percentage():
    assert tolerated_range(99, 100, 2, 0.1).high == 100
    assert tolerated_range(1, 100, 2, 0.1).low == 0


def test_numbers_are_shown_as_the_papers_print_them():
    assert [printed(x) for x in (63.0, 79.8, 56.81)] == ["63.0", "79.8", "56.81"]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="180"):
        tolerated_range(180, 100, 2, 0.1)
    with pytest.raises(ValueError, match="queries"):
        tolerated_range(80, 0, 2, 0.1)
